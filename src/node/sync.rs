//! Making two copies equal: as source, and as target.
//!
//! Decides the order: mark the target, exchange marks, copy, flush, record, tell. Does not know which blocks differ.
//! Invariants: bytes flow only where the plan says (I7); the source records the join before the joiner does (I12);
//! nothing is joined before a flush on the target that follows every copy in the stream.

use crate::base::{BlockNo, ExtentNo, Generation, Members, Moment, Record, Span};
use crate::format::{Apart, GenEntry, ResyncMark, State};
use crate::resync::{CopyRun, Plan, Progress};
use crate::wire::{CopyKind, Kind, Message, Run, Seq, Session};

use super::action::{Action, Notice, Order};
use super::config::Arbitration;
use super::event::OpId;
use super::machine::{After, Node};
use super::talk::Phase;
use super::vote::Goal;

/// Copies between two flushes of the target.
const COPIES_PER_BARRIER: u32 = 64;
/// Pause before looking again at blocks that were locked.
const BUSY_PAUSE: Span = Span::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// For the target's mark and its list of what may differ.
    Waiting,
    /// The to-copy map is being made.
    Preparing,
    Copying,
    /// Everything is sent; waiting for the flush behind it.
    Barrier(Seq),
    /// The join is being stored here.
    Storing,
    /// The witness is being told.
    Telling,
    /// The joiner was told.
    Joining,
}

#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Both are members by record; nobody may be served from a difference.
    pub equal: bool,
    kind: CopyKind,
    pub stage: Stage,
    pub ready: bool,
    pub marks_in: bool,
    adopted: bool,
    pub progress: Progress,
    since_barrier: u32,
    /// The scan that is under way began while an operation was running that the target does not get.
    unsent_at_scan: bool,
    pub retry_at: Option<Moment>,
}

impl Source {
    /// Application writes are sent to the target as well: its mark is stable.
    pub(super) fn replicates(&self) -> bool {
        self.stage != Stage::Waiting
    }

    pub(super) fn barrier_sent(&self) -> bool {
        matches!(self.stage, Stage::Barrier(_) | Stage::Storing | Stage::Telling | Stage::Joining)
    }

    /// The join is stored on this node.
    pub(super) fn joined_here(&self) -> bool {
        matches!(self.stage, Stage::Telling | Stage::Joining)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Target {
    pub source_is_peer: bool,
    storing_join: bool,
}

impl Node {
    /// H7 to H9: by bits, unless one side's bitmap says nothing.
    pub(super) fn equal_kind(&self) -> CopyKind {
        let conv = self.conv.as_ref();
        let theirs = conv.and_then(|conv| conv.theirs.as_ref()).is_some_and(|theirs| theirs.full);
        if self.state.full || theirs { CopyKind::Compare } else { CopyKind::Bits }
    }

    pub(super) fn start_source(&mut self, equal: bool, kind: CopyKind, out: &mut Vec<Action>) {
        let Some(conv) = self.conv.as_mut() else { return };
        let flows = conv.settled.is_some()
            || conv.theirs.as_ref().is_some_and(|theirs| crate::resync::may_flow(&conv.mine, theirs));
        debug_assert!(flows, "resync bytes to a copy that is no ancestor (I7)");
        if !flows {
            return self.protocol_error("refusing to copy to a node that is not behind", out);
        }
        self.outbox.forget_acks();
        conv.phase = Phase::Source(Source {
            equal,
            kind,
            stage: Stage::Waiting,
            ready: false,
            marks_in: false,
            adopted: true,
            progress: Progress::new(self.now),
            since_barrier: 0,
            unsent_at_scan: false,
            retry_at: None,
        });
        if equal && conv.theirs.as_ref().is_some_and(|t| t.record.is_some()) {
            self.set_adopted(false);
        }
    }

    fn set_adopted(&mut self, to: bool) {
        if let Some(source) = self.source() {
            source.adopted = to;
        }
    }

    /// The higher record of a cut handover or join is stored here.
    pub(super) fn adopted(&mut self) {
        self.set_adopted(true);
    }

    fn source(&mut self) -> Option<&mut Source> {
        match self.conv.as_mut().map(|conv| &mut conv.phase) {
            Some(Phase::Source(source)) => Some(source),
            _ => None,
        }
    }

    pub(super) fn start_target(&mut self, equal: bool, of: Generation, out: &mut Vec<Action>) {
        let Some(conv) = self.conv.as_mut() else { return };
        conv.phase = Phase::Target(Target { source_is_peer: true, storing_join: false });
        // A member that is made equal under an unchanged record stays one that may take over, and becomes one: both
        // agreed on this very record just now, the peer acknowledges nothing before the join, and any mix of what two
        // members had un-flushed is a legal state (H7).
        let agreed = matches!(conv.decision.map(|d| d.plan), Some(Plan::Equalise { record, .. })
            if self.state.record == Some(record));
        self.confirmed = equal && agreed && !self.is_primary();
        self.continuity = self.confirmed;
        let mark = ResyncMark::Target { of };
        if equal || self.state.resync == mark {
            self.target_marked(out);
        } else {
            let state = State { resync: mark, ..self.state.clone() };
            self.put(state, After::TargetMark, out);
        }
    }

    /// This copy is marked inconsistent, stable: bytes may come.
    pub(super) fn target_marked(&mut self, out: &mut Vec<Action>) {
        let Some(link) = self.link else { return };
        let Some(conv) = self.conv.as_ref().filter(|conv| conv.receives()) else { return };
        let session = conv.id;
        out.push(Action::Send { link, message: Message::TargetReady { session } });
        let kind = match conv.decision.map(|decision| decision.plan) {
            Some(Plan::Resync { kind, .. }) => kind,
            _ => self.equal_kind(),
        };
        out.push(Action::SendMarks { session, kind });
        if kind == CopyKind::Compare {
            out.push(Action::StartCopy { session, kind, source: false });
        }
    }

    fn is_session(&self, session: Session) -> bool {
        self.conv.as_ref().is_some_and(|conv| conv.id == session)
    }

    pub(super) fn marks_read(&mut self, session: Session, runs: Vec<Run>, last: bool, out: &mut Vec<Action>) {
        if let Some(link) = self.link.filter(|_| self.is_session(session)) {
            out.push(Action::Send { link, message: Message::Marks { session, runs, last } });
        }
    }

    pub(super) fn digests_read(
        &mut self,
        session: Session,
        extent: ExtentNo,
        last: bool,
        out: &mut Vec<Action>,
    ) {
        if let Some(link) = self.link.filter(|_| self.is_session(session)) {
            out.push(Action::SendDigests { link, session, extent, last });
        }
    }

    pub(super) fn target_ready(&mut self) {
        if let Some(source) = self.source() {
            source.ready = true;
        }
    }

    pub(super) fn target_marks(&mut self, runs: Vec<Run>, last: bool, out: &mut Vec<Action>) {
        let ignore = self.cfg.mutations.ignore_target_marks;
        let Some(session) = self.conv.as_ref().map(|conv| conv.id) else { return };
        let inside = runs.iter().all(|run| run.first.plus(run.count).0 <= self.cfg.blocks);
        if !inside {
            return self.protocol_error("the peer marks blocks outside the volume", out);
        }
        if self.source().is_some() {
            let runs = if ignore { Vec::new() } else { runs };
            out.push(Action::AddMarks { session, runs, last });
        }
    }

    pub(super) fn marks_added(&mut self, session: Session) {
        if self.is_session(session)
            && let Some(source) = self.source()
        {
            source.marks_in = true;
        }
    }

    pub(super) fn target_digests(&mut self, extent: ExtentNo, last: bool, out: &mut Vec<Action>) {
        let Some(session) = self.conv.as_ref().map(|conv| conv.id) else { return };
        let ignore = self.cfg.mutations.ignore_target_marks;
        let Some(source) = self.source() else { return };
        if source.kind == CopyKind::Compare {
            out.push(Action::CompareDigests { session, extent, last });
        } else if !source.marks_in && !ignore {
            out.push(Action::AddDigests { session, extent });
        }
    }

    pub(super) fn copy_ready(&mut self, session: Session, total: u64, out: &mut Vec<Action>) {
        let (me, now) = (self.me(), self.now);
        if !self.is_session(session) {
            return;
        }
        let Some(source) = self.source().filter(|source| source.stage == Stage::Preparing) else { return };
        source.progress.begin(total, now);
        source.stage = Stage::Copying;
        let kind = source.kind;
        out.push(Order::Tell(Notice::ResyncStarted { source: me, kind, blocks: total }).into());
    }

    pub(super) fn copy_read(
        &mut self,
        op: OpId,
        first: BlockNo,
        count: u64,
        hole: bool,
        out: &mut Vec<Action>,
    ) {
        let now = self.now;
        let link = self.link;
        let id = self.conv.as_ref().map(|conv| conv.id);
        let copying = self.source().is_some_and(|source| source.stage == Stage::Copying);
        let (Some(link), Some(session), true) = (link, id, copying) else {
            out.push(Action::DropCopy { op });
            return;
        };
        let kind = if hole { Kind::CopyHole } else { Kind::Copy };
        let run = Run { first, count };
        let seq = self.outbox.send(None, kind, run, now);
        out.push(Action::SendCopy { op, link, session, seq });
        self.copy_taken(count, hole);
        if let Some(source) = self.source() {
            source.progress.asked = false;
            source.progress.flying.insert(seq, CopyRun { run, done: false });
            source.since_barrier += 1;
        }
    }

    pub(super) fn copy_exhausted(&mut self, session: Session, busy: u64) {
        if !self.is_session(session) {
            return;
        }
        if let Some(source) = self.source() {
            source.progress.asked = false;
            source.progress.exhausted = true;
            source.progress.busy = busy;
        }
    }

    fn barrier(&mut self, out: &mut Vec<Action>) -> Option<Seq> {
        let link = self.link?;
        let session = self.conv.as_ref()?.id;
        let none = Run { first: BlockNo(0), count: 0 };
        let seq = self.outbox.send(None, Kind::Barrier, none, self.now);
        let (first, count) = (none.first, none.count);
        let message = Message::Op { session, seq, kind: Kind::Barrier, first, count };
        out.push(Action::Send { link, message });
        Some(seq)
    }

    /// The next thing a source can do.
    pub(super) fn source_step(&mut self, out: &mut Vec<Action>) {
        let Some(stage) = self.source().map(|source| source.stage) else { return };
        match stage {
            Stage::Waiting => self.prepare(out),
            Stage::Preparing => {}
            Stage::Copying => self.copying(out),
            Stage::Barrier(seq) => {
                let flown = self.source().is_some_and(|source| source.progress.flying.is_empty());
                if flown && self.outbox.last() >= seq && !self.outbox.flies(seq) {
                    self.barrier_done(out);
                }
            }
            Stage::Storing | Stage::Joining => {}
            Stage::Telling => self.tell_joiner(out),
        }
    }

    fn prepare(&mut self, out: &mut Vec<Action>) {
        let (stored, now) = (self.store.is_none(), self.now);
        let Some(session) = self.conv.as_ref().map(|conv| conv.id) else { return };
        let unchanged =
            self.conv.as_ref().and_then(|conv| conv.decision).is_some_and(|decision| match decision.plan {
                Plan::Equalise { record, .. } => self.state.record == Some(record),
                _ => true,
            });
        let Some(source) = self.source() else { return };
        if stored && source.ready && source.marks_in && (source.adopted || unchanged) {
            source.stage = Stage::Preparing;
            source.progress.moved_at = now;
            let kind = source.kind;
            out.push(Action::StartCopy { session, kind, source: true });
        }
    }

    fn copying(&mut self, out: &mut Vec<Action>) {
        let (now, budget) = (self.now, self.cfg.copy_blocks_max);
        // What an operation has locked is skipped by the scan: it must be in the stream itself.
        let unsent = !self.outbox.select(|op| !op.sent && op.kind.writes()).is_empty();
        let waits = !self.outbox.is_empty();
        let Some(session) = self.conv.as_ref().map(|conv| conv.id) else { return };
        let Some(equal) = self.source().map(|source| source.equal) else { return };
        let allowed = self.copy_allowed(equal);
        let Some(source) = self.source() else { return };
        if source.retry_at.is_some_and(|at| now >= at) {
            source.retry_at = None;
            source.progress.exhausted = false;
        }
        let want = source.progress.want(budget, waits, allowed);
        if want > 0 {
            source.progress.asked = true;
            source.unsent_at_scan = unsent;
            out.push(Action::Copy { session, blocks: want });
        }
        if source.since_barrier >= COPIES_PER_BARRIER {
            source.since_barrier = 0;
            self.barrier(out);
            return;
        }
        if !source.progress.exhausted || source.retry_at.is_some() || source.progress.in_flight() > 0 {
            return;
        }
        let in_the_way = source.progress.busy == u64::MAX;
        if unsent || in_the_way || (source.progress.busy > 0 && source.unsent_at_scan) {
            source.retry_at = Some(now + BUSY_PAUSE);
            return;
        }
        if !equal && !self.both() && !self.witness_ready(out) {
            return;
        }
        if let Some(seq) = self.barrier(out) {
            self.set_stage(Stage::Barrier(seq));
        }
    }

    /// Before a join the witness must show exactly what is stored here.
    pub(super) fn witness_ready(&mut self, out: &mut Vec<Action>) -> bool {
        if self.cfg.arbitration != Arbitration::Witness || self.in_step {
            return true;
        }
        self.ask_witness(Goal::Follow, out);
        false
    }

    /// Both copies are equal as of the barrier: record it here first.
    fn barrier_done(&mut self, out: &mut Vec<Action>) {
        let both = self.both();
        let Some(record) = self.state.record else { return };
        if both {
            self.set_stage(Stage::Telling);
            return;
        }
        if self.store.is_some() {
            return;
        }
        let next = Record { v: record.v + 1, members: Members::BOTH, primary: self.me() };
        if self.cfg.mutations.joiner_first {
            self.send_join(next, out);
        }
        self.set_stage(Stage::Storing);
        self.in_step = false;
        self.join_unsent = true;
        let (record, diverged, apart) = (Some(next), false, Apart::default());
        self.put(State { record, diverged, apart, ..self.state.clone() }, After::Join1, out);
    }

    fn set_stage(&mut self, stage: Stage) {
        let now = self.now;
        if let Some(source) = self.source() {
            source.stage = stage;
            source.progress.moved_at = now;
        }
    }

    pub(super) fn join1_stored(&mut self) {
        if self.source().is_some_and(|source| source.stage == Stage::Storing) {
            self.set_stage(Stage::Telling);
        }
        // The only member a moment ago, in this process: whatever the joiner stores, it can go on alone only by ending
        // this process.
        self.continuity = true;
        if self.conv.is_none() {
            self.lost_at.get_or_insert(self.now);
        }
    }

    fn tell_joiner(&mut self, out: &mut Vec<Action>) {
        let equal = self.source().is_some_and(|source| source.equal);
        if !equal && !self.witness_ready(out) {
            return;
        }
        let Some(record) = self.state.record else { return };
        self.set_stage(Stage::Joining);
        self.send_join(record, out);
    }

    fn send_join(&mut self, record: Record, out: &mut Vec<Action>) {
        let Some(link) = self.link else { return };
        let Some(session) = self.conv.as_ref().map(|conv| conv.id) else { return };
        let gens = self.state.gens.clone();
        // The joiner's promise starts when it stores the join, which is not before this is sent.
        if self.join_unsent {
            self.lease_from = self.lease_from.max(Some(self.now));
            self.join_unsent = false;
        }
        out.push(Action::Send { link, message: Message::Join { session, record, gens } });
    }

    /// The source says that both copies are equal: become (or stay) a member, stable first.
    pub(super) fn join(&mut self, record: Record, gens: Vec<GenEntry>, out: &mut Vec<Action>) {
        let head = gens.last().map_or(Generation(0), |entry| entry.id);
        let Some(Phase::Target(target)) = self.conv.as_mut().map(|conv| &mut conv.phase) else {
            return self.protocol_error("the peer ended a resync that is not under way", out);
        };
        if target.storing_join || record.members != Members::BOTH || gens.is_empty() || self.store.is_some() {
            return self.protocol_error("the peer's join makes no sense", out);
        }
        target.storing_join = true;
        let (resync, bitmap_base) = (ResyncMark::None, head);
        let record = Some(record);
        let (full, diverged, apart) = (false, false, Apart::default());
        let retired = self.retired_by_both();
        let next = State { record, gens, resync, bitmap_base, full, diverged, ..self.state.clone() };
        let state = State { apart, retired, ..next };
        self.put(state, After::Joined, out);
    }

    /// This copy is a member by its own record.
    pub(super) fn joined_stored(&mut self, out: &mut Vec<Action>) {
        self.promise_again();
        let Some(link) = self.link else { return };
        let Some(conv) = self.conv.as_ref().filter(|conv| conv.receives()) else { return };
        let session = conv.id;
        self.in_step = false;
        self.forget_window(out);
        self.enter_member(out);
        out.push(Action::Send { link, message: Message::Joined { session } });
    }

    /// The joiner stored the join.
    pub(super) fn peer_joined(&mut self, out: &mut Vec<Action>) {
        if !self.source().is_some_and(|source| source.stage == Stage::Joining) {
            return self.protocol_error("the peer joined without being asked", out);
        }
        out.push(Order::Tell(Notice::ResyncFinished).into());
        let settled = self.outbox.clear_old_window();
        if !settled.is_empty() {
            out.push(Action::Settled { runs: settled });
        }
        self.enter_member(out);
    }
}
