//! Going on alone by an agent's word that the peer has stopped.
//!
//! Decides when an agent is asked, which level comes next and what an answer is worth. Does not know what an agent is
//! or does. Invariants: only a node with unbroken continuity asks: it agreed with the peer on this very record and has
//! run since, and as the peer's death ends the peer's continuity, at most one of the two can ever use the right; an
//! answer counts for the request that it answers, once; silence is no answer; no session begins while a request is
//! unanswered (H2), be it of this process or, noted outside the image, of an earlier one.

use crate::base::{Generation, Moment};
use crate::cluster::Right;
use crate::format::{GenEntry, GenReason, ResyncMark};

use super::action::{Action, Notice, Order};
use super::facts::Facts;
use super::machine::{Node, Serve};
use super::view::FenceView;

/// How a request to an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FenceEnd {
    /// The peer lost its memory after the request was made (assumption A5).
    Done,
    /// It did not.
    Failed,
    /// Nobody knows; the agent was stopped.
    Unanswered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asked,
    /// The peer has stopped; the record follows as soon as nothing is unfinished.
    Granted,
    /// No level helped.
    Resting {
        until: Moment,
    },
    /// An earlier process of this node asked and noted no answer.
    Leftover {
        told: bool,
    },
}

/// A request for the peer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fencing {
    nonce: u128,
    /// From 0.
    level: u32,
    stage: Stage,
    since: Moment,
    /// A person said that the peer has stopped.
    word: bool,
}

impl Fencing {
    /// An earlier process left this request unanswered.
    pub(super) fn leftover(nonce: u128, now: Moment) -> Fencing {
        Fencing { nonce, level: 0, stage: Stage::Leftover { told: false }, since: now, word: false }
    }

    pub(super) fn retry_at(&self) -> Option<Moment> {
        match self.stage {
            Stage::Resting { until } => Some(until),
            _ => None,
        }
    }
}

impl Node {
    /// Something may still come of a request: no session may begin.
    pub(super) fn fence_pending(&self) -> bool {
        self.fencing.as_ref().is_some_and(|fencing| !matches!(fencing.stage, Stage::Resting { .. }))
    }

    /// This node is on its way to going on alone by fencing.
    pub(super) fn is_shooting(&self) -> bool {
        let stage = self.fencing.as_ref().map(|fencing| fencing.stage);
        matches!(stage, Some(Stage::Asked | Stage::Granted))
    }

    /// Asks an agent unless one was asked, or all of them failed just now.
    pub(super) fn shoot(&mut self, facts: Facts, out: &mut Vec<Action>) {
        if self.fencing.is_none() && self.now >= self.fence_rest_until {
            self.memory.goes_alone(Right::Fenced, facts);
            self.ask_agent(0, self.now, out);
        }
    }

    fn ask_agent(&mut self, level: u32, since: Moment, out: &mut Vec<Action>) {
        let nonce = self.draw();
        self.fencing = Some(Fencing { nonce, level, stage: Stage::Asked, since, word: false });
        out.push(Order::Fence { nonce, level }.into());
        out.push(Order::Tell(Notice::FenceAsked { level }).into());
    }

    /// Whether an agent's word leads anywhere: some of it may have to be waited for (`None`).
    fn fence_use(&self) -> Option<bool> {
        let lasting = self.both()
            && self.facts().is_continuous()
            && self.state.resync == ResyncMark::None
            && self.failed.is_none()
            && self.conv.is_none()
            && !self.hold
            && self.idle.is_none()
            && (!self.disconnected || self.is_primary());
        if !lasting {
            return Some(false);
        }
        let unfinished = self.store.is_some()
            || self.marking.is_some()
            || self.is_going_back()
            || self.serve == (Serve::Dropping { graceful: false });
        if unfinished { None } else { Some(true) }
    }

    pub(super) fn fence_step(&mut self, out: &mut Vec<Action>) {
        let Some(mut fencing) = self.fencing else { return };
        match fencing.stage {
            Stage::Asked | Stage::Leftover { told: true } => {}
            Stage::Leftover { told: false } => {
                fencing.stage = Stage::Leftover { told: true };
                self.fencing = Some(fencing);
                out.push(Order::SettleFence { nonce: fencing.nonce }.into());
                out.push(Order::Tell(Notice::FenceLeftover).into());
            }
            Stage::Granted => match self.fence_use() {
                None => {}
                Some(false) => self.fencing = None,
                Some(true) => {
                    self.fencing = None;
                    let Some(mine) = self.state.record else { return };
                    let id = Generation(self.draw());
                    let (at_v, reason) = (mine.v + 1, GenReason::WentSolo);
                    let entry = GenEntry { id, minted_by: self.me(), at_v, reason, first_txn: 0 };
                    self.store_solo(entry, Right::Fenced, out);
                }
            },
            Stage::Resting { until } => {
                if self.facts().alone() != Ok(Right::Fenced) {
                    // The peer is back, or somebody else decides now.
                    self.fencing = None;
                } else if self.now >= until {
                    self.ask_agent(0, fencing.since, out);
                }
            }
        }
    }

    /// An agent answered, or never will.
    pub(super) fn fence_result(&mut self, nonce: u128, end: FenceEnd, out: &mut Vec<Action>) {
        let Some(mut fencing) = self.fencing.filter(|fencing| fencing.nonce == nonce) else { return };
        match fencing.stage {
            Stage::Granted | Stage::Resting { .. } => return,
            Stage::Leftover { .. } => {
                // Whatever it is, it is no right: this process has not agreed on anything yet.
                self.fencing = None;
                return;
            }
            Stage::Asked => {}
        }
        let taken = end == FenceEnd::Unanswered && self.cfg.mutations.fence_unanswered;
        if end == FenceEnd::Done || fencing.word || taken {
            fencing.stage = Stage::Granted;
            self.fencing = Some(fencing);
            out.push(Order::Tell(Notice::FenceDone { level: fencing.level, word: fencing.word }).into());
            return;
        }
        let level = fencing.level + 1;
        let more = level < self.cfg.fence_levels;
        out.push(Order::Tell(Notice::FenceFailed { level: fencing.level, end, more }).into());
        if more {
            self.ask_agent(level, fencing.since, out);
            return;
        }
        self.fence_rest_until = self.after(self.cfg.timing.fence_retry);
        fencing.stage = Stage::Resting { until: self.fence_rest_until };
        self.fencing = Some(fencing);
    }

    /// A person's word about the request that carries this number: the peer has stopped, or was started anew since.
    pub(super) fn fence_confirm(&mut self, nonce: u128, out: &mut Vec<Action>) {
        let Some(mut fencing) = self.fencing.filter(|fencing| fencing.nonce == nonce) else { return };
        match fencing.stage {
            Stage::Granted => return,
            // Waits until the agent, too, has come to its end.
            Stage::Asked => fencing.word = true,
            Stage::Resting { .. } => {
                (fencing.stage, fencing.word) = (Stage::Granted, true);
                out.push(Order::Tell(Notice::FenceDone { level: fencing.level, word: true }).into());
            }
            Stage::Leftover { .. } => {
                self.fencing = None;
                return;
            }
        }
        self.fencing = Some(fencing);
    }

    pub(super) fn fence_view(&self) -> Option<FenceView> {
        self.fencing.as_ref().map(|fencing| FenceView {
            nonce: fencing.nonce,
            level: fencing.level,
            since: fencing.since,
            retry_at: fencing.retry_at(),
            leftover: matches!(fencing.stage, Stage::Leftover { .. }),
        })
    }
}
