//! A node that leaves on purpose.
//!
//! Decides what the leaver gives up, and what that is worth to its peer. Invariants: a secondary says that it left only
//! when it holds no right to a step alone any more; it gets one again from a new agreement with the peer, from the
//! witness, or from a person, and a restart gives none. So the primary may go on alone without fencing anybody, and
//! nothing has to be stable before it is said. A word that is lost leaves the peer with a node that fell silent.

use crate::base::Moment;
use crate::wire::{Message, feature};

use super::action::{Action, Notice, Order};
use super::hand::Handing;
use super::machine::{Node, Serve};

/// Why a peer gave up every right of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// Its disk failed, and it stopped.
    DiskFailed,
    /// It was stopped or disconnected on purpose.
    Left,
}

impl Node {
    /// The operator cuts this node off, or its daemon stops.
    pub(super) fn disconnect(&mut self, out: &mut Vec<Action>) {
        self.disconnected = true;
        let Some((link, session)) = self.link.zip(self.conv.as_ref().map(|conv| conv.id)) else {
            return self.close_link(out);
        };
        let voting = self.vote.as_ref().is_some_and(|vote| vote.is_solo() || vote.is_swapping());
        let follows = self.is_member()
            && self.both()
            && !self.is_primary()
            && self.serve == Serve::Down
            && self.handing.is_none()
            && self.store.is_none()
            && !voting;
        if follows && self.peer_can(feature::LEAVE) {
            if !self.cfg.mutations.leave_keeps_right {
                (self.confirmed, self.continuity) = (false, false);
            }
            // The peer hangs up when it was told; until then the word may still be on its way.
            self.leaving = Some(self.after(self.cfg.timing.slow_peer));
            out.push(Action::Send { link, message: Message::Left { session } });
        } else {
            out.push(Action::Send { link, message: Message::Bye { session } });
            self.close_link(out);
        }
    }

    pub(super) fn leave_step(&mut self, out: &mut Vec<Action>) {
        if self.leaving.is_some_and(|until| self.now >= until) {
            self.close_link(out);
        }
    }

    pub(super) fn leaving_until(&self) -> Option<Moment> {
        self.leaving
    }

    /// The peer holds no right any more: going on alone needs no more than the record.
    pub(super) fn peer_left(&mut self, out: &mut Vec<Action>) {
        // Once the record of a handover is on its way to the disk the primary is decided by it.
        let still_ours = matches!(self.handing, None | Some(Handing::Stopping | Handing::Draining(_)));
        if self.is_member() && self.is_primary() && self.both() && still_ours && self.failed.is_none() {
            self.gave_up = Some(GaveUp::Left);
            out.push(Order::Tell(Notice::PeerLeft).into());
        }
        self.close_link(out);
    }
}
