//! Serving an old state by the operator's word: a copy that is out of date, or half overwritten by a resync whose
//! source is gone, becomes the volume.
//!
//! Decides the order: what the resync overwrote is put back, that is stored, then a generation is minted through the
//! gate. Does not know what is put back. Invariants: nothing is exchanged with the peer while the copy goes back; a
//! copy that a crash left on its way back goes there first; nobody's word but the operator's leads here, and never
//! while the peer answers.

use crate::base::{Generation, Moment, Record};
use crate::cluster::Right;
use crate::format::{GenEntry, GenReason, ResyncMark, State};

use super::action::{Action, Notice, Order};
use super::config::Arbitration;
use super::event::{Operator, Token};
use super::machine::{After, Node};
use super::talk::Phase;
use super::vote::Goal;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until nothing is unfinished.
    Waiting,
    Restoring(Token),
    /// The copy is consistent; a right is wanted.
    Ready,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Back {
    stage: Stage,
    /// And then serve.
    promote: bool,
    /// When this stage was entered.
    since: Moment,
}

impl Back {
    /// A start finds a copy that was on its way back.
    pub(super) fn at_start(now: Moment) -> Back {
        Back { stage: Stage::Waiting, promote: false, since: now }
    }
}

impl Node {
    /// The operator says that the peer is down and that what it wrote since is given up.
    pub(super) fn promote_old(&mut self, out: &mut Vec<Action>) {
        let busy = self
            .conv
            .as_ref()
            .is_some_and(|conv| matches!(conv.phase, Phase::Member | Phase::Source(_) | Phase::Target(_)));
        let refusal = match () {
            () if self.back.is_some() || self.data_open() => return,
            () if busy => Some("the peer answers: an older state is served only while it is down"),
            () if self.state.record.is_none() || self.state.gens.is_empty() => {
                Some("this copy has never been in sync: there is nothing to serve")
            }
            () if self.failed.is_some() => Some("the disk failed: nothing is served from it"),
            () => None,
        };
        if let Some(text) = refusal {
            out.push(Order::Tell(Notice::Fault { text: text.to_string() }).into());
            return;
        }
        if (self.sole() || self.both()) && self.state.resync == ResyncMark::None {
            // Nothing of it is old.
            return self.operator(Operator::Promote { peer_is_down: true }, out);
        }
        self.idle = None;
        self.close_link(out);
        self.back = Some(Back { stage: Stage::Waiting, promote: true, since: self.now });
    }

    /// Neither hello nor vote: this copy is about to become another one.
    pub(super) fn is_going_back(&self) -> bool {
        self.back.is_some()
    }

    /// Whether the operator's word takes the step if the witness stays silent.
    pub(super) fn insists(&self) -> bool {
        self.forced.is_some() || self.back.is_some_and(|back| back.promote)
    }

    /// The next thing on the way back.
    pub(super) fn back_step(&mut self, out: &mut Vec<Action>) {
        let Some(back) = self.back else { return };
        let unfinished = self.store.is_some()
            || self.marking.is_some()
            || self.conv.is_some()
            || self.vote.as_ref().is_some_and(|vote| vote.is_swapping())
            || !self.inbox.drained();
        if unfinished {
            return;
        }
        match back.stage {
            Stage::Restoring(_) => {}
            Stage::Waiting if self.state.resync != ResyncMark::None => {
                let token = self.token();
                self.back = Some(Back { stage: Stage::Restoring(token), ..back });
                out.push(Action::GoBack { token });
            }
            Stage::Waiting => self.back = Some(Back { stage: Stage::Ready, since: self.now, ..back }),
            Stage::Ready if back.promote => self.take_old(out),
            Stage::Ready => self.back = None,
        }
    }

    /// Everything is put back, stable.
    pub(super) fn went_back(&mut self, token: Token, out: &mut Vec<Action>) {
        let Some(back) = self.back.filter(|back| back.stage == Stage::Restoring(token)) else { return };
        // What was put back differs from the peer's, and is marked so.
        (self.marks, self.hot) = (true, true);
        self.back = Some(Back { stage: Stage::Waiting, ..back });
        out.push(Order::Tell(Notice::WentBack).into());
        // The losing side of a split that was being ended is one again.
        self.split = self.state.diverged;
        self.put(State { resync: ResyncMark::None, ..self.state.clone() }, After::Nothing, out);
    }

    /// There is no way back; the copy waits for a source as before.
    pub(super) fn no_way_back(&mut self, token: Token) {
        if self.back.is_some_and(|back| back.stage == Stage::Restoring(token)) {
            self.marks = true;
            self.back = None;
        }
    }

    fn take_old(&mut self, out: &mut Vec<Action>) {
        let Some(mine) = self.state.record else { return };
        if self.vote.as_ref().is_some_and(|vote| vote.is_solo()) {
            return;
        }
        // Above every number that either side is known to have used.
        let v = self.peer_record.map_or(mine.v, |theirs| theirs.v.max(mine.v)) + 1;
        let id = Generation(self.draw());
        let entry = GenEntry { id, minted_by: self.me(), at_v: v, reason: GenReason::WentBack, first_txn: 0 };
        let patience = self.back.is_some_and(|back| self.passed(back.since, self.cfg.timing.deadtime));
        if self.cfg.arbitration == Arbitration::Witness && !patience {
            self.vote = None;
            self.vote_retry_at = self.now;
            self.ask_witness(Goal::Solo { entry }, out);
        } else {
            self.store_solo(entry, Right::Old, out);
        }
    }

    /// The step is stored.
    pub(super) fn back_ended(&mut self) {
        if self.back.is_some_and(|back| back.promote) {
            self.back = None;
            self.split = false;
        }
    }

    /// This copy was made the volume by the operator's word, and the witness shows a record of the copy that was given
    /// up under a number that is not below: the own one must be higher before the witness may be told.
    pub(super) fn outbid(&mut self, shown: Record, out: &mut Vec<Action>) -> bool {
        let by_word = self.state.gens.last().is_some_and(|entry| entry.reason == GenReason::WentBack);
        let Some(mine) = self.state.record else { return false };
        if !by_word || !self.sole() || shown.v < mine.v || shown == mine || self.store.is_some() {
            return false;
        }
        let record = Record { v: shown.v + 1, ..mine };
        self.put(State { record: Some(record), ..self.state.clone() }, After::Nothing, out);
        true
    }
}
