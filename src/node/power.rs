//! The right to serve: heartbeats, lease, freeze, mounting, and going on without the peer.
//!
//! Decides when this node serves and when it stops. Does not know how a volume is mounted. Invariants: it starts to
//! serve only through `gate_promote`; a lapsed lease freezes at once and demotes after the release time.

use crate::base::{Members, NodeId, Record, Span};
use crate::cluster::{Heard, Right, gate_promote};
use crate::format::{Apart, GenEntry, GenReason, Since, State};
use crate::wire::Heartbeat;

use super::action::{Action, Notice, Order, Refusal, VerifyEnd};
use super::config::Arbitration;
use super::event::Operator;
use super::machine::{After, Node, Serve};
use super::vote::Goal;

impl Node {
    /// This node holds, or by agreement will take, the right to serve.
    fn claims(&self) -> bool {
        let dropping = self.serve != Serve::Down;
        let agreed = self.both() && self.is_primary() && self.confirmed;
        dropping || (agreed && self.failed.is_none())
    }

    pub(super) fn beat(&mut self, out: &mut Vec<Action>) {
        if self.now < self.next_beat {
            return;
        }
        self.next_beat = self.after(self.cfg.timing.keepalive);
        let follows = self.both() && !self.is_primary() && !self.taking() && self.serve == Serve::Down
            || self.is_fronted();
        let mut heartbeat = Heartbeat {
            volume: self.state.volume,
            from: self.me(),
            boot_epoch: self.state.boot_epoch,
            seq: 0,
            record: self.state.record,
            head: self.state.head(),
            serving: self.data_open(),
            released: false,
            nonce: 0,
            nonce_echo: 0,
            echo_seq: 0,
        };
        let claims = self.claims();
        if !claims {
            // With this heartbeat the peer's promise ends, and with it every lease that stands on it.
            self.lease_from = None;
        }
        self.pulse.send(self.now, claims, follows, &mut heartbeat);
        out.push(Order::Heartbeat(heartbeat).into());
        if let Some(seconds_left) = self.lease_seconds() {
            out.push(Order::RenewAddress { seconds_left }.into());
        }
    }

    fn lease_seconds(&self) -> Option<u64> {
        if !self.data_open() || self.frozen {
            return None;
        }
        if !self.needs_lease() {
            return Some(self.cfg.timing.lease().0 / 1_000_000_000);
        }
        let until = self.lease_from? + self.cfg.timing.lease();
        Some(until.since(self.now).0 / 1_000_000_000)
    }

    pub(super) fn heard(&mut self, heartbeat: &Heartbeat, out: &mut Vec<Action>) {
        if heartbeat.from == self.me() || heartbeat.volume != self.state.volume {
            return;
        }
        let heard = self.pulse.hear(heartbeat);
        if heard == Heard::Stale {
            return;
        }
        self.heard_at = Some(self.now);
        let Heard::Accepted { newest, lease_from } = heard else { return };
        if newest {
            self.peer_record = heartbeat.record;
            self.peer_serving = heartbeat.serving;
        }
        let ours = heartbeat.record == self.state.record;
        if heartbeat.released && newest && (ours || self.detach.fronted) {
            self.promise_until = self.promise_until.min(self.now);
        } else if !heartbeat.released {
            let until = self.after(self.cfg.timing.deadtime);
            self.promise_until = self.promise_until.max(until);
            if self.vote.as_ref().is_some_and(|vote| vote.is_reading() && vote.is_solo())
                && !self.is_primary()
                && !self.detach.fronted
            {
                self.vote = None;
            }
        }
        let ours = ours || self.front_holds(heartbeat.record);
        if ours && self.both() && self.is_primary() {
            let from = if self.cfg.mutations.lease_from_echo_arrival {
                lease_from.map(|_| self.now)
            } else {
                lease_from
            };
            self.lease_from = self.lease_from.max(from);
        }
        if let Some(theirs) = heartbeat.record {
            self.told_record(theirs, heartbeat.from, out);
        }
    }

    /// The peer went on alone under a higher record: this copy is out, stable at once.
    fn told_record(&mut self, theirs: Record, from: NodeId, out: &mut Vec<Action>) {
        let higher = self.state.record.is_some_and(|mine| theirs.v > mine.v);
        let swapping = self.vote.as_ref().is_some_and(|vote| vote.is_swapping());
        if higher && self.both() && theirs.members.solo() == Some(from) && !swapping {
            self.removed(theirs, out);
        }
    }

    /// By the record (of the witness or of the peer) this node is no member any more.
    pub(super) fn removed(&mut self, record: Record, out: &mut Vec<Action>) {
        (self.confirmed, self.continuity) = (false, false);
        if self.store.is_some() || self.state.record == Some(record) || !self.both() || self.failed.is_some()
        {
            return;
        }
        self.drop_forced(out);
        self.handing = None;
        out.push(Order::Tell(Notice::Removed { record }).into());
        self.put(State { record: Some(record), ..self.state.clone() }, After::Out, out);
        self.close_link(out);
    }

    /// What is promised anew at a join and when ownership is given away.
    pub(super) fn promise_again(&mut self) {
        if !self.cfg.mutations.forget_promise {
            self.promise_until = self.promise_until.max(self.after(self.cfg.timing.deadtime));
        }
    }

    pub(super) fn peer_released(&mut self, boot_epoch: u64) {
        if self.pulse.peer_epoch().unwrap_or(0).max(self.state.peer_boot_epoch) == boot_epoch {
            self.promise_until = self.promise_until.min(self.now);
            self.peer_serving = false;
        }
    }

    pub(super) fn needs_lease(&self) -> bool {
        let decides = self.cfg.arbitration != Arbitration::Manual || self.detach.front.is_some();
        self.both() && decides && !self.join_unsent && !self.cfg.mutations.no_lease
    }

    pub(super) fn lease_valid(&self) -> bool {
        !self.needs_lease() || self.lease_from.is_some_and(|from| !self.passed(from, self.lease_span()))
    }

    pub(super) fn lease_span(&self) -> Span {
        let span = self.cfg.timing.lease();
        if self.cfg.mutations.lease_too_long { span + span } else { span }
    }

    /// Freezes when the lease lapses, thaws when it is back in time, demotes when it is not.
    pub(super) fn lease(&mut self, out: &mut Vec<Action>) {
        if self.serve == Serve::Kept {
            return self.kept_step(out);
        }
        if self.serve == Serve::Down || self.serve == (Serve::Dropping { graceful: false }) {
            return;
        }
        let valid = self.lease_valid();
        if valid && self.frozen {
            self.frozen = false;
            self.demote_at = None;
            out.push(Order::Thaw.into());
        } else if !valid && !self.frozen {
            self.frozen = true;
            self.demote_at = Some(self.after(self.cfg.timing.release));
            out.push(Order::Freeze.into());
            out.push(Order::Tell(Notice::LeaseLapsed).into());
        } else if self.frozen && self.demote_at.is_some_and(|at| self.now >= at) {
            self.drop_forced(out);
        }
    }

    /// Stops serving now and leaves the peer.
    pub(super) fn drop_forced(&mut self, out: &mut Vec<Action>) {
        let served = !matches!(self.serve, Serve::Down | Serve::Dropping { graceful: false });
        self.stop_serving(out);
        if served {
            self.close_link(out);
        }
    }

    /// Stops serving now: what waits fails, what may differ is marked.
    pub(super) fn stop_serving(&mut self, out: &mut Vec<Action>) {
        self.confirmed = false;
        self.last_session = None;
        if self.serve == Serve::Down || self.serve == (Serve::Dropping { graceful: false }) {
            return;
        }
        self.mark_unsafe(out);
        for op in self.outbox.select(|_| true) {
            self.outbox.remove(op);
            out.push(Action::Fail { op, refusal: Refusal::Stopped });
        }
        self.serve = Serve::Dropping { graceful: false };
        self.frozen = false;
        self.demote_at = None;
        self.lease_from = None;
        self.handing = None;
        out.push(Order::Demote { graceful: false }.into());
    }

    pub(super) fn promoted(&mut self) {
        if self.serve == Serve::Raising {
            self.serve = Serve::Up;
        }
    }

    pub(super) fn promote_failed(&mut self, out: &mut Vec<Action>) {
        if self.serve == Serve::Raising {
            self.serve = Serve::Down;
            self.frozen = false;
            self.demote_at = None;
            self.idle = Some("mounting or starting the services failed".into());
            out.push(
                Order::Tell(Notice::Fault { text: "mounting or starting the services failed".into() }).into(),
            );
            self.refuse_waiting(out);
        }
    }

    /// Nobody waits any more. In a member session what was begun comes to its end on both copies. Else it may be on
    /// one copy only: it is marked, and the copies are made equal before they count as equal again.
    pub(super) fn refuse_waiting(&mut self, out: &mut Vec<Action>) {
        let member = self.is_member();
        if !member && !self.outbox.select(|op| op.started && op.kind.writes()).is_empty() {
            self.last_session = None;
            self.mark_unsafe(out);
        }
        for op in self.outbox.select(|op| !member || !op.started) {
            self.outbox.remove(op);
            out.push(Action::Fail { op, refusal: Refusal::Stopped });
        }
    }

    pub(super) fn demoted(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.serve, Serve::Dropping { .. }) {
            return;
        }
        self.serve = Serve::Down;
        self.frozen = false;
        self.demote_at = None;
        self.refuse_waiting(out);
        self.next_beat = self.now;
    }

    /// Mounts when the gate opens.
    pub(super) fn raise(&mut self, out: &mut Vec<Action>) {
        if !self.is_primary() || !matches!(self.serve, Serve::Down | Serve::Kept) {
            return;
        }
        let facts = self.facts();
        let Ok(right) = facts.serve_right() else { return };
        if right == Right::Sole && self.serves_on(out) {
            return;
        }
        if gate_promote(self.me(), &self.state, right).is_ok() {
            self.memory.serves(right, facts);
            if std::mem::take(&mut self.detach.fronted) {
                out.push(Order::Tell(Notice::TookOver).into());
            }
            self.serve = Serve::Raising;
            out.push(Order::Promote.into());
        }
    }

    /// This node is trying to go on without the peer.
    pub(super) fn taking(&self) -> bool {
        self.vote.as_ref().is_some_and(|vote| vote.is_solo())
            || self.store.as_ref().is_some_and(|storing| storing.then == After::Solo)
            || self.is_shooting()
    }

    pub(super) fn take(&mut self, out: &mut Vec<Action>) {
        if self.vote.as_ref().is_some_and(|vote| vote.is_solo() || vote.is_swapping()) {
            return;
        }
        // Cheap, and true of nearly every step.
        if self.is_member() && self.forced.is_none() || !self.both() {
            return;
        }
        let facts = self.facts();
        let Ok(right) = facts.alone() else { return };
        if right == Right::Fenced {
            return self.shoot(facts, out);
        }
        let Some(mine) = self.state.record else { return };
        let reason = match right {
            Right::Forced => GenReason::Forced,
            _ if self.detach.fronted => GenReason::PeerDisk,
            _ => GenReason::WentSolo,
        };
        let asks = self.cfg.arbitration == Arbitration::Witness && !self.cfg.mutations.no_witness_vote;
        if asks && self.now < self.vote_retry_at {
            return;
        }
        self.memory.goes_alone(right, facts);
        let id = crate::base::Generation(self.draw());
        let entry = GenEntry { id, minted_by: self.me(), at_v: mine.v + 1, reason, first_txn: 0 };
        if asks {
            self.vote = None;
            self.ask_witness(Goal::Solo { entry }, out);
        } else {
            self.store_solo(entry, right, out);
        }
    }

    /// The right was obtained: through the gate, then onto the disk.
    pub(super) fn store_solo(&mut self, entry: GenEntry, right: Right, out: &mut Vec<Action>) {
        let me = self.me();
        if let Err(why) = gate_promote(me, &self.state, right) {
            out.push(Order::Tell(Notice::Fault { text: why.to_string() }).into());
            return;
        }
        self.memory.right = Some(right);
        let mut gens = self.state.gens.clone();
        gens.push(entry);
        let surplus = gens.len().saturating_sub(crate::base::limits::GENERATIONS_MAX);
        gens.drain(..surplus);
        let record = Record { v: entry.at_v, members: Members::only(me), primary: me };
        let mut apart = self.state.apart;
        if self.both() {
            // What the peer writes here over the link is not in the log of a mount of this node.
            let untouched = if self.detach.fronted { Since::Unknown } else { Since::Untouched };
            let since = self.side.log.map_or(untouched, |(txn, ino)| Since::From { txn, ino });
            apart = Apart { led: self.is_primary(), since, verdict: None };
        }
        self.put(State { record: Some(record), gens, apart, ..self.state.clone() }, After::Solo, out);
    }

    /// Alone by a stable record: what waited may go on.
    pub(super) fn solo_stored(&mut self, out: &mut Vec<Action>) {
        self.lost_at = None;
        self.forced = None;
        self.back_ended();
        self.join_unsent = false;
        (self.confirmed, self.continuity, self.fencing) = (false, false, None);
        self.last_session = None;
        self.lease_from = None;
        self.handing = None;
        self.forget_window(out);
        if let Some(record) = self.state.record {
            let silent = self.heard_at.map(|at| self.now.since(at));
            let right = self.memory.right.take();
            out.push(Order::Tell(Notice::WentSolo { record, right, silent }).into());
        }
        self.detach.fronted |= super::front::may_be_fronted(&self.state);
        if self.is_fronted() {
            return self.front_granted(out);
        }
        if self.serve == Serve::Down && !self.detach.fronted {
            out.push(Order::Tell(Notice::TookOver).into());
        }
        // Whoever was refused under the earlier record is looked at again.
        self.close_link(out);
    }

    pub(super) fn operator(&mut self, operator: Operator, out: &mut Vec<Action>) {
        match operator {
            Operator::Promote { peer_is_down } => {
                self.idle = None;
                if peer_is_down && self.both() && !self.is_member() {
                    self.close_link(out);
                    self.forced = Some(self.now);
                    // Asked again as what it is now: by the word the witness knows later why it was not waited for.
                    self.vote.take_if(|vote| vote.is_solo() && vote.is_reading());
                } else if peer_is_down && self.sole() && self.conv.is_none() {
                    // Which side of a split serves is the operator's word; it stays a split.
                    self.split = false;
                } else if !self.is_primary() {
                    self.ask_handover(out);
                }
            }
            Operator::PromoteOld => self.promote_old(out),
            Operator::Demote => {
                self.idle = Some("demoted by the operator".into());
                self.drop_gracefully(out);
            }
            Operator::Switchover if self.is_primary() => self.asked_to_hand_over(),
            Operator::Switchover => self.ask_handover(out),
            Operator::Connect => {
                if self.leaving.is_some() {
                    // The peer was told that this session is over.
                    self.close_link(out);
                }
                self.disconnected = false;
            }
            Operator::Disconnect => self.disconnect(out),
            Operator::Hold(hold) => self.hold = hold,
            Operator::FenceConfirm { nonce } => self.fence_confirm(nonce, out),
            Operator::Verify(from) => self.verify_start(from, out),
            Operator::PauseResync(span) => self.pause_resync(span, out),
            Operator::ResumeResync => self.resume_resync(false, out),
            Operator::ResyncTurn(mine) => self.resync_turn(mine),
            Operator::LimitResync(limits) => self.limit_resync(limits),
            Operator::Keep(winner) => self.keep_side(winner, out),
            Operator::Grow { blocks } => self.grow(blocks, out),
            Operator::Retire { incarnation } => self.retire(incarnation, out),
            Operator::StopVerify => self.verify_end(VerifyEnd::Stopped, out),
            Operator::EnrolWitness => {
                self.enrol = true;
                self.in_step = false;
                self.vote_retry_at = self.now;
            }
        }
    }

    pub(super) fn drop_gracefully(&mut self, out: &mut Vec<Action>) {
        if self.serve == Serve::Kept {
            return self.drop_forced(out);
        }
        if matches!(self.serve, Serve::Up | Serve::Raising) {
            self.serve = Serve::Dropping { graceful: true };
            out.push(Order::Demote { graceful: true }.into());
        }
    }
}
