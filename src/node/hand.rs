//! The planned change of primary: stop, drain, record, tell.
//!
//! Decides the order. Invariant: the old primary has stopped and stored the new record before the new one hears of
//! it; giving ownership away clears the right to take over at once.

use crate::base::{Members, Record};
use crate::format::State;
use crate::wire::{Kind, Message, Run, Seq};

use super::action::{Action, Notice, Order};
use super::config::Arbitration;
use super::machine::{After, Node, Serve};
use super::vote::Goal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handing {
    /// Services stop, the volume is unmounted.
    Stopping,
    /// A last flush on both members.
    Draining(Seq),
    /// The new record is being stored here.
    Storing,
    /// The peer was told.
    Told,
    /// This node is to become primary under the record: the witness first.
    Taking(Record),
}

impl Node {
    /// The peer (or the operator here) wants the peer to be primary.
    pub(super) fn asked_to_hand_over(&mut self) {
        let ready = self.is_member() && self.is_primary() && self.both() && self.failed.is_none();
        if ready && self.handing.is_none() && !self.frozen && self.serve != Serve::Kept {
            self.handing = Some(Handing::Stopping);
        }
    }

    pub(super) fn ask_handover(&mut self, out: &mut Vec<Action>) {
        if let Some((link, conv)) = self.link.zip(self.conv.as_ref()).filter(|_| self.is_member()) {
            let message = Message::AskHandover { session: conv.id };
            out.push(Action::Send { link, message });
        }
    }

    /// The session ended: what was not stored yet is off.
    pub(super) fn handing_lost(&mut self) {
        if self.handing != Some(Handing::Storing) {
            self.handing = None;
        }
    }

    pub(super) fn handing_step(&mut self, out: &mut Vec<Action>) {
        match self.handing {
            Some(Handing::Stopping) => self.stop_and_drain(out),
            Some(Handing::Draining(seq)) => {
                let drained = !self.outbox.flies(seq) && self.outbox.is_empty();
                if drained && self.store.is_none() && self.witness_ready(out) {
                    self.store_handover(out);
                }
            }
            Some(Handing::Taking(record)) => self.take_handover(record, out),
            Some(Handing::Storing | Handing::Told) | None => {}
        }
    }

    fn stop_and_drain(&mut self, out: &mut Vec<Action>) {
        self.drop_gracefully(out);
        if self.serve != Serve::Down || !self.outbox.is_empty() {
            return;
        }
        let Some((link, session)) = self.link.zip(self.conv.as_ref().map(|conv| conv.id)) else { return };
        let run = Run { first: crate::base::BlockNo(0), count: 0 };
        let seq = self.outbox.send(None, Kind::Barrier, run, self.now);
        let message = Message::Op { session, seq, kind: Kind::Barrier, first: run.first, count: 0 };
        out.push(Action::Send { link, message });
        self.handing = Some(Handing::Draining(seq));
    }

    fn store_handover(&mut self, out: &mut Vec<Action>) {
        let Some(record) = self.state.record else { return };
        let next = Record { v: record.v + 1, members: Members::BOTH, primary: self.me().other() };
        self.handing = Some(Handing::Storing);
        if !self.cfg.mutations.handover_keeps_right {
            (self.confirmed, self.continuity) = (false, false);
        }
        self.in_step = false;
        self.lease_from = None;
        self.promise_again();
        let mut gens = self.state.gens.clone();
        if self.cfg.mutations.handover_mints {
            let (id, minted_by) = (crate::base::Generation(self.draw()), self.me());
            let (at_v, reason) = (next.v, crate::format::GenReason::WentSolo);
            gens.push(crate::format::GenEntry { id, minted_by, at_v, reason, first_txn: 0 });
        }
        self.put(State { record: Some(next), gens, ..self.state.clone() }, After::HandGiven, out);
    }

    pub(super) fn hand_given(&mut self, out: &mut Vec<Action>) {
        self.handing = None;
        self.failback_moved();
        self.promise_again();
        let Some(record) = self.state.record else { return };
        let Some((link, conv)) = self.link.zip(self.conv.as_ref()).filter(|_| self.is_member()) else {
            return;
        };
        let message = Message::Handover { session: conv.id, record };
        out.push(Action::Send { link, message });
        out.push(Order::Tell(Notice::HandedOver { to: record.primary }).into());
        self.handing = Some(Handing::Told);
    }

    /// The peer stopped and made this node primary.
    pub(super) fn handed(&mut self, record: Record, out: &mut Vec<Action>) {
        let expected = self.state.record.is_some_and(|mine| {
            record.v == mine.v + 1 && record.members == Members::BOTH && record.primary == self.me()
        });
        if self.leaving.is_some() {
            // It gave up every right, that to be handed anything as well.
            return self.close_link(out);
        }
        if !expected || !self.is_member() || self.is_primary() {
            return self.protocol_error("the peer hands over what is not its own", out);
        }
        self.handing = Some(Handing::Taking(record));
    }

    fn take_handover(&mut self, record: Record, out: &mut Vec<Action>) {
        if self.store.is_some() {
            return;
        }
        if self.cfg.arbitration == Arbitration::Witness {
            self.ask_witness(Goal::Take(record), out);
        } else {
            self.store_taken(record, out);
        }
    }

    pub(super) fn store_taken(&mut self, record: Record, out: &mut Vec<Action>) {
        self.handing = Some(Handing::Storing);
        self.put(State { record: Some(record), ..self.state.clone() }, After::HandTaken, out);
    }

    pub(super) fn hand_taken(&mut self, out: &mut Vec<Action>) {
        self.handing = None;
        self.next_beat = self.now;
        // Whoever is leaving stays stopped.
        if !self.disconnected {
            self.idle = None;
        }
        let Some(record) = self.state.record else { return };
        if let Some((link, conv)) = self.link.zip(self.conv.as_ref()).filter(|_| self.is_member()) {
            let message = Message::HandoverDone { session: conv.id, record };
            out.push(Action::Send { link, message });
        }
    }

    pub(super) fn handover_done(&mut self, record: Record, out: &mut Vec<Action>) {
        if self.handing != Some(Handing::Told) || self.state.record != Some(record) {
            return self.protocol_error("the peer took over what was not given", out);
        }
        self.handing = None;
        (self.confirmed, self.continuity) = (true, true);
        self.in_step = true;
    }
}
