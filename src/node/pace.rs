//! A resync beside everything else: pause, turn and pace, how far it is, and what holds it up.
//!
//! Decides when the source of a resync may ask for more. Does not know what there is to copy. Invariants: copies that
//! somebody waits for (both are members by record) are never held up; a pause has an end and ends by itself; what is
//! held up has a reason.

use crate::base::{Moment, Span};
use crate::replica::Op;
use crate::resync::{Limits, Pace};

use super::action::{Action, Notice, Order};
use super::config::NodeConfig;
use super::machine::Node;
use super::sync::{Source, Stage};
use super::talk::Phase;
use super::view::{ResyncView, Stall};

/// What did not get on for so long is called stalled.
const STALLED_AFTER: Span = Span::from_secs(10);
/// Longest pause: nobody is there any more to remember it.
pub const PAUSE_MAX: Span = Span::from_secs(7 * 24 * 3600);

#[derive(Clone, Debug)]
pub(super) struct Throttle {
    pace: Pace,
    paused_until: Option<Moment>,
    /// Another volume comes first.
    waits: bool,
    /// The newest moment at which a copy was under way.
    copying_at: Option<Moment>,
}

impl Throttle {
    pub(super) fn new(cfg: &NodeConfig, now: Moment) -> Throttle {
        Throttle { pace: Pace::new(cfg.resync, now), paused_until: None, waits: false, copying_at: None }
    }
}

impl Node {
    pub(super) fn pause_resync(&mut self, span: Span, out: &mut Vec<Action>) {
        let until = self.after(span.min(PAUSE_MAX));
        self.throttle.paused_until = Some(until);
        out.push(Order::Tell(Notice::ResyncPaused { span: until.since(self.now) }).into());
    }

    pub(super) fn resume_resync(&mut self, by_itself: bool, out: &mut Vec<Action>) {
        if self.throttle.paused_until.take().is_some() {
            out.push(Order::Tell(Notice::ResyncResumed { by_itself }).into());
            self.touch_source();
        }
    }

    pub(super) fn resync_turn(&mut self, mine: bool) {
        if self.throttle.waits == mine {
            self.throttle.waits = !mine;
            self.touch_source();
        }
    }

    pub(super) fn limit_resync(&mut self, limits: Limits) {
        self.throttle.pace.set_limits(limits);
    }

    /// What was held up on purpose did not stall.
    fn touch_source(&mut self) {
        let now = self.now;
        if let Some(Phase::Source(source)) = self.conv.as_mut().map(|conv| &mut conv.phase) {
            source.progress.moved_at = now;
        }
    }

    pub(super) fn pause_step(&mut self, out: &mut Vec<Action>) {
        let over = self.throttle.paused_until.is_some_and(|until| self.now >= until);
        if over && !self.cfg.mutations.pause_for_ever {
            self.resume_resync(true, out);
        }
    }

    /// Blocks that this source may ask for at this moment.
    pub(super) fn copy_allowed(&mut self, equal: bool) -> u64 {
        match (equal, self.is_held_back()) {
            (true, _) => u64::MAX,
            (false, true) => 0,
            (false, false) => self.throttle.pace.allowed(self.now),
        }
    }

    fn is_held_back(&self) -> bool {
        self.throttle.paused_until.is_some() || self.throttle.waits
    }

    /// A run was read. What was never written costs no more than a message.
    pub(super) fn copy_taken(&mut self, count: u64, hole: bool) {
        self.throttle.pace.take(if hole { 1 } else { count });
        self.throttle.copying_at = Some(self.now);
    }

    /// Looked at in every step: whether a copy is under way beside what applications do.
    pub(super) fn note_copying(&mut self) {
        if let Some(Phase::Source(source)) = self.conv.as_ref().map(|conv| &conv.phase)
            && (source.progress.asked || !source.progress.flying.is_empty())
        {
            self.throttle.copying_at = Some(self.now);
        }
    }

    pub(super) fn note_operation(&mut self, op: &Op) {
        let beside = self.throttle.copying_at.is_some_and(|at| at >= op.at);
        let took = self.now.since(op.at);
        self.throttle.pace.operation(self.now, took, op.kind.flushes(), op.run.count, beside);
    }

    /// When a source that may not ask now may ask again; and when a pause ends.
    pub(super) fn pace_timeout(&self) -> Option<Moment> {
        if self.throttle.paused_until.is_some() {
            return self.throttle.paused_until;
        }
        let waits = self.source_ref().is_some_and(|source| {
            let progress = &source.progress;
            !source.equal && source.stage == Stage::Copying && !progress.asked && !progress.exhausted
        });
        self.throttle.pace.ready_at(self.now).filter(|_| waits && !self.throttle.waits)
    }

    fn source_ref(&self) -> Option<&Source> {
        match self.conv.as_ref().map(|conv| &conv.phase) {
            Some(Phase::Source(source)) => Some(source),
            _ => None,
        }
    }

    /// The resync that this node drives.
    pub(super) fn resync_view(&self) -> Option<ResyncView> {
        let source = self.source_ref()?;
        let progress = &source.progress;
        let speed = progress.speed(self.now).filter(|_| source.stage == Stage::Copying);
        let left = progress.total.saturating_sub(progress.copied);
        let seconds = speed.and_then(|speed| left.checked_div(speed));
        let stalled = self.stalled(source);
        Some(ResyncView {
            copied: progress.copied,
            total: progress.total,
            blocks_per_second: speed,
            left: seconds.map(Span::from_secs).filter(|_| stalled.is_none() && !self.is_held_back()),
            urgent: source.equal,
            waits_for_turn: self.throttle.waits && !source.equal,
            stalled,
        })
    }

    pub(super) fn resync_paused(&self) -> Option<Moment> {
        self.throttle.paused_until
    }

    pub(super) fn resync_limits(&self) -> Limits {
        self.throttle.pace.limits()
    }

    fn stalled(&self, source: &Source) -> Option<Stall> {
        let since = source.progress.moved_at;
        let held = !source.equal && self.is_held_back();
        (!held && self.passed(since, STALLED_AFTER)).then(|| Stall { since, why: self.why_stalled(source) })
    }

    fn why_stalled(&self, source: &Source) -> &'static str {
        match source.stage {
            Stage::Waiting if !source.ready => {
                "the peer has not marked its copy as the one to be overwritten"
            }
            Stage::Waiting if !source.marks_in => "the peer has not said what it may lack",
            Stage::Waiting | Stage::Storing => "a record is not stable on this node's disk yet",
            Stage::Preparing => "the copies are being compared by their digests",
            Stage::Copying if source.progress.busy == u64::MAX => {
                "a block cannot be read here, see the events: restore or delete the file it belongs to"
            }
            Stage::Copying if source.progress.asked => "this node's disk does not answer",
            Stage::Copying if source.progress.in_flight() > 0 => {
                "the peer's disk or the link does not keep up"
            }
            Stage::Copying | Stage::Telling => "the witness does not confirm this node's record",
            Stage::Barrier(_) => "the peer does not say that its disk is flushed",
            Stage::Joining => "the peer has not stored that it is a member",
        }
    }

    /// Why the copying waits although it could go on, and until when.
    pub(super) fn held_reason(&self) -> Option<(String, Option<Moment>)> {
        let source = self.source_ref().filter(|source| !source.equal);
        if let Some(until) = self.throttle.paused_until {
            let text = match source {
                Some(_) => "the copying to the peer is paused by an administrator",
                None => "what is to be copied to the peer is paused by an administrator",
            };
            return Some((text.to_string(), Some(until)));
        }
        let source = source?;
        if self.throttle.waits {
            return Some(("the copying waits for a volume that comes first".to_string(), None));
        }
        let stall = self.stalled(source)?;
        Some((format!("the copying to the peer does not get on: {}", stall.why), None))
    }
}
