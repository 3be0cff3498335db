//! The sending end: operations in flight, the window of blocks that the peer has but may still lose.
//!
//! Decides when an operation is finished. Does not know whether operations may be started. Invariants: every block
//! sent and not known to be stable on the peer is in `flying` or in `window`; both survive the end of a session
//! until the caller has marked them (`clear_window`) or the peer flushed.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BlockNo, Moment};
use crate::wire::{Kind, Run, Seq};

use super::merge;

/// An operation of the caller: unique while it is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// One operation from its issue to its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: Kind,
    pub run: Run,
    /// When it was issued.
    pub at: Moment,
    /// Position in the order of issue: held operations start, and lost ones are sent again, in this order.
    order: u64,
    pub started: bool,
    pub local_done: bool,
    /// Done on the peer, in any session of this record.
    pub peer_done: bool,
    /// Sent in the current session.
    pub sent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Flying {
    op: Option<OpId>,
    kind: Kind,
    run: Run,
    /// Grows over all sessions of the process: what a flush covers.
    stamp: u64,
    at: Moment,
}

/// What an acknowledgement of the peer brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Stable on the peer now.
    pub settled: Vec<Run>,
    /// The last flush among what is done.
    pub flushed: Option<Seq>,
}

#[derive(Clone, Debug, Default)]
pub struct Outbox {
    ops: BTreeMap<OpId, Op>,
    /// Finished as far as they ever will before the next event: looked at by `complete`.
    ready: BTreeSet<OpId>,
    next_order: u64,
    next_stamp: u64,
    last: Seq,
    flying: BTreeMap<Seq, Flying>,
    window: BTreeMap<u64, Run>,
    /// Stamps up to here belong to earlier sessions: a flush says nothing about them, the peer may have lost them
    /// with its power in between.
    old: u64,
    done_at: Moment,
    /// Something was issued since this was asked.
    worked: bool,
}

impl Outbox {
    pub fn issue(&mut self, id: OpId, kind: Kind, first: BlockNo, count: u64, at: Moment) {
        self.worked = true;
        let order = self.next_order;
        self.next_order += 1;
        let run = Run { first, count };
        let (started, local_done, peer_done, sent) = (false, false, false, false);
        self.ops.insert(id, Op { kind, run, at, order, started, local_done, peer_done, sent });
    }

    /// Whether operations wait, or came since the last question.
    pub fn take_worked(&mut self) -> bool {
        std::mem::take(&mut self.worked) || !self.ops.is_empty()
    }

    pub fn op(&mut self, id: OpId) -> Option<&mut Op> {
        self.ops.get_mut(&id)
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Operations for which `test` holds, in order of issue.
    pub fn select(&self, test: impl Fn(&Op) -> bool) -> Vec<OpId> {
        let mut found: Vec<(u64, OpId)> =
            self.ops.iter().filter(|(_, op)| test(op)).map(|(id, op)| (op.order, *id)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// A new session: its stream starts at 1. Nothing may be flying.
    pub fn start_session(&mut self, now: Moment) {
        self.end_session();
        self.last = Seq(0);
        self.old = self.next_stamp;
        self.done_at = now;
    }

    /// The peer has run through since the last member session: what earlier ones left is covered by its next flush.
    pub fn trust_window(&mut self) {
        self.old = 0;
    }

    /// What was flying is in the window from now on: the peer has it or not.
    pub fn end_session(&mut self) {
        for flying in std::mem::take(&mut self.flying).into_values() {
            if flying.kind.writes() && !flying.kind.is_copy() {
                self.window.insert(flying.stamp, flying.run);
            }
        }
        self.ops.values_mut().for_each(|op| op.sent = false);
    }

    /// Puts something into the stream.
    pub fn send(&mut self, op: Option<OpId>, kind: Kind, run: Run, now: Moment) -> Seq {
        self.last = Seq(self.last.0 + 1);
        self.next_stamp += 1;
        self.flying.insert(self.last, Flying { op, kind, run, stamp: self.next_stamp, at: now });
        if let Some(op) = op.and_then(|id| self.ops.get_mut(&id)) {
            op.sent = true;
        }
        self.last
    }

    /// Last number used in this session.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// The peer did everything up to `upto`.
    pub fn acked(&mut self, upto: Seq, now: Moment) -> Acked {
        let rest = self.flying.split_off(&Seq(upto.0.saturating_add(1)));
        let done = std::mem::replace(&mut self.flying, rest);
        if !done.is_empty() {
            self.done_at = now;
        }
        let mut covered = None;
        for (seq, flying) in done {
            if let Some(id) = flying.op
                && let Some(op) = self.ops.get_mut(&id)
            {
                op.peer_done = true;
                self.ready.insert(id);
            }
            if flying.kind.writes() {
                self.window.insert(flying.stamp, flying.run);
            }
            if flying.kind.flushes() {
                covered = Some((seq, flying.stamp));
            }
        }
        let Some((seq, stamp)) = covered else { return Acked::default() };
        let mut later = self.window.split_off(&(stamp + 1));
        let settled = self.window.split_off(&(self.old + 1));
        self.window.append(&mut later);
        Acked { settled: merge(settled.into_values().collect()), flushed: Some(seq) }
    }

    /// The peer may have lost what it had: everything in flight is sent again.
    pub fn forget_acks(&mut self) {
        self.ops.values_mut().for_each(|op| op.peer_done = false);
    }

    pub fn local_done(&mut self, id: OpId) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.local_done = true;
            self.ready.insert(id);
        }
    }

    /// Takes out what may be acknowledged, in order of issue. `needs_peer`: every member must be done.
    pub fn complete(&mut self, needs_peer: impl Fn(&Op) -> bool) -> Vec<(OpId, Op)> {
        let may = |op: &Op| op.started && op.local_done && (op.peer_done || !needs_peer(op));
        let mut found: Vec<(OpId, Op)> = self
            .ready
            .iter()
            .filter_map(|id| self.ops.get(id).filter(|op| may(op)).map(|op| (*id, *op)))
            .collect();
        found.sort_unstable_by_key(|(_, op)| op.order);
        for (id, _) in &found {
            self.ops.remove(id);
            self.ready.remove(id);
        }
        found
    }

    pub fn remove(&mut self, id: OpId) {
        self.ops.remove(&id);
        self.ready.remove(&id);
    }

    /// Everything the peer may lack or may still lose: window, flying, and started operations that it did not finish.
    pub fn unsafe_runs(&self, with_window: bool) -> Vec<Run> {
        let window = self.window.values().copied().filter(|_| with_window);
        let flying = self.flying.values().filter(|f| f.kind.writes() && !f.kind.is_copy()).map(|f| f.run);
        let ops = self.ops.values().filter(|op| op.started && op.kind.writes() && !op.peer_done);
        merge(window.chain(flying).chain(ops.map(|op| op.run)).collect())
    }

    /// What the peer may still lose of this session, and of earlier ones if it has run through since.
    pub fn doubt_of_session(&self) -> Vec<Run> {
        let window = self.window.range(self.old + 1..).map(|(_, run)| *run);
        let flying = self.flying.values().filter(|f| f.kind.writes() && !f.kind.is_copy()).map(|f| f.run);
        merge(window.chain(flying).collect())
    }

    /// The window was marked, or the peer's copy was made equal: forgets it and says what it was.
    pub fn clear_window(&mut self) -> Vec<Run> {
        merge(std::mem::take(&mut self.window).into_values().collect())
    }

    /// The peer's copy was made equal, and flushed: what earlier sessions left is no longer in doubt.
    pub fn clear_old_window(&mut self) -> Vec<Run> {
        let this = self.window.split_off(&(self.old + 1));
        merge(std::mem::replace(&mut self.window, this).into_values().collect())
    }

    /// The peer has not said that this one is done.
    pub fn flies(&self, seq: Seq) -> bool {
        self.flying.contains_key(&seq)
    }

    /// Since when the peer has not moved although something is flying.
    pub fn waiting_since(&self) -> Option<Moment> {
        self.flying.first_key_value().map(|(_, flying)| flying.at.max(self.done_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Moment = Moment(0);

    fn run(first: u64) -> Run {
        Run { first: BlockNo(first), count: 1 }
    }

    fn outbox(kinds: &[Kind]) -> Outbox {
        let mut outbox = Outbox::default();
        outbox.start_session(T);
        for (n, kind) in kinds.iter().enumerate() {
            let id = OpId(n as u64);
            outbox.issue(id, *kind, BlockNo(n as u64 * 10), u64::from(kind.writes()), T);
            outbox.op(id).unwrap().started = true;
            let run = outbox.op(id).unwrap().run;
            outbox.send(Some(id), *kind, run, T);
        }
        outbox
    }

    #[test]
    fn an_operation_is_finished_when_both_members_are_and_only_once() {
        let mut outbox = outbox(&[Kind::Write, Kind::Write]);
        outbox.local_done(OpId(0));
        assert!(outbox.complete(|_| true).is_empty());
        outbox.acked(Seq(2), T);
        let mut complete = |n| {
            if let Some(n) = n {
                outbox.local_done(n);
            }
            outbox.complete(|_| true).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(complete(None), vec![OpId(0)]);
        assert!(complete(None).is_empty());
        assert_eq!(complete(Some(OpId(1))), vec![OpId(1)]);
    }

    #[test]
    fn an_acknowledged_write_stays_in_the_window_until_a_later_flush() {
        let mut outbox = outbox(&[Kind::Write, Kind::Flush, Kind::Write]);
        assert_eq!(outbox.acked(Seq(1), T).settled, vec![]);
        outbox.local_done(OpId(0));
        outbox.complete(|_| true);
        assert_eq!(outbox.unsafe_runs(true), vec![run(0), run(20)]);
        assert_eq!(outbox.unsafe_runs(false), vec![run(20)]);
        assert_eq!(outbox.acked(Seq(3), T), Acked { settled: vec![run(0)], flushed: Some(Seq(2)) });
        assert_eq!(outbox.unsafe_runs(true), vec![run(20)]);
    }

    #[test]
    fn the_window_outlives_the_session() {
        let mut outbox = outbox(&[Kind::Write, Kind::Write]);
        outbox.acked(Seq(1), T);
        outbox.end_session();
        outbox.start_session(T);
        assert_eq!(outbox.unsafe_runs(true), vec![run(0), run(10)]);
        assert_eq!(outbox.clear_window(), vec![run(0), run(10)]);
    }

    #[test]
    fn a_flush_of_a_later_session_does_not_settle_an_earlier_ones_window() {
        let mut outbox = outbox(&[Kind::Write]);
        outbox.acked(Seq(1), T);
        outbox.start_session(T);
        outbox.send(None, Kind::Write, run(7), T);
        outbox.send(None, Kind::Barrier, Run { first: BlockNo(0), count: 0 }, T);
        let acked = outbox.acked(Seq(2), T);
        assert_eq!(acked.settled, vec![run(7)], "the peer may have lost block 0 with its power in between");
        assert_eq!(outbox.unsafe_runs(true), vec![run(0)]);
        assert_eq!(outbox.clear_old_window(), vec![run(0)]);
    }

    #[test]
    fn a_mere_break_of_the_link_leaves_the_window_to_the_next_flush() {
        let mut outbox = outbox(&[Kind::Write, Kind::Write]);
        outbox.acked(Seq(1), T);
        outbox.start_session(T);
        outbox.trust_window();
        // The second write did not arrive and is sent again, behind a flush that it does not precede.
        outbox.send(None, Kind::Barrier, Run { first: BlockNo(0), count: 0 }, T);
        outbox.send(Some(OpId(1)), Kind::Write, run(10), T);
        let acked = outbox.acked(Seq(1), T);
        assert_eq!(acked.settled, vec![run(0), run(10)]);
        assert_eq!(outbox.unsafe_runs(true), vec![run(10)], "what is sent again is still in doubt");
        outbox.acked(Seq(2), T);
        assert_eq!(outbox.unsafe_runs(true), vec![run(10)]);
    }
}
