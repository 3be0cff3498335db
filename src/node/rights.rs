//! Who may serve, who may go on without the peer, and which state that is: from the facts alone.
//!
//! Decides the right, or names what is in the way and until when. Does not know how a right is used. Invariants: pure,
//! so that recorded facts lead to the same answer on any machine; every refusal has a reason and a way out.

use serde::{Deserialize, Serialize};

use crate::base::{Members, Moment, NodeId, Span};
use crate::cluster::{Right, gate};

use super::config::Arbitration;
use super::facts::{Facts, Serving, Talk};
use super::failback::Stay;
use super::view::{Role, StateWord};

/// What is in the way of a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bar {
    Serves,
    Stopping,
    NeverInSync,
    OutOfDate,
    AloneAlready,
    HalfOverwritten,
    Failed,
    Storing,
    GoingBack,
    Handing,
    Taking,
    Talking,
    LinkAlive,
    Held,
    Stopped,
    Disconnected,
    NotLost,
    JustStarted,
    FileDisagrees,
    Promised,
    Fronted,
    NotConfirmed,
    NotContinuous,
    FenceDelay,
    CutOff,
    PersonDecides,
    PrimaryYields,
    PeerPrimary,
    PeerNewer,
    Undecided,
    Split,
    NoSession,
    NoLease,
    Gate,
}

/// What helps where nothing else can know.
const PERSON: &str = "the peer; or \"twinfs promote --peer-is-down\"";

impl Bar {
    /// What is in the way, and what would change it.
    pub fn texts(self) -> (&'static str, &'static str) {
        match self {
            Bar::Serves => ("it serves already", "nothing needs to"),
            Bar::Stopping => ("it is on its way down", "the end of that"),
            Bar::NeverInSync => {
                ("this copy has never been in sync", "the peer, from which everything is copied")
            }
            Bar::OutOfDate => (
                "the record says that this copy is out of date",
                "the peer, from which it is brought up to date; or, giving up what only the peer has, \"twinfs promote \
                 --peer-is-down --force\"",
            ),
            Bar::AloneAlready => ("the record names this node alone already", "nothing needs to"),
            Bar::HalfOverwritten => (
                "this copy is half overwritten by a resync",
                "the peer, from which the rest is copied; or the way back by \"twinfs promote --peer-is-down --force\"",
            ),
            Bar::Failed => ("the image cannot be used any more", "another disk and a restart"),
            Bar::Storing => ("a record or marks are being made stable", "the disk, within moments"),
            Bar::GoingBack => ("the copy goes back to the state before the resync", "the end of that"),
            Bar::Handing => ("the primary is changing by agreement", "the end of that, or of the session"),
            Bar::Taking => {
                ("it is being asked for: by the witness, by a fence agent, or on the disk", "their answer")
            }
            Bar::Talking => ("the peer answers on the link", "the end of the session"),
            Bar::LinkAlive => ("the link gave a sign of life", "its silence"),
            Bar::Held => ("this node is held", "\"twinfs hold --off\""),
            Bar::Stopped => ("it is stopped, or its mount failed", "\"twinfs promote\""),
            Bar::Disconnected => ("it is disconnected on purpose", "\"twinfs connect\""),
            Bar::NotLost => (
                "the peer is not given up: its session stands, or ended just now",
                "the peer's silence for slow_peer",
            ),
            Bar::JustStarted => ("it started less than initdead ago", "the peer, or time"),
            Bar::FileDisagrees => {
                ("the node state file does not agree with the image, which may be an old one", PERSON)
            }
            Bar::Promised => (
                "the peer was heard less than deadtime ago and may hold a lease",
                "the peer's silence on every path, or its word that it let go",
            ),
            Bar::Fronted => (
                "the peer's disk failed, and what still runs there works on this copy",
                "its end, within detach_grace, or the peer's silence",
            ),
            Bar::NotConfirmed => ("both nodes did not agree on this record since this start", PERSON),
            Bar::NotContinuous => (
                "it has not run without a break since both agreed on this record, so it may not fence",
                PERSON,
            ),
            Bar::FenceDelay => ("the primary may fence first", "time, fence_delay after the promise"),
            Bar::CutOff => ("no ping target answers, or none did until a moment ago", "the network"),
            Bar::PersonDecides => (
                "with arbitration = \"manual\" a person promotes the secondary",
                "\"twinfs promote --peer-is-down\"",
            ),
            Bar::PrimaryYields => ("with arbitration = \"yield\" a primary that is cut off stops", PERSON),
            Bar::PeerPrimary => {
                ("the peer is primary by record", "\"twinfs switchover\", or a right to go on alone")
            }
            Bar::PeerNewer => ("the peer serves under a newer record", "the comparison of both copies"),
            Bar::Undecided => {
                ("both copies are being compared, or could not be agreed on", "that comparison")
            }
            Bar::Split => ("both copies were changed while apart", "\"twinfs resolve\""),
            Bar::NoSession => ("no session with the peer as a member stands", "the peer"),
            Bar::NoLease => ("the lease lapsed", "the peer's next heartbeat"),
            Bar::Gate => ("the copy may not be served", "another right, or another copy"),
        }
    }
}

/// What is in the way, and until when if only time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    pub bar: Bar,
    pub until: Option<Moment>,
}

impl From<Bar> for Obstacle {
    fn from(bar: Bar) -> Obstacle {
        Obstacle { bar, until: None }
    }
}

fn until<T>(bar: Bar, until: Moment) -> Result<T, Obstacle> {
    Err(Obstacle { bar, until: Some(until) })
}

impl Facts {
    fn members(&self) -> Option<Members> {
        self.copy.record.map(|record| record.members)
    }

    fn both(&self) -> bool {
        self.members() == Some(Members::BOTH)
    }

    fn sole(&self) -> bool {
        self.members().and_then(Members::solo) == Some(self.me)
    }

    fn is_primary(&self) -> bool {
        self.copy.record.is_some_and(|record| record.primary == self.me)
    }

    fn data_open(&self) -> bool {
        matches!(self.serving, Serving::Raising | Serving::Up | Serving::Stopping)
    }

    fn passed(&self, from: Moment, span: Span) -> bool {
        self.now >= from + span
    }

    pub(super) fn lease_valid(&self) -> bool {
        !self.needs_lease || self.lease_until.is_some_and(|until| self.now < until)
    }

    /// The right under which this node would serve now; the gate is asked by `serve`.
    pub(super) fn serve_right(&self) -> Result<Right, Obstacle> {
        match self.serving {
            Serving::Down | Serving::Kept => {}
            Serving::Raising | Serving::Up => Err(Bar::Serves)?,
            Serving::Stopping | Serving::Dropping => Err(Bar::Stopping)?,
        }
        let busy = [
            (self.stopped, Bar::Stopped),
            (self.failed, Bar::Failed),
            (self.handing, Bar::Handing),
            (self.storing || self.marking, Bar::Storing),
            (self.going_back, Bar::GoingBack),
            (self.taking, Bar::Taking),
        ];
        if let Some((_, bar)) = busy.into_iter().find(|(is, _)| *is) {
            Err(bar)?;
        }
        let Some(record) = self.copy.record else { return Err(Bar::NeverInSync.into()) };
        if !self.is_primary() {
            Err(if record.members.contains(self.me) { Bar::PeerPrimary } else { Bar::OutOfDate })?;
        }
        if self.sole() {
            let newer = self.peer_serving && self.peer_record.is_some_and(|peer| peer.v > record.v);
            let undecided = match self.talk {
                Talk::Resting => !self.crowned,
                Talk::Greeting | Talk::Comparing | Talk::Target => true,
                _ => false,
            };
            let promised = self.now < self.promise_until && !self.mutations.front_unpromised;
            if self.fronted && promised {
                return until(Bar::Fronted, self.promise_until);
            }
            let bars = [
                (self.talk == Talk::Fronted, Bar::Fronted),
                (newer, Bar::PeerNewer),
                (undecided && !self.stranger, Bar::Undecided),
                (self.split, Bar::Split),
                (self.cut_off, Bar::CutOff),
            ];
            return match bars.into_iter().find(|(is, _)| *is) {
                Some((_, bar)) => Err(bar.into()),
                None => Ok(Right::Sole),
            };
        }
        match () {
            () if !self.both() => Err(Bar::OutOfDate.into()),
            () if self.talk != Talk::Member => Err(Bar::NoSession.into()),
            () if !self.confirmed => Err(Bar::NotConfirmed.into()),
            () if !self.lease_valid() => Err(Bar::NoLease.into()),
            () => Ok(Right::Agreed),
        }
    }

    /// The right that only the gate may still refuse.
    pub fn serve_name(&self) -> Option<Right> {
        self.serve_right().ok()
    }

    /// The right under which this node would serve now.
    pub fn serve(&self) -> Result<Right, Obstacle> {
        let right = self.serve_right()?;
        gate(self.me, &self.copy, right).map(|()| right).map_err(|_| Bar::Gate.into())
    }

    /// What keeps this node from any step alone, whoever would allow it.
    fn able(&self) -> Result<(), Obstacle> {
        let record = self.copy.record;
        let bars = [
            (record.is_none(), Bar::NeverInSync),
            (self.sole(), Bar::AloneAlready),
            (!self.both(), Bar::OutOfDate),
            (self.copy.half_overwritten, Bar::HalfOverwritten),
            (self.failed, Bar::Failed),
            (self.storing || self.marking, Bar::Storing),
            (self.going_back, Bar::GoingBack),
            (self.serving == Serving::Dropping, Bar::Stopping),
        ];
        match bars.into_iter().find(|(is, _)| *is) {
            Some((_, bar)) => Err(bar.into()),
            None => Ok(()),
        }
    }

    /// The right by which this node would go on without the peer now.
    pub fn alone(&self) -> Result<Right, Obstacle> {
        self.able()?;
        if self.forced {
            return if self.talk == Talk::None { Ok(Right::Forced) } else { Err(Bar::Talking.into()) };
        }
        if !self.stranger && self.talk != Talk::Fronted {
            if self.talk != Talk::None {
                Err(Bar::Talking)?;
            }
            let silent_at = self.progress_at + self.timing.slow_peer;
            if self.linked && self.now < silent_at {
                return until(Bar::LinkAlive, silent_at);
            }
        }
        let bars = [
            (self.held, Bar::Held),
            (self.stopped, Bar::Stopped),
            (self.disconnected && !self.is_primary(), Bar::Disconnected),
        ];
        if let Some((_, bar)) = bars.into_iter().find(|(is, _)| *is) {
            Err(bar)?;
        }
        match self.arbitration {
            Arbitration::Witness => self.by_witness(),
            Arbitration::Manual | Arbitration::Yield => match self.by_rule() {
                Err(_) if self.gave_up => Ok(Right::Given),
                answer => answer,
            },
            Arbitration::Fence | Arbitration::Deadtime if self.gave_up => Ok(Right::Given),
            Arbitration::Fence => self.by_fence(),
            Arbitration::Deadtime => self.by_rule(),
        }
    }

    /// A primary by agreement gives the link its time to come back; everybody else waits for silence.
    fn agreed(&self) -> bool {
        self.is_primary() && (self.confirmed || self.data_open())
    }

    /// The member session ended for good.
    fn lost(&self) -> Result<(), Obstacle> {
        let Some(lost_at) = self.lost_at.filter(|_| !self.gave_up) else {
            return if self.gave_up { Ok(()) } else { Err(Bar::NotLost.into()) };
        };
        if self.passed(lost_at, self.timing.slow_peer) {
            return Ok(());
        }
        until(Bar::NotLost, lost_at + self.timing.slow_peer)
    }

    /// What is stored here is believed.
    fn rested(&self) -> Result<(), Obstacle> {
        if self.confirmed {
            return Ok(());
        }
        if !self.passed(self.started, self.timing.initdead) {
            return until(Bar::JustStarted, self.started + self.timing.initdead);
        }
        if self.file_agrees { Ok(()) } else { Err(Bar::FileDisagrees.into()) }
    }

    /// The peer was not heard for so long that it holds no lease.
    fn silent(&self) -> Result<(), Obstacle> {
        let promised = self.now < self.promise_until && !self.mutations.no_promise;
        if self.gave_up || !promised { Ok(()) } else { until(Bar::Promised, self.promise_until) }
    }

    fn by_witness(&self) -> Result<Right, Obstacle> {
        if self.mutations.fence_as_vote && !self.is_primary() && self.by_fence().is_ok() {
            return Ok(Right::Fenced);
        }
        if self.agreed() {
            self.lost()?;
        } else {
            self.rested()?;
            self.silent()?;
        }
        Ok(Right::Won)
    }

    fn by_rule(&self) -> Result<Right, Obstacle> {
        match (self.arbitration, self.is_primary()) {
            (Arbitration::Deadtime, _) if self.was_cut_off => Err(Bar::CutOff.into()),
            (Arbitration::Deadtime | Arbitration::Manual, true) if self.agreed() => {
                self.lost().map(|()| self.own())
            }
            (Arbitration::Deadtime, true) => {
                self.rested().and_then(|()| self.silent()).map(|()| Right::Silent)
            }
            (Arbitration::Manual, true) => self.rested().map(|()| Right::Recorded),
            (Arbitration::Manual, false) => Err(Bar::PersonDecides.into()),
            (Arbitration::Yield, true) => Err(Bar::PrimaryYields.into()),
            (_, false) if !self.confirmed => Err(Bar::NotConfirmed.into()),
            _ => self.silent().map(|()| self.own()),
        }
    }

    /// The name of the right where the rule alone gives it.
    fn own(&self) -> Right {
        match self.arbitration {
            Arbitration::Manual => Right::Recorded,
            Arbitration::Yield => Right::Yielded,
            _ => Right::Silent,
        }
    }

    /// This process agreed with the peer on exactly this record, and nothing took the right away since.
    pub(super) fn is_continuous(&self) -> bool {
        self.continuity || (self.mutations.fence_after_restart && self.arbitration == Arbitration::Fence)
    }

    /// The primary asks an agent at once, the other one gives it `fence_delay`, so that both seldom shoot.
    fn by_fence(&self) -> Result<Right, Obstacle> {
        if !self.is_continuous() {
            Err(Bar::NotContinuous)?;
        }
        if self.is_primary() && self.continuity {
            self.lost()?;
            return Ok(Right::Fenced);
        }
        self.silent()?;
        let first = self.promise_until + self.timing.fence_delay;
        if self.now < first { until(Bar::FenceDelay, first) } else { Ok(Right::Fenced) }
    }

    /// `Err`: why this node does not ask for the volume, the times between two tries aside.
    pub(super) fn homeward(&self) -> Result<(), Stay> {
        let windowed = match self.failback {
            None => return Err(Stay::Home),
            Some(failback) if failback.to != self.me => {
                return Err(if self.is_primary() { Stay::Theirs } else { Stay::Home });
            }
            Some(failback) => failback.windowed,
        };
        match () {
            () if self.is_primary() => Err(Stay::Home),
            () if self.held => Err(Stay::Held),
            () if self.failed || self.stopped || self.leaving => Err(Stay::Stopped),
            () if self.talk != Talk::Member => Err(Stay::OutOfSync),
            () if self.reaches_nobody => Err(Stay::ReachesNobody),
            () if self.homing.moved => Err(Stay::MovedAway),
            () if windowed && !self.homing.open => Err(Stay::Closed),
            () => Ok(()),
        }
    }

    /// Why this node does not ask for the volume; `None`: it does.
    pub fn stays(&self) -> Option<Stay> {
        match self.homeward() {
            Err(stay) => Some(stay),
            Ok(()) if self.homing.noting => Some(Stay::Noting),
            Ok(()) if self.now < self.homing.settled_at.max(self.homing.rest_until) => Some(Stay::TooSoon),
            Ok(()) => None,
        }
    }

    /// Operations are held at this moment.
    pub(super) fn is_frozen(&self) -> bool {
        let streams = matches!(self.talk, Talk::Member | Talk::Joining);
        self.data_open() && (self.frozen || self.marking || (self.both() && !streams))
    }

    pub fn role(&self) -> Role {
        match () {
            () if self.failed && self.data_open() => Role::HandingOver,
            () if self.failed => Role::Failed,
            () if self.talk == Talk::Fronted => Role::Secondary,
            () if self.handing && self.serving != Serving::Up => Role::HandingOver,
            () if self.is_frozen() => Role::Frozen,
            () if self.data_open() => Role::Primary,
            () if self.split => Role::SplitBrain,
            () if self.copy.half_overwritten || self.talk == Talk::Target => Role::Target,
            () if self.both() && !self.is_primary() && self.confirmed => Role::Secondary,
            () => Role::Joining,
        }
    }

    pub fn word(&self) -> StateWord {
        let out = self.members().is_some_and(|members| !members.contains(self.me));
        match self.talk {
            _ if self.split => StateWord::Diverged,
            _ if self.front => StateWord::Behind,
            Talk::Member => StateWord::InSync,
            Talk::Equalising | Talk::Source | Talk::Joining | Talk::Target => StateWord::CatchingUp,
            _ if self.copy.half_overwritten => StateWord::Behind,
            _ if self.diverged => StateWord::Diverged,
            _ if self.sole() => StateWord::Alone,
            _ if out => StateWord::Behind,
            _ => StateWord::Joining,
        }
    }

    /// Whom the facts are about.
    pub fn peer(&self) -> NodeId {
        self.me.other()
    }
}
