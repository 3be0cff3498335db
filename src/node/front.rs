//! A disk that failed under the primary: what still runs there works on the peer's copy until it has stopped.
//!
//! Decides, on the node whose disk failed, when operations may go on without it and when that ends; on the other one,
//! when it has become the only member and when it may serve. Does not know how blocks are read over the link.
//! Invariants: nothing is acknowledged on the strength of the peer's copy alone before the failure is noted outside the
//! image here and the peer has recorded that it alone is a member; the peer serves only when it was told that this
//! node has stopped, or when its promise has run out, over a restart of its own as well; what it executes meanwhile is
//! marked there, for this disk does not have it.

use crate::base::{Members, Moment, Record};
use crate::format::{GenReason, State};
use crate::wire::{Message, Session, feature};

use super::action::{Action, Notice, Order};
use super::hand::Handing;
use super::leave::GaveUp;
use super::machine::{Node, Serve};
use super::talk::Phase;

/// How far the node without a disk is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    /// The failure is stable outside the image.
    pub noted: bool,
    asked: bool,
    /// By which the peer is the only member.
    record: Option<Record>,
    /// What has not stopped by then is stopped.
    pub until: Moment,
}

/// Whether the peer may still work on the copy of this state: it did when this node stopped, and a restart cannot know
/// more.
pub(super) fn may_be_fronted(state: &State) -> bool {
    let alone = state.record.is_some_and(|record| record.members.solo() == Some(state.node));
    alone && state.gens.last().is_some_and(|entry| entry.reason == GenReason::PeerDisk)
}

impl Node {
    /// Programs run here, and a peer that can take over everything is at hand.
    pub(super) fn can_front(&self) -> bool {
        let runs = matches!(self.serve, Serve::Up | Serve::Dropping { graceful: true });
        runs && self.failed.is_none()
            && self.is_member()
            && self.both()
            && self.is_primary()
            && !self.frozen
            && self.store.is_none()
            && self.marking.is_none()
            && matches!(self.handing, None | Some(Handing::Stopping))
            && self.peer_can(feature::FRONT)
    }

    /// The disk failed just now; what was begun on it ends at the peer.
    pub(super) fn front_begin(&mut self, out: &mut Vec<Action>) {
        // The peer's answer is a matter of moments; without it nobody waits.
        let until = self.after(self.cfg.timing.slow_peer);
        self.detach.front = Some(Front { noted: false, asked: false, record: None, until });
        self.handing = None;
        out.push(Order::Tell(Notice::FrontBegan).into());
    }

    /// Operations wait for the peer's record.
    pub(super) fn front_waits(&self) -> bool {
        self.detach.front.is_some_and(|front| front.record.is_none())
    }

    /// A heartbeat under the peer's new record renews the lease as one under the old record did.
    pub(super) fn front_holds(&self, record: Option<Record>) -> bool {
        self.detach.front.is_some_and(|front| front.record.is_some() && front.record == record)
    }

    pub(super) fn front_step(&mut self, out: &mut Vec<Action>) {
        let Some(front) = self.detach.front.as_mut() else { return };
        let session = self.conv.as_ref().map(|conv| conv.id);
        if self.serve == (Serve::Dropping { graceful: false }) {
            return self.front_ends(out);
        }
        if self.now >= front.until {
            // What waits for the peer waits no longer.
            self.front_ends(out);
            return self.close_link(out);
        }
        if front.noted
            && !front.asked
            && let Some((link, session)) = self.link.zip(session)
        {
            front.asked = true;
            out.push(Action::Send { link, message: Message::Front { session } });
        }
        if front.record.is_some() {
            self.drop_gracefully(out);
        }
        if self.serve == Serve::Down && self.outbox.is_empty() {
            self.front_ends(out);
        }
    }

    /// Nothing works on the peer's copy any more, or may.
    fn front_ends(&mut self, out: &mut Vec<Action>) {
        let Some(front) = self.detach.front.take() else { return };
        self.say_farewell(front.noted);
        self.stop_serving(out);
    }

    /// The session ended: there is no copy left to work on.
    pub(super) fn front_lost(&mut self, out: &mut Vec<Action>) {
        if self.detach.front.is_some() {
            self.front_ends(out);
        }
    }

    /// The peer recorded that it alone is a member.
    pub(super) fn front_recorded(&mut self, record: Record, out: &mut Vec<Action>) {
        let peer = self.me().other();
        let fits = record.primary == peer && record.members == Members::only(peer);
        let newer = self.state.record.is_some_and(|mine| record.v > mine.v);
        let until = self.after(self.cfg.timing.detach_grace);
        match self.detach.front.as_mut().filter(|front| front.asked && front.record.is_none()) {
            Some(front) if fits && newer => (front.record, front.until) = (Some(record), until),
            // It came too late.
            None if self.failed.is_some() => {}
            _ => self.protocol_error("the peer granted what was not asked for", out),
        }
    }

    /// The peer works on this copy.
    pub(super) fn is_fronted(&self) -> bool {
        self.conv.as_ref().is_some_and(|conv| matches!(conv.phase, Phase::Fronted))
    }

    /// The peer's disk failed: this node is to be the only member, and the peer works on its copy for now.
    pub(super) fn peer_fronts(&mut self, out: &mut Vec<Action>) {
        let follows = self.is_member() && self.both() && !self.is_primary() && self.serve == Serve::Down;
        if !follows || self.failed.is_some() || self.handing.is_some() || self.leaving.is_some() {
            return self.protocol_error("the peer wants to work on a copy that does not follow", out);
        }
        if let Some(conv) = self.conv.as_mut() {
            conv.phase = Phase::Fronted;
        }
        self.gave_up = Some(GaveUp::DiskFailed);
        self.detach.fronted = true;
        self.promise_again();
        out.push(Order::Tell(Notice::PeerDiskFailed).into());
    }

    /// There is no room here for what the peer writes: it has to stop, and this copy is as good as before.
    pub(super) fn apply_full(&mut self, session: Session, out: &mut Vec<Action>) {
        if self.is_fronted() && self.conv.as_ref().is_some_and(|conv| conv.id == session) {
            self.protocol_error("there is no room for what the peer writes on this copy", out);
        }
    }

    /// This node is the only member, stable: the peer may go on.
    pub(super) fn front_granted(&mut self, out: &mut Vec<Action>) {
        let session = self.conv.as_ref().map(|conv| conv.id);
        if let (Some(link), Some(session), Some(record)) = (self.link, session, self.state.record) {
            out.push(Action::Send { link, message: Message::Fronted { session, record } });
        }
    }
}
