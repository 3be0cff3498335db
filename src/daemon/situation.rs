//! A recorded situation: what `twinfs explain` shows, writes to a file and reads from one.
//!
//! Decides the form of the file and what of it is believed: nothing before all of it was checked. Does not decide who
//! may serve: the functions that the machine uses do, here as there. Invariants: what is read is bounded in every
//! respect and holds no character that a terminal obeys; whatever is wrong with a file is one error.

use serde::{Deserialize, Serialize};

use crate::base::Moment;
use crate::node::{Answers, Compared, Facts, Situation, Taken};
use crate::sys::clock;
use crate::wire::{HEADER_BYTES, Header, Hello, Message};

use super::runtime::Running;
use super::volume::Volume;

/// The number in every file; grows when a field changes its meaning.
pub const SCHEMA: u64 = 1;
/// Longest file.
pub const FILE_BYTES_MAX: usize = 1 << 20;
const VOLUMES_MAX: usize = 64;
/// Longest name and longest other text.
const NAME_CHARS_MAX: usize = 64;
const TEXT_CHARS_MAX: usize = 2_000;
/// Newest events of the volume that go with it.
const EVENTS_MAX: usize = 10;

/// Situations of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// The schema.
    pub twinfs_situation: u64,
    /// Version of the program that recorded it.
    pub program: String,
    pub node: String,
    pub peer: String,
    pub unix_ms: u64,
    pub volumes: Vec<RecordedVolume>,
}

/// The situation of one volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedVolume {
    pub name: String,
    /// What `status` says, and until when.
    pub why: String,
    pub until: Option<Moment>,
    pub facts: Facts,
    pub served: Option<Taken>,
    pub alone: Option<Taken>,
    pub compared: Option<RecordedCompared>,
    /// What the recording program made of it.
    pub answers: Answers,
    /// Newest last.
    pub events: Vec<RecordedEvent>,
}

/// Both hellos, as they are on the wire, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCompared {
    pub at: Moment,
    pub mine: String,
    pub theirs: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedEvent {
    pub unix_ms: u64,
    pub text: String,
}

/// What is asked for: the volume, or all of them. Reads the history: not for a thread that must not wait.
pub fn gather(
    running: &Running,
    volumes: &[std::sync::Arc<Volume>],
) -> impl FnOnce() -> Recorded + Send + 'static {
    let (journal, volumes) = (std::sync::Arc::clone(&running.journal), volumes.to_vec());
    let (node, peer) = (running.name(running.me).to_string(), running.name(running.me.other()).to_string());
    move || {
        let recorded = volumes.iter().filter_map(|volume| {
            let view = volume.view()?;
            let situation = volume.mirror.with_machine(|machine| machine.situation())?;
            let entries = journal.newest(Some(&volume.name), EVENTS_MAX);
            let event = |text: String, unix_ms| RecordedEvent { unix_ms, text: printable(&text) };
            let events =
                entries.iter().map(|entry| event(entry.line(journal.names()), entry.unix_ms)).collect();
            Some(RecordedVolume::of(&volume.name, (view.reason.text, view.reason.until), &situation, events))
        });
        let volumes = recorded.collect();
        let program = env!("CARGO_PKG_VERSION").to_string();
        Recorded { twinfs_situation: SCHEMA, program, node, peer, unix_ms: clock::unix_ms(), volumes }
    }
}

/// Without what a terminal might obey, and not too long.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

impl RecordedVolume {
    /// The record of `situation`.
    pub fn of(
        name: &str,
        (why, until): (String, Option<Moment>),
        situation: &Situation,
        events: Vec<RecordedEvent>,
    ) -> RecordedVolume {
        let compared = situation.compared.as_ref().map(|compared| RecordedCompared {
            at: compared.at,
            mine: to_hex(&compared.mine),
            theirs: to_hex(&compared.theirs),
        });
        RecordedVolume {
            name: name.to_string(),
            why: printable(&why),
            until,
            facts: situation.facts,
            served: situation.served,
            alone: situation.alone,
            compared,
            answers: situation.answers(),
            events,
        }
    }

    /// The inputs.
    pub fn situation(&self) -> Result<Situation, String> {
        let compared = match &self.compared {
            None => None,
            Some(both) => {
                let (mine, theirs) = (from_hex(&both.mine)?, from_hex(&both.theirs)?);
                Some(Compared { at: both.at, mine, theirs })
            }
        };
        Ok(Situation { facts: self.facts, served: self.served, alone: self.alone, compared })
    }

    /// What differs between the answers that were recorded and those that this program gives, one text each; none if
    /// nothing does. The rights that were used count as answers.
    pub fn differences(&self, now: &Answers) -> Vec<String> {
        let then = &self.answers;
        let mut found = Vec::new();
        let mut compare = |what: &str, then: String, now: String| {
            if then != now {
                found.push(format!("{what}: recorded {then}, here {now}"));
            }
        };
        compare("role", format!("{:?}", then.role), format!("{:?}", now.role));
        compare("state", then.state.to_string(), now.state.to_string());
        compare("the right to serve", format!("{:?}", then.serve), format!("{:?}", now.serve));
        compare("the right to go on alone", format!("{:?}", then.alone), format!("{:?}", now.alone));
        compare("failback", format!("{:?}", then.failback), format!("{:?}", now.failback));
        let used = |taken: &Option<Taken>| taken.map(|taken| Ok::<_, crate::node::Obstacle>(taken.right));
        compare("how it began to serve", format!("{:?}", used(&self.served)), format!("{:?}", now.served));
        compare("how it went alone", format!("{:?}", used(&self.alone)), format!("{:?}", now.went_alone));
        compare("row of the table", format!("{:?}", then.row), format!("{:?}", now.row));
        compare("its reason", format!("{:?}", then.reason), format!("{:?}", now.reason));
        found
    }

    fn check(&self) -> Result<(), String> {
        name("the volume's name", &self.name)?;
        text("why", &self.why)?;
        if self.events.len() > EVENTS_MAX {
            return Err(format!("more than {EVENTS_MAX} events"));
        }
        self.events.iter().try_for_each(|event| text("an event", &event.text))?;
        self.answers.reason.iter().try_for_each(|reason| text("a reason", reason))?;
        self.situation().map(drop)
    }
}

/// Reads a file; the error is one line without its name.
pub fn read(bytes: &[u8]) -> Result<Recorded, String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("is no recorded situation: more than {FILE_BYTES_MAX} bytes"));
    }
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| format!("is no recorded situation: {e}"))?;
    match value.get("twinfs_situation").map(serde_json::Value::as_u64) {
        None => {
            return Err("is no recorded situation: \"twinfs explain --record FILE\" writes one".to_string());
        }
        Some(Some(SCHEMA)) => {}
        Some(other) => {
            let other = other.map_or("without a number".to_string(), |n| n.to_string());
            return Err(format!("is a situation of schema {other}; this program reads schema {SCHEMA}"));
        }
    }
    let wrong = |why: String| format!("is damaged: {why}");
    let recorded: Recorded = serde_json::from_value(value).map_err(|e| wrong(printable(&e.to_string())))?;
    recorded.check().map_err(wrong)?;
    Ok(recorded)
}

impl Recorded {
    /// The content of the file.
    pub fn write(&self) -> Result<Vec<u8>, String> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| e.to_string())?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn check(&self) -> Result<(), String> {
        name("the node's name", &self.node)?;
        name("the peer's name", &self.peer)?;
        name("the program's version", &self.program)?;
        if self.volumes.is_empty() || self.volumes.len() > VOLUMES_MAX {
            return Err(format!("it has {} volumes", self.volumes.len()));
        }
        self.volumes.iter().try_for_each(RecordedVolume::check)
    }
}

fn name(what: &str, name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(good) {
        return Err(format!("{what} is no name"));
    }
    Ok(())
}

fn text(what: &str, text: &str) -> Result<(), String> {
    if text.chars().count() > TEXT_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(format!("{what} is too long or holds control characters"));
    }
    Ok(())
}

fn to_hex(hello: &Hello) -> String {
    let mut bytes = Vec::new();
    crate::wire::encode(&Message::Hello(Box::new(hello.clone())), 0, &mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Hello, String> {
    let wrong = |why: &str| format!("a hello of the comparison cannot be read: {why}");
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong("it is not hexadecimal"));
    }
    let bytes: Result<Vec<u8>, _> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16)).collect();
    let bytes = bytes.map_err(|e| wrong(&e.to_string()))?;
    let (head, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| wrong("it is too short"))?;
    let header = Header::read(head).map_err(|e| wrong(&e.to_string()))?;
    if header.payload != 0 || header.body != body.len() {
        return Err(wrong("its length is not the one it says"));
    }
    match crate::wire::decode(header, body) {
        Ok(Message::Hello(hello)) => Ok(*hello),
        Ok(_) => Err(wrong("it is another message")),
        Err(e) => Err(wrong(&e.to_string())),
    }
}

#[cfg(test)]
#[path = "situation_tests.rs"]
mod tests;
