//! The data path: from `Issue` to `Complete`, and the receiving side.
//!
//! Decides for each write: replicate or mark, never neither. Does not know contents.

use crate::base::{BlockNo, ExtentNo};
use crate::format::ResyncMark;
use crate::replica::Op;
use crate::wire::{Kind, Message, Seq, Session};

use super::action::{Action, Mark, Notice, Order, Refusal};
use super::event::{OpId, Token};
use super::machine::Node;
use super::talk::Phase;

impl Node {
    pub(super) fn issue(&mut self, op: OpId, kind: Kind, first: BlockNo, count: u64, out: &mut Vec<Action>) {
        if !self.data_open() || kind.is_copy() || kind == Kind::Barrier || !self.in_range(first, count) {
            out.push(Action::Fail { op, refusal: Refusal::Stopped });
            return;
        }
        self.outbox.issue(op, kind, first, count, self.now);
    }

    fn in_range(&self, first: BlockNo, count: u64) -> bool {
        first.plus(count).0 <= self.cfg.blocks
    }

    /// A stream stands that operations are sent through.
    fn sending(&self) -> Option<(super::LinkId, Session)> {
        let conv = self.conv.as_ref()?;
        let open = match &conv.phase {
            Phase::Member => self.is_primary() || self.sole(),
            Phase::Source(source) => source.replicates(),
            _ => false,
        };
        open.then_some((self.link?, conv.id))
    }

    /// Operations may start: alone, or with the peer in a session of this record.
    fn can_start(&self) -> bool {
        if !self.data_open() || self.frozen || self.marking.is_some() || self.front_waits() {
            return false;
        }
        if self.sole() {
            return true;
        }
        self.sending().is_some()
    }

    /// Starts what was held, sends again what a lost session swallowed, acknowledges what is finished.
    pub(super) fn flow(&mut self, out: &mut Vec<Action>) {
        if self.can_start() {
            self.resend(out);
            for id in self.outbox.select(|op| !op.started) {
                self.start(id, out);
            }
        }
        if self.marking.is_some() || self.front_waits() && !self.cfg.mutations.front_unrecorded {
            return;
        }
        // Equalising: what waits is sent again with everything else, and acknowledged when both are members again. So
        // it is when a join was cut behind its first step: the record names both, the peer still lacks blocks, and
        // its word for a flush is good only behind the barrier.
        let lacking = match self.conv.as_ref().map(|conv| &conv.phase) {
            Some(Phase::Source(source)) => source.equal || (self.both() && !source.joined_here()),
            _ => false,
        };
        if lacking {
            return;
        }
        let mutations = self.cfg.mutations;
        let both = self.both() && !(mutations.solo_ack_before_record && self.taking());
        let joining = self.conv.as_ref().is_some_and(|conv| match &conv.phase {
            Phase::Source(source) => !source.equal && source.barrier_sent(),
            _ => false,
        });
        let needs_peer = |op: &Op| {
            let local_only = mutations.ack_before_peer || (mutations.flush_local_only && op.kind.flushes());
            (both || (joining && op.sent)) && !local_only
        };
        self.note_copying();
        for (op, done) in self.outbox.complete(needs_peer) {
            self.note_operation(&done);
            out.push(Action::Complete { op });
        }
    }

    fn start(&mut self, id: OpId, out: &mut Vec<Action>) {
        let sending = self.sending();
        let Some(op) = self.outbox.op(id) else { return };
        op.started = true;
        let (kind, run) = (op.kind, op.run);
        if kind.writes() {
            self.hot = true;
        }
        let send =
            sending.map(|(link, session)| (link, session, self.outbox.send(Some(id), kind, run, self.now)));
        let mark = match (self.both() || !kind.writes(), send) {
            (true, _) => Mark::No,
            (false, Some(_)) => Mark::Differs,
            (false, None) => Mark::ToCopy,
        };
        self.marks |= mark != Mark::No;
        debug_assert!(send.is_some() || mark != Mark::No || !kind.writes(), "replicate or mark");
        out.push(Action::Start { op: id, send, mark });
    }

    /// In a new member session: what was started under an earlier one and did not reach the peer.
    fn resend(&mut self, out: &mut Vec<Action>) {
        if !self.both() {
            return;
        }
        let Some((link, session)) = self.sending() else { return };
        for op in self.outbox.select(|op| op.started && !op.peer_done && !op.sent) {
            let Some(found) = self.outbox.op(op).copied() else { continue };
            let seq = self.outbox.send(Some(op), found.kind, found.run, self.now);
            out.push(Action::Resend { op, link, session, seq });
        }
    }

    pub(super) fn local_failed(&mut self, op: OpId, out: &mut Vec<Action>) {
        if self.detach.front.is_some() || self.can_front() {
            self.fail("the local disk failed under a write", out);
            return self.outbox.local_done(op);
        }
        self.outbox.remove(op);
        out.push(Action::Fail { op, refusal: Refusal::LocalDisk });
        self.fail("the local disk failed under a write", out);
    }

    /// The peer did everything up to `upto`.
    pub(super) fn peer_done(&mut self, session: Session, upto: Seq, out: &mut Vec<Action>) {
        let Some(conv) = self.conv.as_mut() else { return };
        if conv.id != session && !self.cfg.mutations.no_session_check {
            return;
        }
        if upto > self.outbox.last() {
            self.protocol_error("the peer acknowledged what was never sent", out);
            return;
        }
        let target_session = matches!(&conv.phase, Phase::Source(_));
        if let Phase::Source(source) = &mut conv.phase {
            source.progress.done(upto);
        }
        let acked = self.outbox.acked(upto, self.now);
        if let Some(Phase::Source(source)) = self.conv.as_mut().map(|conv| &mut conv.phase)
            && let Some(flush) = acked.flushed
        {
            source.progress.stable(flush, self.now);
        }
        if acked.settled.is_empty() {
            return;
        }
        if target_session {
            for run in &acked.settled {
                out.push(Action::Copied { first: run.first, count: run.count });
            }
        }
        out.push(Action::Settled { runs: acked.settled });
    }

    /// Everything the peer may lack goes into the bitmap before anything else is acknowledged.
    pub(super) fn mark_unsafe(&mut self, out: &mut Vec<Action>) {
        let runs = self.outbox.unsafe_runs(!self.cfg.mutations.mark_only_unacked);
        if runs.is_empty() || self.cfg.mutations.no_marks_on_loss {
            return;
        }
        self.marks = true;
        let token = self.token();
        self.marking = Some(token);
        out.push(Action::Mark { token, runs });
    }

    pub(super) fn marked(&mut self, token: Token, out: &mut Vec<Action>) {
        if self.marking != Some(token) {
            return;
        }
        self.marking = None;
        if self.sole() && self.conv.is_none() {
            self.forget_window(out);
        }
    }

    /// The window is covered by stable marks, or by a peer that is equal.
    pub(super) fn forget_window(&mut self, out: &mut Vec<Action>) {
        let runs = self.outbox.clear_window();
        if !runs.is_empty() {
            out.push(Action::Settled { runs });
        }
    }

    /// An operation of the peer: the next one of the session, and only while this node follows.
    pub(super) fn receive_op(
        &mut self,
        session: Session,
        seq: Seq,
        kind: Kind,
        first: BlockNo,
        count: u64,
        out: &mut Vec<Action>,
    ) {
        let unchecked = self.cfg.mutations.no_session_check;
        if self.failed.is_some() && !unchecked {
            // Never acknowledged; the peer is about to be told.
            return;
        }
        let Some(conv) = self.conv.as_ref().filter(|conv| unchecked || conv.id == session) else { return };
        let may = match &conv.phase {
            Phase::Member | Phase::Fronted => !kind.is_copy(),
            Phase::Target(target) => !kind.is_copy() || (target.source_is_peer && self.may_be_overwritten()),
            _ => false,
        };
        if (!may || self.data_open()) && !unchecked {
            self.protocol_error("the peer sent a write to a node that may not take it", out);
            return;
        }
        if !self.in_range(first, count) || !self.is_shaped(kind, first, count) {
            self.protocol_error("the peer sent a write outside the volume, or of no block", out);
            return;
        }
        if !self.inbox.accept(session, seq, unchecked) {
            self.protocol_error("the peer's operations are out of order", out);
            return;
        }
        self.hot |= kind.writes();
        let mark = self.is_fronted() && !self.cfg.mutations.front_unmarked;
        self.marks |= mark && kind.writes();
        out.push(Action::Apply { session, seq, kind, first, count, mark });
    }

    /// What the image can carry out: at least one block to write, a whole extent to allocate.
    fn is_shaped(&self, kind: Kind, first: BlockNo, count: u64) -> bool {
        let extent = first.extent().first_block();
        match kind {
            Kind::Back => {
                first == extent && count == ExtentNo::BLOCKS.min(self.cfg.blocks.saturating_sub(first.0))
            }
            _ => !kind.writes() || count > 0,
        }
    }

    /// I7 at the receiving end: the plan says that bytes flow this way, and the copy is marked where it must be.
    fn may_be_overwritten(&self) -> bool {
        let Some(conv) = self.conv.as_ref() else { return false };
        let Some(theirs) = conv.theirs.as_ref() else { return false };
        let flows = conv.settled.is_some() || crate::resync::may_flow(theirs, &conv.mine);
        let of = conv.settled.unwrap_or(theirs.head());
        let marked = conv.equalises() || self.state.resync == ResyncMark::Target { of };
        debug_assert!(flows && marked, "resync bytes from a copy that is no descendant (I7)");
        flows && marked
    }

    pub(super) fn applied(&mut self, session: Session, seq: Seq, out: &mut Vec<Action>) {
        let Some(upto) = self.inbox.applied(session, seq) else { return };
        if let Some(link) = self.link
            && self.conv.as_ref().is_some_and(|conv| conv.id == session)
        {
            out.push(Action::Send { link, message: Message::Done { session, upto } });
        }
    }

    /// Nothing the machine knows how to go on from: counted, told, and the session starts again.
    pub(super) fn protocol_error(&mut self, text: &str, out: &mut Vec<Action>) {
        out.push(Order::Tell(Notice::Fault { text: text.to_string() }).into());
        self.close_link(out);
    }
}
