//! Everything worth telling, as plain data, with its severity and its one human line.
//!
//! Decides which words an event is told in; does not know where it is told (journal, history, status, hooks) nor why
//! it happened. Pure. Invariant: a line says what changed and why, and, where somebody must act, what to do.

mod catalogue;

pub use catalogue::Event;

use serde::{Deserialize, Serialize};

use crate::base::NodeId;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Normal work.
    Info,
    /// A change of state that is as it should be.
    Notice,
    /// Redundancy or readiness is reduced; nothing is lost.
    Warning,
    /// Service or data are in danger: somebody should look now.
    Critical,
}

/// The nodes' names, for the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub a: String,
    pub b: String,
}

impl Names {
    pub fn of(&self, node: NodeId) -> &str {
        match node {
            NodeId::A => &self.a,
            NodeId::B => &self.b,
        }
    }
}

impl Default for Names {
    fn default() -> Names {
        Names { a: "A".to_string(), b: "B".to_string() }
    }
}

/// An event with its when and where: what the history keeps and `--json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Wall time, milliseconds since 1970: for people; nothing is decided by it.
    pub unix_ms: u64,
    /// The node that tells it.
    pub node: NodeId,
    /// `None`: concerns the whole node.
    pub volume: Option<String>,
    #[serde(flatten)]
    pub event: Event,
}

impl Entry {
    /// One line without its time: `mail on alpha: ...`.
    pub fn line(&self, names: &Names) -> String {
        let node = names.of(self.node);
        let text = self.event.line(names);
        match &self.volume {
            Some(volume) => format!("{volume} on {node}: {text}"),
            None => format!("{node}: {text}"),
        }
    }

    /// One JSON object, with severity and the human line.
    pub fn json(&self, names: &Names) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("node".to_string(), names.of(self.node).into());
            object.insert("severity".to_string(), serde_json::json!(self.event.severity()));
            object.insert("text".to_string(), self.event.line(names).into());
        }
        value
    }
}

#[cfg(test)]
mod tests;
