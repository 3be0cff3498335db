//! The ownership record `{v, in-sync set, primary}`: changed only by an ownership decision.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// A set of nodes: the in-sync set of a record. Never empty in a valid record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Members(u8);

impl Members {
    pub const BOTH: Members = Members(0b11);

    pub fn only(node: NodeId) -> Members {
        Members(1 << node.index())
    }

    pub fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.index()) != 0
    }

    /// The one member of a solo set.
    pub fn solo(self) -> Option<NodeId> {
        match self.0 {
            0b01 => Some(NodeId::A),
            0b10 => Some(NodeId::B),
            _ => None,
        }
    }

    /// Encoding on disk and on links: bit 0 = A, bit 1 = B.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Decodes `bits`; `None` for the empty set and for unknown bits.
    pub fn from_bits(bits: u8) -> Option<Members> {
        (1..=3).contains(&bits).then_some(Members(bits))
    }
}

impl TryFrom<u8> for Members {
    type Error = &'static str;

    fn try_from(bits: u8) -> Result<Members, &'static str> {
        Members::from_bits(bits).ok_or("no such set of nodes")
    }
}

impl From<Members> for u8 {
    fn from(members: Members) -> u8 {
        members.bits()
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0b01 => "{A}",
            0b10 => "{B}",
            0b11 => "{A,B}",
            _ => "{}",
        })
    }
}

/// Who is in sync and who is primary, by record. `v` grows with every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub v: u64,
    pub members: Members,
    pub primary: NodeId,
}
