//! Everything that the right to serve depends on, as plain data at one moment.
//!
//! Decides nothing; what follows from the facts is in `rights`. Gathered anew for every decision, so that what is
//! decided and what is recorded for people are the same facts.

use serde::{Deserialize, Serialize};

use crate::base::{Moment, NodeId, Record};
use crate::cluster::CopyFacts;

use super::config::{Arbitration, Mutations, Timing};
use super::failback::{Failback, HomingFacts};
use super::machine::{Node, Serve};
use super::talk::Phase;

/// How far serving is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serving {
    Down,
    /// A predecessor's mount waits.
    Kept,
    Raising,
    Up,
    /// Going down, and operations still work.
    Stopping,
    /// Going down, and operations fail.
    Dropping,
}

/// How far the conversation with the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Talk {
    /// There is none.
    None,
    Greeting,
    Comparing,
    /// Nothing can be done together.
    Resting,
    /// This copy is copied to the peer's, both being members: nobody serves before it is done.
    Equalising,
    /// It is copied to the peer's.
    Source,
    /// The same, and the peer has joined: operations go to both.
    Joining,
    /// The peer's is copied here.
    Target,
    /// Both equal, both members, agreed in this session.
    Member,
    /// The peer's disk failed, and it works on this copy.
    Fronted,
}

/// What a node knows when it decides. Moments are those of its own boot-time clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    pub me: NodeId,
    pub arbitration: Arbitration,
    pub timing: Timing,
    pub now: Moment,
    pub started: Moment,

    // This copy.
    pub copy: CopyFacts,
    /// The state file beside the image agreed with it at the start.
    pub file_agrees: bool,
    /// A split brain is stored, or was found.
    pub diverged: bool,
    pub split: bool,
    /// Its side of a split is the one that is kept, and the other one knows.
    pub crowned: bool,
    pub failed: bool,
    /// This node works on the peer's copy.
    #[serde(default)]
    pub front: bool,
    pub going_back: bool,
    /// A record or marks are being made stable.
    pub storing: bool,
    pub marking: bool,

    // This node.
    pub serving: Serving,
    /// The lease lapsed and operations wait.
    pub frozen: bool,
    pub handing: bool,
    /// Stopped by an administrator, or the mount failed.
    pub stopped: bool,
    pub held: bool,
    pub disconnected: bool,
    /// On its way to say that it leaves.
    pub leaving: bool,
    /// An administrator stated that the peer is down.
    pub forced: bool,

    // The peer.
    pub heard_at: Option<Moment>,
    /// An authenticated connection stands; when something last came over it.
    pub linked: bool,
    pub progress_at: Moment,
    pub talk: Talk,
    /// It was refused for good, and does not serve.
    pub stranger: bool,
    pub peer_record: Option<Record>,
    pub peer_serving: bool,
    /// It said that it holds no right any more.
    pub gave_up: bool,
    /// It works on this copy, or did and may not have stopped.
    #[serde(default)]
    pub fronted: bool,
    /// When the member session ended.
    pub lost_at: Option<Moment>,

    // Rights and promises.
    /// Both agreed on this record since this node started, and nothing took that away.
    pub confirmed: bool,
    pub continuity: bool,
    pub promise_until: Moment,
    pub needs_lease: bool,
    pub lease_until: Option<Moment>,
    /// It asks the witness or an agent for the right to go on alone, or stores that it does.
    pub taking: bool,
    pub witness_seen: Option<Moment>,
    pub witness_agrees: bool,
    /// Cut off from all ping targets, now; or until less than a deadtime ago.
    pub cut_off: bool,
    pub was_cut_off: bool,
    /// There are ping targets, and none answers.
    pub reaches_nobody: bool,

    // The way back.
    pub failback: Option<Failback>,
    pub homing: HomingFacts,

    #[serde(skip)]
    pub(super) mutations: Mutations,
}

impl Node {
    /// The node as it is now.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            me: self.me(),
            arbitration: self.cfg.arbitration,
            timing: self.cfg.timing,
            now: self.now,
            started: self.started,
            copy: CopyFacts::of(&self.state),
            file_agrees: self.info.file_agrees || self.cfg.mutations.ignore_state_file,
            diverged: self.state.diverged,
            split: self.split,
            crowned: self.is_crowned(),
            failed: self.failed.is_some(),
            front: self.detach.front.is_some(),
            going_back: self.is_going_back(),
            storing: self.store.is_some(),
            marking: self.marking.is_some(),
            serving: self.serving(),
            frozen: self.frozen,
            handing: self.handing.is_some(),
            stopped: self.idle.is_some(),
            held: self.hold,
            disconnected: self.disconnected,
            leaving: self.leaving.is_some(),
            forced: self.forced.is_some(),
            heard_at: self.heard_at,
            linked: self.link.is_some(),
            progress_at: self.progress_at,
            talk: self.talk(),
            stranger: self.is_stranger(),
            peer_record: self.peer_record,
            peer_serving: self.peer_serving,
            gave_up: self.gave_up.is_some(),
            fronted: self.detach.fronted,
            lost_at: self.lost_at,
            confirmed: self.confirmed,
            continuity: self.continuity,
            promise_until: self.promise_until,
            needs_lease: self.needs_lease(),
            lease_until: self.lease_from.map(|from| from + self.lease_span()),
            taking: self.taking(),
            witness_seen: self.witness_seen,
            witness_agrees: self.in_step,
            cut_off: self.is_cut_off(),
            was_cut_off: self.was_cut_off(),
            reaches_nobody: self.cfg.pings && !self.reaches,
            failback: self.cfg.failback,
            homing: self.homing.facts(),
            mutations: self.cfg.mutations,
        }
    }

    fn serving(&self) -> Serving {
        match self.serve {
            Serve::Down => Serving::Down,
            Serve::Kept => Serving::Kept,
            Serve::Raising => Serving::Raising,
            Serve::Up => Serving::Up,
            Serve::Dropping { graceful: true } => Serving::Stopping,
            Serve::Dropping { graceful: false } => Serving::Dropping,
        }
    }

    fn talk(&self) -> Talk {
        match self.conv.as_ref().map(|conv| &conv.phase) {
            None => Talk::None,
            Some(Phase::Greeting) => Talk::Greeting,
            Some(Phase::Comparing) => Talk::Comparing,
            Some(Phase::Resting) => Talk::Resting,
            Some(Phase::Source(source)) if source.equal => Talk::Equalising,
            Some(Phase::Source(source)) if source.joined_here() => Talk::Joining,
            Some(Phase::Source(_)) => Talk::Source,
            Some(Phase::Target(_)) => Talk::Target,
            Some(Phase::Member) => Talk::Member,
            Some(Phase::Fronted) => Talk::Fronted,
        }
    }
}
