//! The node's state, its one entrance, and the order in which consequences are drawn.
//!
//! Decides nothing itself: handlers note facts, `advance` lets each part act on the facts until nothing changes.

use crate::base::{Members, Moment, NodeId, Record, Span};
use crate::cluster::Pulse;
use crate::format::{ResyncMark, State};
use crate::replica::{Inbox, Outbox};
use crate::resync::Decision;
use crate::wire::{Hello, Session};

use super::action::Action;
use super::back::Back;
use super::config::{NodeConfig, StartInfo};
use super::detach::Detach;
use super::event::{Event, LinkId, Token};
use super::failback::Homing;
use super::fence::Fencing;
use super::grow::Growing;
use super::hand::Handing;
use super::leave::GaveUp;
use super::memory::Memory;
use super::pace::Throttle;
use super::resolve::Side;
use super::talk::Conv;
use super::verify::Looking;
use super::view::StateWord;
use super::vote::Vote;

/// Whether the volume is mounted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serve {
    Down,
    /// A predecessor's mount waits: see `kept`.
    Kept,
    Raising,
    Up,
    /// Going down; graceful: operations still work.
    Dropping {
        graceful: bool,
    },
}

/// What follows when a store is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Solo,
    Join1,
    Joined,
    TargetMark,
    Out,
    HandGiven,
    HandTaken,
    Adopted,
    Retired,
}

#[derive(Clone, Debug)]
pub(super) struct Storing {
    pub token: Token,
    pub state: State,
    pub then: After,
}

/// One node of a pair.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) cfg: NodeConfig,
    pub(super) state: State,
    pub(super) info: StartInfo,
    pub(super) now: Moment,
    pub(super) started: Moment,
    ids: u64,
    pub(super) process: u128,

    pub(super) pulse: Pulse,
    pub(super) next_beat: Moment,
    pub(super) promise_until: Moment,
    /// Send time of the newest echoed claim.
    pub(super) lease_from: Option<Moment>,
    /// The join is stored here and the joiner has not been told: it cannot take over, no lease is needed.
    pub(super) join_unsent: bool,
    pub(super) confirmed: bool,
    /// The same, but a lapsed lease does not end it: the right to fence needs no clock.
    pub(super) continuity: bool,
    pub(super) fencing: Option<Fencing>,
    pub(super) fence_rest_until: Moment,
    /// Some ping target answers, and since when it is so.
    pub(super) reaches: bool,
    pub(super) reach_since: Moment,
    pub(super) serve: Serve,
    pub(super) frozen: bool,
    pub(super) demote_at: Option<Moment>,
    /// Stopped by the operator, or the mount failed: why.
    pub(super) idle: Option<String>,
    pub(super) hold: bool,
    pub(super) disconnected: bool,
    /// The operator stated that the peer is down.
    pub(super) forced: Option<Moment>,
    pub(super) failed: Option<String>,
    pub(super) detach: Detach,
    /// The peer was told that this node leaves; it is hung up on then.
    pub(super) leaving: Option<Moment>,
    /// Why the peer gave up every right of its own, until copies are compared with it again.
    pub(super) gave_up: Option<GaveUp>,

    pub(super) vote: Option<Vote>,
    pub(super) vote_retry_at: Moment,
    pub(super) in_step: bool,
    /// It may have forgotten the volume: both nodes ask, as for the first enrolment.
    pub(super) witness_doubt: bool,
    pub(super) witness_seen: Option<Moment>,
    pub(super) witness_incarnation: u128,
    pub(super) witness_note: Option<&'static str>,
    pub(super) enrol: bool,

    pub(super) back: Option<Back>,
    pub(super) handing: Option<Handing>,
    pub(super) homing: Homing,
    pub(super) store: Option<Storing>,
    pub(super) marking: Option<Token>,

    pub(super) link: Option<LinkId>,
    pub(super) progress_at: Moment,
    pub(super) failed_greets: u32,
    pub(super) early: Option<Box<Hello>>,
    pub(super) conv: Option<Conv>,
    pub(super) last_session: Option<Session>,
    pub(super) lost_at: Option<Moment>,
    pub(super) refused: Option<Decision>,
    pub(super) split: bool,
    pub(super) side: Side,
    pub(super) peer_record: Option<Record>,
    pub(super) peer_serving: bool,
    pub(super) heard_at: Option<Moment>,

    pub(super) outbox: Outbox,
    pub(super) inbox: Inbox,
    pub(super) verify: Option<Looking>,
    pub(super) throttle: Throttle,
    pub(super) growing: Option<Growing>,
    /// Why the volume did not grow the last time.
    pub(super) grow_note: Option<String>,
    pub(super) marks: bool,
    pub(super) hot: bool,
    pub(super) memory: Memory,
    pub(super) word: StateWord,
    pub(super) since: Moment,
}

impl Node {
    /// A node that just started: `state` is what its superblock holds, with the boot epoch already raised and stable.
    pub fn new(cfg: NodeConfig, state: State, info: StartInfo, now: Moment) -> Node {
        Node {
            now,
            started: now,
            ids: 2,
            process: derive(info.seed, 0),
            pulse: Pulse::new(derive(info.seed, 1), state.peer_boot_epoch),
            next_beat: now,
            promise_until: if cfg.mutations.forget_promise { now } else { now + cfg.timing.deadtime },
            lease_from: None,
            join_unsent: false,
            confirmed: false,
            continuity: false,
            fencing: info.fence_left.map(|nonce| Fencing::leftover(nonce, now)),
            fence_rest_until: now,
            reaches: !cfg.pings,
            reach_since: now,
            serve: Serve::Down,
            frozen: false,
            demote_at: None,
            idle: None,
            hold: false,
            disconnected: false,
            forced: None,
            failed: state.is_out_of_use().then(|| super::retire::OUT_OF_USE.to_string()),
            detach: Detach::at_start(&state),
            leaving: None,
            gave_up: None,
            vote: None,
            vote_retry_at: now,
            in_step: false,
            witness_doubt: false,
            witness_seen: None,
            witness_incarnation: state.witness_incarnation,
            witness_note: None,
            enrol: false,
            back: info.going_back.then(|| Back::at_start(now)),
            handing: None,
            homing: Homing::new(&cfg, info.failback_ago, now),
            store: None,
            marking: None,
            link: None,
            progress_at: now,
            failed_greets: 0,
            early: None,
            conv: None,
            last_session: None,
            lost_at: None,
            refused: None,
            split: state.diverged && state.resync == ResyncMark::None,
            side: Default::default(),
            peer_record: None,
            peer_serving: false,
            heard_at: None,
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            verify: None,
            throttle: Throttle::new(&cfg, now),
            growing: None,
            grow_note: None,
            marks: info.marks,
            hot: info.hot,
            info,
            memory: Memory::default(),
            word: StateWord::Joining,
            since: now,
            cfg,
            state,
        }
    }

    /// One event; actions are appended to `out` in the order in which they must be executed. Never fails.
    pub fn step(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.handle(event, out);
        for _ in 0..16 {
            let before = out.len();
            self.advance(out);
            if out.len() == before {
                break;
            }
        }
        self.note_word();
        #[cfg(debug_assertions)]
        if let Err(broken) = self.check() {
            debug_assert!(self.mutated(), "{broken}: {self:?}");
        }
    }

    fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Issue { op, kind, first, count } => self.issue(op, kind, first, count, out),
            Event::LocalDone { op } => self.outbox.local_done(op),
            Event::LocalFailed { op } => self.local_failed(op, out),
            Event::Applied { session, seq } => self.applied(session, seq, out),
            Event::ApplyFailed { .. } => self.fail("the disk failed under a write of the peer", out),
            Event::Marked { token } => self.marked(token, out),
            Event::MarksRead { session, runs, last } => self.marks_read(session, runs, last, out),
            Event::DigestsRead { session, extent, last } => self.digests_read(session, extent, last, out),
            Event::MarksAdded { session } => self.marks_added(session),
            Event::CopyReady { session, total } => self.copy_ready(session, total, out),
            Event::CopyRead { op, first, count, hole } => self.copy_read(op, first, count, hole, out),
            Event::CopyExhausted { session, busy } => self.copy_exhausted(session, busy),
            Event::WentBack { token } => self.went_back(token, out),
            Event::NoWayBack { token } => self.no_way_back(token),
            Event::Kept { token, at } => self.kept(token, at),
            Event::NotKept { token, text } => self.not_kept(token, text, out),
            Event::Looked { token, upto, blocks, findings } => {
                self.looked(token, upto, blocks, &findings, out);
            }
            Event::Grown { token } => self.grown(token, out),
            Event::GrowFailed { token, text } => self.could_not_grow(token, &text, out),
            Event::Stored { token } => self.stored(token, out),
            Event::StoreFailed { token } => self.store_failed(token, out),
            Event::ApplyFull { session } => self.apply_full(session, out),
            Event::DiskRots => self.disk_rots(out),
            Event::UnusableNoted => self.unusable_noted(),
            Event::LinkUp { link } => self.link_up(link, out),
            Event::LinkDown { link } => self.link_down(link, out),
            Event::Received { link, message } => self.received(link, message, out),
            Event::Heartbeat { heartbeat, .. } => self.heard(&heartbeat, out),
            Event::PeerReleased { boot_epoch } => self.peer_released(boot_epoch),
            Event::WitnessReply { nonce, reply } => self.witness_reply(nonce, &reply, out),
            Event::WitnessDoubt => (self.in_step, self.witness_doubt) = (false, true),
            Event::FenceResult { nonce, end } => self.fence_result(nonce, end, out),
            Event::FailbackNoted { token, noted } => self.failback_noted(token, noted, out),
            Event::Window(open) => self.failback_window(open),
            Event::Reach(reaches) => self.reach(reaches),
            Event::Promoted => self.promoted(),
            Event::PromoteFailed => self.promote_failed(out),
            Event::Demoted => self.demoted(out),
            Event::Suspended => self.lease_from = None,
            Event::Operator(operator) => self.operator(operator, out),
        }
    }

    fn advance(&mut self, out: &mut Vec<Action>) {
        self.lease(out);
        self.peer_timeouts(out);
        self.back_step(out);
        self.greet(out);
        self.log_step(out);
        self.resolve_step(out);
        self.pause_step(out);
        self.front_step(out);
        self.farewell_step(out);
        self.leave_step(out);
        self.source_step(out);
        self.handing_step(out);
        self.take(out);
        self.fence_step(out);
        self.vote_step(out);
        self.reach_step(out);
        self.raise(out);
        self.flow(out);
        self.verify_step(out);
        self.failback(out);
        self.beat(out);
    }

    /// When `Event::Tick` is wanted next; at the latest the next heartbeat.
    pub fn next_timeout(&self) -> Option<Moment> {
        let t = &self.cfg.timing;
        let lease = self.lease_from.map(|from| from + t.lease());
        let lost = self.lost_at.map(|at| at + t.slow_peer);
        let slow = self.outbox.waiting_since().map(|at| at + t.slow_peer);
        let copy = self.conv.as_ref().and_then(|conv| conv.retry_at());
        let look = self.verify.as_ref().and_then(|looking| looking.run.retry_at());
        [
            Some(self.next_beat),
            lease,
            self.demote_at,
            Some(self.promise_until),
            Some(self.promise_until + t.fence_delay),
            self.fencing.as_ref().and_then(Fencing::retry_at),
            Some(self.fence_rest_until),
            Some(self.reach_since + t.deadtime),
            lost,
            slow,
            Some(self.started + t.initdead),
            self.link.map(|_| self.progress_at + t.slow_peer),
            copy,
            look,
            self.pace_timeout(),
            self.detach.farewell.as_ref().map(|farewell| farewell.until),
            self.detach.front.as_ref().map(|front| front.until),
            self.leaving_until(),
            Some(self.vote_retry_at),
            self.kept_until(),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > self.now)
        .min()
    }

    /// Blocks in which this copy was changed alone, as the image counts them; told before each `Event::LinkUp`.
    pub fn changed_alone(&mut self, blocks: u64) {
        self.side.changed = Some(blocks);
    }

    /// Where the log of the mounted filesystem is; told before each step.
    pub fn log_at(&mut self, log: Option<(u64, u64)>) {
        self.side.log = log;
    }

    /// The stable state, as last stored.
    pub fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn me(&self) -> NodeId {
        self.cfg.me
    }

    pub(super) fn token(&mut self) -> Token {
        self.ids += 1;
        Token(self.ids)
    }

    /// A number nobody else draws (A8).
    pub(super) fn draw(&mut self) -> u128 {
        self.ids += 1;
        derive(self.info.seed, self.ids)
    }

    pub(super) fn members(&self) -> Option<Members> {
        self.state.record.map(|record| record.members)
    }

    pub(super) fn both(&self) -> bool {
        self.members() == Some(Members::BOTH)
    }

    pub(super) fn sole(&self) -> bool {
        self.members().and_then(Members::solo) == Some(self.me())
    }

    pub(super) fn is_primary(&self) -> bool {
        self.state.record.is_some_and(|record| record.primary == self.me())
    }

    /// Operations are taken.
    pub(super) fn data_open(&self) -> bool {
        matches!(self.serve, Serve::Raising | Serve::Up | Serve::Dropping { graceful: true })
    }

    pub(super) fn after(&self, span: Span) -> Moment {
        self.now + span
    }

    pub(super) fn passed(&self, from: Moment, span: Span) -> bool {
        self.now >= from + span
    }

    /// Makes `state` stable; nothing that depends on it happens before `stored`. One at a time.
    pub(super) fn put(&mut self, mut state: State, then: After, out: &mut Vec<Action>) {
        debug_assert!(self.store.is_none(), "one store at a time");
        state.peer_boot_epoch = self.pulse.peer_epoch().unwrap_or(0).max(state.peer_boot_epoch);
        state.witness_incarnation = self.witness_incarnation;
        let token = self.token();
        out.push(Action::Store { token, state: Box::new(state.clone()) });
        self.store = Some(Storing { token, state, then });
    }

    fn stored(&mut self, token: Token, out: &mut Vec<Action>) {
        if self.store.as_ref().is_none_or(|storing| storing.token != token) {
            return;
        }
        let Some(storing) = self.store.take() else { return };
        self.state = storing.state;
        match storing.then {
            After::Nothing => {}
            After::Solo => self.solo_stored(out),
            After::Join1 => self.join1_stored(),
            After::Joined => self.joined_stored(out),
            After::TargetMark => self.target_marked(out),
            After::Out => (self.confirmed, self.continuity) = (false, false),
            After::HandGiven => self.hand_given(out),
            After::HandTaken => self.hand_taken(out),
            After::Adopted => self.adopted(),
            After::Retired => self.retired(out),
        }
    }

    fn store_failed(&mut self, token: Token, out: &mut Vec<Action>) {
        if let Some(storing) = self.store.take_if(|storing| storing.token == token) {
            if storing.then == After::Retired && self.failed.is_some() {
                // It keeps away all the same; the next start is told once more.
                out.push(super::action::Order::HangUp.into());
            }
            self.fail("a record could not be stored", out);
        }
    }

    #[cfg(debug_assertions)]
    fn mutated(&self) -> bool {
        self.cfg.mutations != super::config::Mutations::default()
    }

    /// The invariants of one node, checked after every step of a debug build.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.data_open() && self.state.resync != ResyncMark::None {
            return Err("a half-overwritten copy serves (I8)");
        }
        if self.data_open() && !self.members().is_some_and(|members| members.contains(self.me())) {
            return Err("a copy that is out by record serves (I4)");
        }
        if self.data_open() && !self.is_primary() {
            return Err("a node serves that is not primary by record");
        }
        if self.conv.as_ref().is_some_and(Conv::receives) && self.data_open() {
            return Err("a node that receives serves");
        }
        if self.frozen && self.serve == Serve::Down {
            return Err("frozen without serving");
        }
        Ok(())
    }
}

/// The n-th identifier of a seed.
fn derive(seed: u128, n: u64) -> u128 {
    let mut bytes = [0u8; 24];
    bytes[..16].copy_from_slice(&seed.to_le_bytes());
    bytes[16..].copy_from_slice(&n.to_le_bytes());
    let hash = blake3::hash(&bytes);
    u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap_or([0; 16])).max(1)
}
