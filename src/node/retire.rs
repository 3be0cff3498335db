//! A copy that was replaced: it never counts again, whenever and wherever it reappears.
//!
//! Decides when the peer's copy may be struck off, and what a copy does that hears it was. Does not know which machine
//! holds it. Invariants: only the sole member strikes off; a copy that was struck off neither serves nor votes nor
//! copies, over restarts; of two that struck each other off neither obeys.

use crate::format::{RETIRED_MAX, State};

use super::action::{Action, Notice, Order};
use super::machine::{After, Node};

/// Why a copy that was struck off does nothing.
pub(super) const OUT_OF_USE: &str = "this copy was replaced by another one and is not used any more";

impl Node {
    /// The operator replaces the copy of this incarnation. Asked again until it is so; nothing while a store is under
    /// way.
    pub(super) fn retire(&mut self, incarnation: u128, out: &mut Vec<Action>) {
        if self.store.is_some() || self.state.retired.contains(&incarnation) {
            return;
        }
        let refused = match () {
            () if incarnation == self.state.incarnation => Some("it is this node's own copy"),
            () if self.failed.is_some() => Some("this node's disk failed"),
            () if !self.sole() => Some("this node is not the only member"),
            () => None,
        };
        if let Some(why) = refused {
            let text = format!("the peer's copy was not struck off: {why}");
            out.push(Order::Tell(Notice::Fault { text }).into());
            return;
        }
        let retired = with(&self.state.retired, &[incarnation]);
        self.put(State { retired, ..self.state.clone() }, After::Retired, out);
    }

    /// By its own record this copy was replaced.
    pub(super) fn is_out_of_use(&self) -> bool {
        self.state.is_out_of_use()
    }

    /// The peer was refused. If that is because it replaced this copy, this node stops for good.
    pub(super) fn refused_by(&mut self, out: &mut Vec<Action>) {
        let Some(theirs) = self.conv.as_ref().and_then(|conv| conv.theirs.as_ref()) else { return };
        let mine = self.state.incarnation;
        let mutual = self.state.retired.contains(&theirs.incarnation);
        if !theirs.retired.contains(&mine) || mutual || self.failed.is_some() || self.store.is_some() {
            return;
        }
        self.failed = Some(OUT_OF_USE.to_string());
        self.vote = None;
        self.stop_serving(out);
        out.push(Order::Tell(Notice::Replaced).into());
        let retired = with(&self.state.retired, &[mine]);
        self.put(State { retired, ..self.state.clone() }, After::Retired, out);
    }

    /// What was replaced is known here: whoever is connected is compared anew, and a copy that is out of use itself
    /// leaves the peer alone.
    pub(super) fn retired(&mut self, out: &mut Vec<Action>) {
        self.close_link(out);
        if self.is_out_of_use() {
            out.push(Order::HangUp.into());
        }
    }

    /// What is known to be replaced, with what the peer knows: it outlives the peer.
    pub(super) fn retired_by_both(&self) -> Vec<u128> {
        let theirs = self.conv.as_ref().and_then(|conv| conv.theirs.as_ref());
        let theirs = theirs.map_or(&[][..], |theirs| theirs.retired.as_slice());
        with(&self.state.retired, theirs)
    }
}

/// A list with more in it; the oldest go where there is no room.
fn with(known: &[u128], more: &[u128]) -> Vec<u128> {
    let mut all = known.to_vec();
    for incarnation in more {
        if !all.contains(incarnation) {
            all.push(*incarnation);
        }
    }
    let surplus = all.len().saturating_sub(RETIRED_MAX);
    all.drain(..surplus);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_each_once_and_the_newest() {
        let full: Vec<u128> = (0..64).collect();
        assert_eq!(with(&full, &[5, 63]), full);
        let more = with(&full, &[64]);
        assert_eq!((more.len(), more.first(), more.last()), (RETIRED_MAX, Some(&1), Some(&64)));
    }
}
