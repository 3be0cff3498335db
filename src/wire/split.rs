//! What the two sides of a split brain say to each other before one of them gives way.
//!
//! Decides the bytes. Both nodes evaluate the same rule on the same two notes.

use crate::base::{AfterSplit, Generation, NodeId};
use crate::format::Verdict;

use super::Session;
use super::bytes::{Reader, Refused, Writer};

/// Whoever adopts a number must be able to count on from it.
const NUMBER_MAX: u64 = 1 << 62;

/// One side of a split as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitNote {
    /// 0 for the first note of a session, then one more each.
    pub turn: u32,
    /// What its configuration says.
    pub policy: AfterSplit,
    /// Newest generation of its copy now: the winner's grows when the split is decided.
    pub head: Generation,
    /// It was the primary by record when it went on alone.
    pub led: bool,
    /// It serves, or has not stopped yet.
    pub serving: bool,
    /// Blocks that it changed alone; `None`: not known.
    pub changed: Option<u64>,
    pub verdict: Option<Verdict>,
}

pub(super) fn encode_note(session: Session, note: &SplitNote, w: &mut Writer<'_>) {
    w.u64(session.0);
    w.u64(u64::from(note.turn));
    w.u8(policy_code(note.policy));
    w.u128(note.head.0);
    w.u8(u8::from(note.led));
    w.u8(u8::from(note.serving));
    w.u8(u8::from(note.changed.is_some()));
    w.u64(note.changed.unwrap_or(0));
    w.u8(u8::from(note.verdict.is_some()));
    if let Some(verdict) = &note.verdict {
        w.u64(verdict.number);
        w.u8(verdict.winner.index());
        w.u128(verdict.heads[0].0);
        w.u128(verdict.heads[1].0);
        w.u64(verdict.done);
    }
}

pub(super) fn decode_note(r: &mut Reader<'_>) -> Result<SplitNote, Refused> {
    Ok(SplitNote {
        turn: u32::try_from(r.u64()?).map_err(|_| Refused::Value("turn"))?,
        policy: policy_from(r.u8()?)?,
        head: r.generation()?,
        led: r.flag("led")?,
        serving: r.flag("serving")?,
        changed: match (r.flag("changed")?, r.u64()?) {
            (true, blocks) => Some(blocks),
            (false, 0) => None,
            (false, _) => return Err(Refused::Value("changed")),
        },
        verdict: match r.flag("verdict")? {
            true => Some(Verdict {
                number: Some(r.u64()?).filter(|n| *n <= NUMBER_MAX).ok_or(Refused::Value("number"))?,
                winner: r.node()?,
                heads: [r.generation()?, r.generation()?],
                done: r.u64()?,
            }),
            false => None,
        },
    })
}

fn policy_code(policy: AfterSplit) -> u8 {
    match policy {
        AfterSplit::Manual => 0,
        AfterSplit::KeepServing => 1,
        AfterSplit::KeepNode(NodeId::A) => 2,
        AfterSplit::KeepNode(NodeId::B) => 3,
        AfterSplit::KeepNewer => 4,
        AfterSplit::KeepOlder => 5,
        AfterSplit::KeepMostChanges => 6,
    }
}

fn policy_from(code: u8) -> Result<AfterSplit, Refused> {
    Ok(match code {
        0 => AfterSplit::Manual,
        1 => AfterSplit::KeepServing,
        2 => AfterSplit::KeepNode(NodeId::A),
        3 => AfterSplit::KeepNode(NodeId::B),
        4 => AfterSplit::KeepNewer,
        5 => AfterSplit::KeepOlder,
        6 => AfterSplit::KeepMostChanges,
        _ => return Err(Refused::Value("after_split_brain")),
    })
}
