//! A disk that failed: the node stops, and its peer's copy becomes the only one by the peer's own record.
//!
//! Decides when the peer is told. Invariants: nothing of a failed copy is served or followed until a restart; the peer
//! is told only when this node has stopped and has noted outside the image that it is unusable, so that no restart can
//! make it go on beside the peer. A disk that merely rots is given up only beside an equal copy. (What runs on a failed
//! disk and may go on for a while: `front`.)

use crate::base::Moment;
use crate::format::State;
use crate::wire::{Message, feature};

use super::action::{Action, Notice, Order};
use super::front::Front;
use super::leave::GaveUp;
use super::machine::{Node, Serve};

/// What is left to be said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewell {
    noted: bool,
    said: bool,
    /// The link is given up at this moment: the peer finds out as it would about a dead node.
    pub until: Moment,
}

/// What a disk that failed, here or at the peer, leaves to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detach {
    pub farewell: Option<Farewell>,
    /// This node's disk failed, and it works on the peer's copy.
    pub front: Option<Front>,
    /// The peer does so on this one's, or did and may not have stopped.
    pub fronted: bool,
}

impl Detach {
    pub(super) fn at_start(state: &State) -> Detach {
        Detach { farewell: None, front: None, fronted: super::front::may_be_fronted(state) }
    }
}

impl Node {
    /// The image cannot be trusted any more: stops serving and following until restarted.
    pub(super) fn fail(&mut self, why: &str, out: &mut Vec<Action>) {
        if self.failed.is_some() {
            return;
        }
        let goes_on = self.can_front();
        self.failed = Some(why.to_string());
        out.push(Order::NoteUnusable { v: self.state.record.map_or(0, |record| record.v) }.into());
        out.push(Order::Tell(Notice::DiskFailed { text: why.to_string() }).into());
        out.push(Action::LeaveDisk { for_peer: goes_on });
        if goes_on {
            return self.front_begin(out);
        }
        self.say_farewell(false);
        self.stop_serving(out);
        if !self.is_member() {
            self.close_link(out);
        }
    }

    /// A disk that rots is worth more than none: it is given up only beside a copy that is as new.
    pub(super) fn disk_rots(&mut self, out: &mut Vec<Action>) {
        if self.is_member() && self.both() {
            self.fail("the disk loses blocks again and again", out);
        }
    }

    /// The peer is to be told, as soon as nothing runs here any more.
    pub(super) fn say_farewell(&mut self, noted: bool) {
        let until = self.after(self.cfg.timing.slow_peer);
        self.detach.farewell = Some(Farewell { noted, said: false, until });
    }

    pub(super) fn unusable_noted(&mut self) {
        if let Some(front) = &mut self.detach.front {
            front.noted = true;
        } else if let Some(farewell) = &mut self.detach.farewell {
            farewell.noted = true;
        }
    }

    /// Tells the peer once it may, and hangs up if that takes too long. The peer hangs up when it was told.
    pub(super) fn farewell_step(&mut self, out: &mut Vec<Action>) {
        let Some(mut farewell) = self.detach.farewell else { return };
        let session = self.conv.as_ref().map(|conv| conv.id).filter(|_| self.is_member());
        let Some((link, session)) = self.link.zip(session) else { return };
        if farewell.noted && !farewell.said && self.serve == Serve::Down {
            if !self.peer_can(feature::DETACH) {
                // It finds out as it would about a dead node.
                return self.close_link(out);
            }
            farewell.said = true;
            farewell.until = self.after(self.cfg.timing.slow_peer);
            self.detach.farewell = Some(farewell);
            out.push(Action::Send { link, message: Message::Detached { session } });
        } else if self.now >= farewell.until && (!farewell.noted || farewell.said) {
            self.close_link(out);
        }
    }

    /// The peer's copy counts no more: this one goes on alone as soon as it is recorded so.
    pub(super) fn peer_detached(&mut self, out: &mut Vec<Action>) {
        if self.is_fronted() {
            // Told before; now it has stopped as well.
            self.promise_until = self.promise_until.min(self.now);
            return self.close_link(out);
        }
        if !self.is_member() || self.failed.is_some() {
            return self.protocol_error("the peer gave up what it was no member of", out);
        }
        self.gave_up = Some(GaveUp::DiskFailed);
        out.push(Order::Tell(Notice::PeerDiskFailed).into());
        self.close_link(out);
    }
}
