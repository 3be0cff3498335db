//! The one gate before serving.
//!
//! Decides whether a copy may be served, from the stored state and the right that was obtained. Invariant: an
//! outdated, half-overwritten, blank or unknown copy never passes.

use serde::{Deserialize, Serialize};

use crate::base::{NodeId, Record};
use crate::format::{ResyncMark, State};

/// What the gate looks at in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyFacts {
    pub record: Option<Record>,
    /// It was replaced by another one.
    pub out_of_use: bool,
    pub half_overwritten: bool,
    /// It has no generation.
    pub blank: bool,
}

impl CopyFacts {
    pub fn of(state: &State) -> CopyFacts {
        CopyFacts {
            record: state.record,
            out_of_use: state.is_out_of_use(),
            half_overwritten: state.resync != ResyncMark::None,
            blank: state.gens.is_empty(),
        }
    }
}

/// How the right to go on without the peer was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// None is needed: the record names this node alone.
    Sole,
    /// Both agreed on this record in a session, and this node is its primary.
    Agreed,
    /// The witness's record was moved to this node.
    Won,
    /// `fence`: an agent, or a person, said that the peer has stopped; this node ran since both agreed.
    Fenced,
    /// `deadtime`: the peer is silent.
    Silent,
    /// `manual`: the recorded primary goes on.
    Recorded,
    /// `yield`: the confirmed secondary's promise is over.
    Yielded,
    /// The operator stated that the peer is down.
    Forced,
    /// The operator stated that the peer is down and that what only the peer has is given up.
    Old,
    /// The peer stated that its own disk failed and that it stopped, and has noted it where it survives a restart.
    Given,
}

impl Right {
    /// For people: by what the right was obtained.
    pub fn text(self) -> &'static str {
        match self {
            Right::Sole => "the record names this node alone",
            Right::Agreed => "both nodes agreed on this record",
            Right::Won => "the word of the witness",
            Right::Fenced => "the word of a fence agent that the peer has stopped",
            Right::Silent => "the peer's silence",
            Right::Recorded => "the record, which names this node as primary",
            Right::Yielded => "the peer's silence: a primary that is cut off has stopped",
            Right::Forced => "the word of an administrator that the peer is down",
            Right::Old => "the word of an administrator, who gives up what only the peer has",
            Right::Given => "the peer's own word that it stopped",
        }
    }
}

/// `Ok` when `state` may be served by `me` under `right`; else why not.
pub fn gate_promote(me: NodeId, state: &State, right: Right) -> Result<(), &'static str> {
    gate(me, &CopyFacts::of(state), right)
}

/// The same from the facts.
pub fn gate(me: NodeId, copy: &CopyFacts, right: Right) -> Result<(), &'static str> {
    if copy.out_of_use {
        return Err("this copy was replaced by another one");
    }
    if copy.half_overwritten {
        return Err("this copy is half overwritten by a resync");
    }
    let Some(record) = copy.record else {
        return Err("this copy has never been in sync");
    };
    if copy.blank {
        return Err("this copy is blank");
    }
    if !record.members.contains(me) && right != Right::Old {
        return Err("the record says that this copy is out of date");
    }
    let sole = record.members.solo() == Some(me);
    match right {
        Right::Sole if !sole => Err("the peer is a member as well: its agreement or an arbiter's is needed"),
        Right::Agreed | Right::Recorded if record.primary != me => Err("the peer is primary by record"),
        Right::Yielded if record.primary == me => Err("a cut-off primary yields"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, Members, Record, VolumeId};
    use crate::format::{GenEntry, GenReason};

    const RIGHTS: [Right; 10] = [
        Right::Sole,
        Right::Agreed,
        Right::Won,
        Right::Fenced,
        Right::Silent,
        Right::Recorded,
        Right::Yielded,
        Right::Forced,
        Right::Given,
        Right::Old,
    ];

    fn state(members: Members, primary: NodeId) -> State {
        let id = Generation(1);
        let gen_entry = GenEntry { id, minted_by: NodeId::A, at_v: 1, reason: GenReason::Made, first_txn: 0 };
        State {
            volume: VolumeId(1),
            node: NodeId::A,
            incarnation: 1,
            record: Some(Record { v: 1, members, primary }),
            gens: vec![gen_entry],
            bitmap_base: id,
            full: false,
            resync: ResyncMark::None,
            boot_epoch: 1,
            peer_boot_epoch: 0,
            retired: vec![],
            diverged: false,
            apart: crate::format::Apart::default(),
            witness_incarnation: 0,
        }
    }

    #[test]
    fn no_right_opens_an_outdated_half_written_or_blank_copy() {
        let out = state(Members::only(NodeId::B), NodeId::B);
        let half = State {
            resync: ResyncMark::Target { of: Generation(2) },
            ..state(Members::only(NodeId::A), NodeId::A)
        };
        let blank = State { gens: vec![], ..state(Members::BOTH, NodeId::A) };
        let joined = State { record: None, ..state(Members::BOTH, NodeId::A) };
        let replaced = State { retired: vec![1], ..state(Members::only(NodeId::A), NodeId::A) };
        for right in RIGHTS {
            for bad in [&out, &half, &blank, &joined, &replaced] {
                // An out of date copy is what a word about an old state is for.
                let meant = right == Right::Old && std::ptr::eq(bad, &raw const out);
                assert!(meant || gate_promote(NodeId::A, bad, right).is_err(), "{right:?} opened {bad:?}");
            }
        }
    }

    #[test]
    fn a_member_needs_the_right_that_fits_its_record() {
        let passes = |primary| {
            RIGHTS.map(|right| gate_promote(NodeId::A, &state(Members::BOTH, primary), right).is_ok())
        };
        assert_eq!(passes(NodeId::A), [false, true, true, true, true, true, false, true, true, true]);
        assert_eq!(passes(NodeId::B), [false, false, true, true, true, false, true, true, true, true]);
    }
}
