//! The conversation with the witness.
//!
//! Decides what to ask and what an answer means. Invariant: a swap that was sent is asked again under its nonce
//! until it is answered; nothing else is decided before (H2). A swap follows a read that was just answered, so that
//! a silent witness leaves nothing unresolved.

use crate::base::{Moment, Record};
use crate::cluster::{Right, Standing, standing, witness_record};
use crate::format::{GenEntry, GenReason, State};
use crate::wire::{WitnessRecord, WitnessReply, WitnessRequest};

use super::action::{Action, Notice, Order};
use super::config::Arbitration;
use super::machine::{After, Node};

/// Why the witness is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Go on alone with this generation.
    Solo { entry: GenEntry },
    /// Make it show what is stored here.
    Follow,
    /// Become primary by a handover.
    Take(Record),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    /// `catch_up`: only brings the witness up to what is stored here.
    Swapping {
        catch_up: bool,
    },
    Enrolling,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Vote {
    goal: Goal,
    stage: Stage,
    nonce: u128,
    request: WitnessRequest,
    asked_at: Moment,
    started: Moment,
}

impl Vote {
    pub(super) fn is_solo(&self) -> bool {
        matches!(self.goal, Goal::Solo { .. })
    }

    pub(super) fn is_reading(&self) -> bool {
        self.stage == Stage::Reading
    }

    pub(super) fn started(&self) -> Moment {
        self.started
    }

    pub(super) fn is_swapping(&self) -> bool {
        matches!(self.stage, Stage::Swapping { .. })
    }
}

impl Node {
    /// Starts a conversation unless one is under way or was just given up.
    pub(super) fn ask_witness(&mut self, goal: Goal, out: &mut Vec<Action>) {
        if self.vote.as_ref().is_some_and(|vote| vote.goal == goal || vote.is_swapping()) {
            return;
        }
        if self.now < self.vote_retry_at {
            return;
        }
        self.ask(goal, Stage::Reading, WitnessRequest::Read, self.now, out);
    }

    fn ask(
        &mut self,
        goal: Goal,
        stage: Stage,
        request: WitnessRequest,
        started: Moment,
        out: &mut Vec<Action>,
    ) {
        let nonce = match &request {
            WitnessRequest::Cas { next, .. } => next.nonce,
            _ => self.draw(),
        };
        let asked_at = self.now;
        self.vote = Some(Vote { goal, stage, nonce, request, asked_at, started });
        out.push(Order::AskWitness { nonce, request }.into());
    }

    /// Asks again, keeps the witness in step, and lets a forced promotion pass a silent witness.
    pub(super) fn vote_step(&mut self, out: &mut Vec<Action>) {
        if self.cfg.arbitration != Arbitration::Witness || self.is_out_of_use() || self.detach.front.is_some()
        {
            return;
        }
        if let Some(mut vote) = self.vote {
            let patience = self.insists() && self.passed(vote.started, self.cfg.timing.slow_peer);
            if let (Goal::Solo { entry }, true) = (vote.goal, patience && self.store.is_none()) {
                // The operator's word. A swap that arrives late after all carries the same generation.
                self.vote = None;
                return self.store_solo(entry, right_of(&entry), out);
            }
            if self.passed(vote.asked_at, self.cfg.timing.keepalive) {
                vote.asked_at = self.now;
                out.push(Order::AskWitness { nonce: vote.nonce, request: vote.request }.into());
                self.vote = Some(vote);
            }
            return;
        }
        let settled = self.is_member() || (self.sole() && self.conv.is_none());
        let wants = settled && (self.is_primary() || self.witness_incarnation == 0 || self.witness_doubt);
        if wants && !self.in_step && self.store.is_none() && self.handing.is_none() {
            self.ask_witness(Goal::Follow, out);
        } else if self.witness_incarnation != self.state.witness_incarnation && self.store.is_none() {
            self.put(self.state.clone(), After::Nothing, out);
        }
    }

    /// The session ended: what was only being read is off.
    pub(super) fn follow_lost(&mut self) {
        if self.vote.as_ref().is_some_and(|vote| !vote.is_swapping() && !vote.is_solo()) {
            self.vote = None;
        }
    }

    pub(super) fn witness_reply(&mut self, nonce: u128, reply: &WitnessReply, out: &mut Vec<Action>) {
        let Some(vote) = self.vote.filter(|vote| vote.nonce == nonce) else { return };
        if self.store.is_some() {
            return; // asked again, and answered again, when the store is done
        }
        self.witness_seen = Some(self.now);
        self.witness_note = None;
        match reply {
            WitnessReply::Unknown { .. } => self.unknown(vote, out),
            WitnessReply::Waiting { .. } => self.give_up(Some("enrolment waits for the other node"), out),
            WitnessReply::Record { record, incarnation } => self.shown(vote, record, *incarnation, out),
            WitnessReply::Conflict { record, incarnation } => self.shown(vote, record, *incarnation, out),
            WitnessReply::Won { .. } => self.won(vote, out),
        }
    }

    fn give_up(&mut self, note: Option<&'static str>, out: &mut Vec<Action>) {
        self.vote = None;
        self.vote_retry_at = self.after(self.cfg.timing.keepalive);
        if let Some(text) = note {
            self.witness_note = note;
            out.push(Order::Tell(Notice::WitnessSuspect { text: text.to_string() }).into());
        }
    }

    /// Never enrolled, or it forgot: both nodes together, a new volume, or the operator.
    fn unknown(&mut self, vote: Vote, out: &mut Vec<Action>) {
        (self.in_step, self.witness_doubt) = (false, true);
        let Some(record) = self.state.record else { return self.give_up(None, out) };
        let fresh = self.state.witness_incarnation == 0 || self.enrol;
        let may = self.is_member() || (self.sole() && fresh);
        if !may || vote.is_solo() {
            return self.give_up(Some("the witness does not know this volume"), out);
        }
        let record = witness_record(record, &self.state.gens, 0);
        let request = WitnessRequest::Enrol { record, sole: self.sole() };
        self.ask(vote.goal, Stage::Enrolling, request, vote.started, out);
    }

    fn shown(&mut self, vote: Vote, shown: &WitnessRecord, incarnation: u128, out: &mut Vec<Action>) {
        let known = self.witness_incarnation;
        let agreed = vote.stage == Stage::Enrolling || self.enrol || self.is_member();
        if known != 0 && known != incarnation && !agreed {
            return self.give_up(Some("the witness is not the one this volume was enrolled at"), out);
        }
        if matches!(vote.goal, Goal::Take(record) if record == shown.record) {
            return self.taken(vote, incarnation, out);
        }
        if matches!(vote.goal, Goal::Solo { entry } if entry.reason == GenReason::WentBack) {
            // The operator's word against whatever the witness shows.
            return self.go_on(vote, shown, out);
        }
        if self.outbid(shown.record, out) {
            return self.give_up(None, out);
        }
        match standing(self.me(), &self.state, shown) {
            Standing::InStep => {
                self.witness_incarnation = incarnation;
                self.enrol = false;
                self.witness_doubt = false;
                self.in_step = true;
                self.go_on(vote, shown, out);
            }
            Standing::Lags => {
                let Some(mine) = self.state.record else { return };
                let nonce = self.draw();
                let next = witness_record(mine, &self.state.gens, nonce);
                self.swap(vote, shown, next, true, out);
            }
            Standing::Adopt(_) if vote.is_solo() => self.go_on(vote, shown, out),
            Standing::Own { record, entry } if self.both() => {
                // A session that was agreed on without knowing this starts again from the record as it is.
                if self.conv.is_some() {
                    self.close_link(out);
                }
                let entry = GenEntry { at_v: record.v, ..entry };
                self.vote = None;
                self.in_step = true;
                self.store_solo(entry, Right::Won, out);
            }
            Standing::Out(record) => {
                self.give_up(None, out);
                self.removed(record, out);
            }
            Standing::Other => {
                self.give_up(
                    Some("the witness means another copy of this node: this one is older, or replaced"),
                    out,
                );
                (self.confirmed, self.continuity) = (false, false);
                self.drop_forced(out);
            }
            Standing::Suspect(text) => self.give_up(Some(text), out),
            Standing::Adopt(_) | Standing::Own { .. } => {
                self.give_up(Some("the witness is ahead of this node"), out);
            }
        }
    }

    /// The witness shows what this node builds on: take the step.
    fn go_on(&mut self, vote: Vote, shown: &WitnessRecord, out: &mut Vec<Action>) {
        match vote.goal {
            Goal::Follow => self.vote = None,
            Goal::Take(record) => {
                let nonce = self.draw();
                let next = witness_record(record, &self.state.gens, nonce);
                self.swap(vote, shown, next, false, out);
            }
            Goal::Solo { entry } => {
                let v = match entry.reason {
                    GenReason::WentBack => entry.at_v.max(shown.record.v + 1),
                    _ => shown.record.v + 1,
                };
                let entry = GenEntry { at_v: v, ..entry };
                let record = solo_record(&self.state, entry);
                let mut gens = self.state.gens.clone();
                gens.push(entry);
                let surplus = gens.len().saturating_sub(crate::base::limits::GENERATIONS_MAX);
                gens.drain(..surplus);
                let next = witness_record(record, &gens, self.draw());
                let vote = Vote { goal: Goal::Solo { entry }, ..vote };
                self.swap(vote, shown, next, false, out);
            }
        }
    }

    fn swap(
        &mut self,
        vote: Vote,
        shown: &WitnessRecord,
        next: WitnessRecord,
        catch_up: bool,
        out: &mut Vec<Action>,
    ) {
        let request = WitnessRequest::Cas { expect_v: shown.record.v, expect_lineage: shown.lineage, next };
        self.ask(vote.goal, Stage::Swapping { catch_up }, request, vote.started, out);
    }

    fn won(&mut self, vote: Vote, out: &mut Vec<Action>) {
        let Stage::Swapping { catch_up } = vote.stage else { return };
        if catch_up {
            self.in_step = true;
            self.vote = None;
            if vote.goal != Goal::Follow {
                self.ask(vote.goal, Stage::Reading, WitnessRequest::Read, vote.started, out);
            }
            return;
        }
        match vote.goal {
            Goal::Solo { entry } => {
                self.vote = None;
                self.in_step = true;
                self.store_solo(entry, right_of(&entry), out);
            }
            Goal::Take(_) => self.taken(vote, self.witness_incarnation, out),
            Goal::Follow => self.vote = None,
        }
    }

    /// The witness shows the handed-over record.
    fn taken(&mut self, vote: Vote, incarnation: u128, out: &mut Vec<Action>) {
        self.vote = None;
        self.witness_incarnation = incarnation;
        let Goal::Take(record) = vote.goal else { return };
        self.in_step = true;
        let waits = self.handing == Some(super::hand::Handing::Taking(record));
        let next = self.state.record.is_some_and(|mine| mine.v + 1 == record.v);
        if waits || (next && self.both()) {
            self.store_taken(record, out);
        }
    }
}

fn right_of(entry: &GenEntry) -> Right {
    match entry.reason {
        GenReason::Forced => Right::Forced,
        GenReason::WentBack => Right::Old,
        _ => Right::Won,
    }
}

fn solo_record(state: &State, entry: GenEntry) -> Record {
    let members = crate::base::Members::only(state.node);
    Record { v: entry.at_v, members, primary: state.node }
}
