//! The conversation with the peer: link, hello, comparison, session.
//!
//! Decides when a session begins and ends. Invariants: no hello while a store, a swap, a shot, a mark or an operation
//! of an earlier session is unfinished (H2); a decision acts only when both sides computed the same one from facts that
//! still hold.

use crate::base::{Generation, Moment};
use crate::format::{Apart, ResyncMark};
use crate::resync::{Decision, Plan, decide, hash};
use crate::wire::{DecisionHash, Hello, Message, Session};

use super::action::{Action, Notice, Order};
use super::event::LinkId;
use super::machine::{After, Node, Serve};
use super::resolve::Notes;
use super::sync::{Source, Target};

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Hello sent.
    Greeting,
    /// Both hellos known, own result sent.
    Comparing,
    /// Nothing can be done together: an operator or another record must change something first.
    Resting,
    Source(Source),
    Target(Target),
    /// Both equal, both members, agreed in this session.
    Member,
    /// They were; the peer's disk failed, and it works on this copy until it has stopped.
    Fronted,
}

impl Phase {
    fn rests(&self) -> bool {
        matches!(self, Phase::Resting)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Conv {
    pub mine: Hello,
    pub theirs: Option<Box<Hello>>,
    pub id: Session,
    pub decision: Option<Decision>,
    hash: Option<DecisionHash>,
    pub phase: Phase,
    /// What both sides of a split said about it.
    pub notes: Option<Notes>,
    /// The decision is not that of the comparison but of a ruling on a split: the generation of the copy that is kept.
    pub settled: Option<Generation>,
}

impl Conv {
    /// This node receives in this conversation.
    pub(super) fn receives(&self) -> bool {
        matches!(self.phase, Phase::Target(_))
    }

    pub(super) fn equalises(&self) -> bool {
        self.decision.is_some_and(|decision| matches!(decision.plan, Plan::Equalise { .. }))
    }

    pub(super) fn retry_at(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Source(source) => source.retry_at,
            _ => None,
        }
    }
}

impl Node {
    pub(super) fn link_up(&mut self, link: LinkId, out: &mut Vec<Action>) {
        if self.link.is_some() {
            self.end_session(out);
        }
        if self.disconnected || self.failed.is_some() {
            out.push(Order::CloseLink(link).into());
            return;
        }
        self.link = Some(link);
        self.progress_at = self.now;
    }

    pub(super) fn link_down(&mut self, link: LinkId, out: &mut Vec<Action>) {
        if self.link == Some(link) {
            self.end_session(out);
        }
    }

    pub(super) fn close_link(&mut self, out: &mut Vec<Action>) {
        if let Some(link) = self.link {
            out.push(Order::CloseLink(link).into());
            self.end_session(out);
        }
    }

    /// The session is over: marks first, then whatever follows.
    fn end_session(&mut self, out: &mut Vec<Action>) {
        self.link = None;
        self.early = None;
        self.leaving = None;
        let Some(conv) = self.conv.take() else { return };
        let streamed = matches!(conv.phase, Phase::Member | Phase::Source(_));
        self.inbox.end();
        self.outbox.end_session();
        if matches!(conv.phase, Phase::Source(_)) {
            // The peer acknowledged these beside a copy that never ended: a flush said nothing about blocks that it
            // still lacked. Only a member's word counts later.
            self.outbox.forget_acks();
        }
        if streamed {
            self.mark_unsafe(out);
        }
        let member = matches!(conv.phase, Phase::Member);
        // A join that was cut behind its first step leaves a record of two members and no member session.
        if member || (self.both() && self.data_open()) {
            self.lost_at.get_or_insert(self.now);
        }
        if member {
            out.push(Order::Tell(Notice::PeerLost).into());
        }
        if self.serve == Serve::Down {
            self.refuse_waiting(out);
        }
        self.front_lost(out);
        self.handing_lost();
        self.grow_lost(out);
        self.follow_lost();
    }

    /// The peer on the link was refused for good and does not serve: it is as good as gone.
    pub(super) fn is_stranger(&self) -> bool {
        self.conv.as_ref().is_some_and(|conv| {
            let refused = conv.decision.is_some_and(|decision| decision.plan == Plan::Refuse);
            refused && conv.phase.rests() && conv.theirs.as_ref().is_some_and(|theirs| !theirs.serving)
        })
    }

    pub(super) fn is_member(&self) -> bool {
        self.conv.as_ref().is_some_and(|conv| matches!(conv.phase, Phase::Member))
    }

    /// The peer said in this conversation that it knows what this needs.
    pub(super) fn peer_can(&self, feature: u64) -> bool {
        let theirs = self.conv.as_ref().and_then(|conv| conv.theirs.as_ref());
        theirs.is_some_and(|theirs| theirs.features & self.cfg.features & feature != 0)
    }

    fn hello(&self) -> Hello {
        Hello {
            features: self.cfg.features,
            process: self.process,
            blocks: self.cfg.blocks,
            marks: self.marks || self.state.resync != ResyncMark::None,
            hot: self.hot,
            serving: self.data_open(),
            last_session: self.last_session,
            ..Hello::of(&self.state)
        }
    }

    /// Says hello as soon as nothing is unfinished.
    pub(super) fn greet(&mut self, out: &mut Vec<Action>) {
        let Some(link) = self.link.filter(|_| self.conv.is_none()) else { return };
        let unfinished = self.store.is_some()
            || self.marking.is_some()
            || self.vote.as_ref().is_some_and(|vote| vote.is_swapping())
            || !self.inbox.drained()
            || self.is_going_back()
            || self.fence_pending()
            || self.serve == Serve::Dropping { graceful: false };
        // A peer that connects but never answers may not keep this node from asking the witness.
        let asking = self.failed_greets > 0
            && self.vote.as_ref().is_some_and(|vote| {
                vote.is_solo() && !self.passed(vote.started(), self.cfg.timing.slow_peer)
            });
        if unfinished || asking {
            return;
        }
        self.vote = None;
        let mine = Hello { nonce: self.draw(), ..self.hello() };
        out.push(Action::Send { link, message: Message::Hello(Box::new(mine.clone())) });
        let phase = Phase::Greeting;
        let (theirs, id, decision, hash, notes, settled) = (None, Session(0), None, None, None, None);
        self.conv = Some(Conv { mine, theirs, id, decision, hash, phase, notes, settled });
        if let Some(theirs) = self.early.take() {
            self.compare(theirs, out);
        }
    }

    pub(super) fn received(&mut self, link: LinkId, message: Message, out: &mut Vec<Action>) {
        let stale_allowed = self.cfg.mutations.no_session_check
            && matches!(message, Message::Op { .. } | Message::Done { .. });
        if self.link != Some(link) && !stale_allowed {
            return;
        }
        self.progress_at = self.now;
        self.heard_at = Some(self.now);
        if self.is_member() || self.is_fronted() {
            self.promise_until = self.promise_until.max(self.after(self.cfg.timing.deadtime));
        }
        match message {
            Message::Hello(theirs) => match self.conv.as_ref().map(|conv| &conv.phase) {
                None => self.early = Some(theirs),
                Some(Phase::Greeting) => self.compare(theirs, out),
                Some(_) => self.close_link(out),
            },
            Message::Decided(theirs) => self.decided(theirs, out),
            Message::Op { session, seq, kind, first, count } => {
                self.receive_op(session, seq, kind, first, count, out);
            }
            Message::Done { session, upto } => self.peer_done(session, upto, out),
            other => self.received_in_session(other, out),
        }
    }

    fn received_in_session(&mut self, message: Message, out: &mut Vec<Action>) {
        let Some(id) = self.conv.as_ref().map(|conv| conv.id) else { return };
        let session = match &message {
            Message::Marks { session, .. }
            | Message::TargetReady { session }
            | Message::Digests { session, .. }
            | Message::Join { session, .. }
            | Message::Joined { session }
            | Message::Handover { session, .. }
            | Message::HandoverDone { session, .. }
            | Message::AskHandover { session }
            | Message::Detached { session }
            | Message::Front { session }
            | Message::Fronted { session, .. }
            | Message::Grow { session, .. }
            | Message::Grown { session, .. }
            | Message::Split { session, .. }
            | Message::Left { session }
            | Message::Bye { session } => *session,
            _ => return,
        };
        if session != id {
            return;
        }
        match message {
            Message::Marks { runs, last, .. } => self.target_marks(runs, last, out),
            Message::TargetReady { .. } => self.target_ready(),
            Message::Digests { extent, last, .. } => self.target_digests(extent, last, out),
            Message::Join { record, gens, .. } => self.join(record, gens, out),
            Message::Joined { .. } => self.peer_joined(out),
            Message::Handover { record, .. } => self.handed(record, out),
            Message::HandoverDone { record, .. } => self.handover_done(record, out),
            Message::AskHandover { .. } => self.asked_to_hand_over(),
            Message::Detached { .. } => self.peer_detached(out),
            Message::Front { .. } => self.peer_fronts(out),
            Message::Fronted { record, .. } => self.front_recorded(record, out),
            Message::Grow { blocks, .. } => self.asked_to_grow(session, blocks, out),
            Message::Grown { blocks, .. } => self.peer_grown(blocks, out),
            Message::Split { note, .. } => self.heard_note(*note),
            Message::Left { .. } => self.peer_left(out),
            _ => self.close_link(out),
        }
    }

    fn compare(&mut self, theirs: Box<Hello>, out: &mut Vec<Action>) {
        let known = self.state.peer_boot_epoch.max(self.pulse.peer_epoch().unwrap_or(0));
        // A disk that was replaced is told so, whatever either of them counted.
        let replaced = self.state.retired.contains(&theirs.incarnation)
            || theirs.retired.contains(&self.state.incarnation);
        if theirs.boot_epoch < known && theirs.volume == self.state.volume && !replaced {
            // A new disk counts its starts anew, and has nothing that could have been rolled back.
            if !theirs.gens.is_empty() {
                return self
                    .protocol_error("the peer's boot number went back: its image was rolled back", out);
            }
            self.state.peer_boot_epoch = theirs.boot_epoch;
            self.pulse.meet(theirs.boot_epoch);
        }
        let Some(link) = self.link else { return };
        let Some(conv) = self.conv.as_mut() else { return };
        let decision = decide(&conv.mine, &theirs);
        // Whoever worked on this copy was another process of the peer, and it is gone.
        (self.gave_up, self.detach.fronted) = (None, false);
        self.memory.compares(self.now, &conv.mine, &theirs);
        let result = hash(&conv.mine, &theirs, &decision);
        conv.id = session_of(&conv.mine, &theirs);
        conv.decision = Some(decision);
        conv.hash = Some(result);
        conv.theirs = Some(theirs);
        conv.phase = Phase::Comparing;
        out.push(Action::Send { link, message: Message::Decided(result) });
    }

    /// Both results are known: equal, and nothing changed meanwhile, or the handshake starts again.
    fn decided(&mut self, theirs: DecisionHash, out: &mut Vec<Action>) {
        let now = self.hello();
        let Some(conv) = self.conv.as_ref() else { return };
        let unchanged = Hello { nonce: conv.mine.nonce, ..now } == conv.mine;
        let same = matches!(conv.phase, Phase::Comparing) && conv.hash == Some(theirs);
        let Some(decision) = conv.decision.filter(|_| same && unchanged && self.store.is_none()) else {
            return self.close_link(out);
        };
        out.push(
            Order::Tell(Notice::Decided { row: decision.row, text: decision.reason.to_string() }).into(),
        );
        self.refused = None;
        self.act(decision, out);
    }

    fn act(&mut self, decision: Decision, out: &mut Vec<Action>) {
        let Some(conv) = self.conv.as_mut() else { return };
        conv.phase = Phase::Resting;
        let (id, theirs) = (conv.id, conv.theirs.clone());
        if decision.plan != Plan::Refuse {
            // The operator said that the peer is down, and it is not.
            self.forced = None;
            let (incarnation, epoch) =
                theirs.as_ref().map_or((0, 0), |theirs| (theirs.incarnation, theirs.boot_epoch));
            // Its present start, whether or not a heartbeat of it was heard.
            self.state.peer_boot_epoch = self.state.peer_boot_epoch.max(epoch);
            out.push(Order::Tell(Notice::Met { incarnation }).into());
        }
        self.inbox.start(id);
        self.outbox.start_session(self.now);
        match decision.plan {
            Plan::Wait => {
                self.refused = Some(decision);
                self.catch_up_in_size(decision, theirs.map_or(0, |theirs| theirs.blocks), out);
            }
            Plan::Refuse => {
                self.refused = Some(decision);
                let (row, text) = (decision.row, decision.reason.to_string());
                out.push(Order::Tell(Notice::Refused { row, text }).into());
                self.refused_by(out);
            }
            Plan::SplitBrain { .. } => self.found_split(out),
            Plan::Equalise { source, record, resend_only } => {
                let skip = self.cfg.mutations.serve_before_copy;
                self.split = false;
                if resend_only || (skip && self.state.record == Some(record)) {
                    self.outbox.trust_window();
                    self.enter_member(out);
                } else if source == self.me() {
                    self.start_source(true, self.equal_kind(), out);
                    if self.state.record != Some(record) {
                        let state = crate::format::State { record: Some(record), ..self.state.clone() };
                        self.in_step = false;
                        self.put(state, After::Adopted, out);
                    }
                } else if self.serve == Serve::Kept {
                    self.drop_forced(out);
                } else if !self.data_open() {
                    self.start_target(true, theirs.map_or_else(Default::default, |t| t.head()), out);
                } else {
                    self.close_link(out);
                }
            }
            Plan::Resync { source, kind, stop_first } => {
                self.split = false;
                let source = if self.cfg.mutations.wrong_direction { source.other() } else { source };
                if source == self.me() {
                    if !stop_first {
                        self.start_source(false, kind, out);
                        if theirs.is_some_and(|theirs| theirs.gens.is_empty()) && self.store.is_none() {
                            // How a new disk counts its starts is stable here before it has any history.
                            self.put(self.state.clone(), After::Nothing, out);
                        }
                    }
                } else if self.data_open() || self.serve == Serve::Kept {
                    self.drop_forced(out);
                } else {
                    self.start_target(false, theirs.map_or_else(Default::default, |t| t.head()), out);
                }
            }
        }
    }

    /// Split brain outlives a restart until the copies are joined.
    pub(super) fn note_split(&mut self, diverged: bool, out: &mut Vec<Action>) {
        self.split = diverged;
        if self.state.diverged != diverged && self.store.is_none() {
            self.put(crate::format::State { diverged, ..self.state.clone() }, After::Nothing, out);
        }
    }

    /// Both copies are equal and both nodes agreed on the record in this session.
    pub(super) fn enter_member(&mut self, out: &mut Vec<Action>) {
        let Some(conv) = self.conv.as_mut() else { return };
        conv.phase = Phase::Member;
        self.failed_greets = 0;
        self.last_session = Some(conv.id);
        (self.confirmed, self.continuity) = (true, true);
        self.fence_rest_until = self.now;
        self.lost_at = None;
        self.forced = None;
        self.marks = false;
        self.failback_settles();
        out.push(Action::ClearMarks);
        out.push(Order::Tell(Notice::InSync).into());
        let based = !self.state.full && self.state.bitmap_base == self.state.head();
        if !based || self.state.diverged || self.state.apart != Apart::default() {
            let (bitmap_base, full, diverged, apart) = (self.state.head(), false, false, Apart::default());
            let state = crate::format::State { bitmap_base, full, diverged, apart, ..self.state.clone() };
            if self.store.is_none() {
                self.put(state, After::Nothing, out);
            }
        }
    }

    /// A peer that is silent, stuck or too slow is lost.
    pub(super) fn peer_timeouts(&mut self, out: &mut Vec<Action>) {
        if self.link.is_none() {
            return;
        }
        let t = self.cfg.timing;
        let slow = self.outbox.waiting_since().is_some_and(|at| self.passed(at, t.slow_peer));
        let stuck = match self.conv.as_ref().map(|conv| &conv.phase) {
            None | Some(Phase::Greeting | Phase::Comparing) => self.passed(self.progress_at, t.slow_peer),
            Some(Phase::Resting) => {
                // Something to be resolved: compare again, not too often. Refusals stay until something changes.
                let wait = self.refused.is_some_and(|decision| decision.plan == Plan::Wait);
                let stopped = !self.data_open() && self.conv.as_ref().is_some_and(|conv| conv.mine.serving);
                stopped && self.serve == Serve::Down || wait && self.passed(self.progress_at, t.slow_peer)
            }
            Some(_) => {
                let silence = if self.is_primary() && self.both() && self.needs_lease() {
                    t.slow_peer
                } else {
                    t.deadtime
                };
                let heard = self.heard_at.unwrap_or(self.progress_at).max(self.progress_at);
                self.passed(heard, silence) || (self.is_member() && self.lease_is_old())
            }
        };
        if slow || stuck {
            self.failed_greets += 1;
            let heard = self.heard_at.unwrap_or(self.progress_at).max(self.progress_at);
            if self.is_member() {
                // Its time runs from its last sign of life, not from when the link was given up.
                self.lost_at.get_or_insert(heard);
            }
            self.close_link(out);
        }
    }

    /// The peer does not echo although its frames arrive: a cut in one direction.
    fn lease_is_old(&self) -> bool {
        self.data_open()
            && self.needs_lease()
            && self.lease_from.is_some_and(|from| self.passed(from, self.cfg.timing.slow_peer))
    }
}

/// The session's number, from both nonces.
fn session_of(x: &Hello, y: &Hello) -> Session {
    let (a, b) = if x.node <= y.node { (x, y) } else { (y, x) };
    let mut bytes = [0u8; 32];
    bytes[..16].copy_from_slice(&a.nonce.to_le_bytes());
    bytes[16..].copy_from_slice(&b.nonce.to_le_bytes());
    let hash = blake3::hash(&bytes);
    Session(u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or([0; 8])).max(1))
}
