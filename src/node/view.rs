//! What a node shows of itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::{Moment, Record, Span};
use crate::format::Verdict;
use crate::resync::{Limits, VerifyProgress};

use super::failback::FailbackView;

/// What the node is doing about the right to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Started, or out of touch: no agreement with the peer, not serving.
    Joining,
    /// A member that follows.
    Secondary,
    /// Serving (mounted, or about to be).
    Primary,
    /// Primary whose operations wait.
    Frozen,
    /// Being overwritten by a resync.
    Target,
    /// Primary that hands over: stopped or stopping.
    HandingOver,
    /// Diverged from the peer, not serving.
    SplitBrain,
    /// The image's disk failed or a record could not be stored: serves nothing until restarted.
    Failed,
}

/// The state in a word that a tired person understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateWord {
    InSync,
    CatchingUp,
    Behind,
    Alone,
    Diverged,
    Joining,
}

impl fmt::Display for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateWord::InSync => "in-sync",
            StateWord::CatchingUp => "catching-up",
            StateWord::Behind => "behind",
            StateWord::Alone => "alone",
            StateWord::Diverged => "diverged",
            StateWord::Joining => "joining",
        })
    }
}

/// Why the node is as it is, and what it waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    pub text: String,
    /// The deadline of what it waits for, on this node's clock.
    pub until: Option<Moment>,
}

/// What does not get on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    pub since: Moment,
    pub why: &'static str,
}

/// A resync as its source sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncView {
    /// Blocks stable on the target, and in all.
    pub copied: u64,
    pub total: u64,
    /// Over the last half minute at most.
    pub blocks_per_second: Option<u64>,
    /// At that speed; `None`: not known yet, or it does not get on.
    pub left: Option<Span>,
    /// Somebody waits for it: neither pause nor pace hold it up.
    pub urgent: bool,
    pub waits_for_turn: bool,
    pub stalled: Option<Stall>,
}

/// A request to a fence agent that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceView {
    pub nonce: u128,
    /// From 0.
    pub level: u32,
    pub since: Moment,
    /// No level helped; the next round begins then.
    pub retry_at: Option<Moment>,
    /// Of an earlier process.
    pub leftover: bool,
}

/// A snapshot for status, metrics and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub role: Role,
    pub state: StateWord,
    /// When `state` was entered.
    pub since: Moment,
    pub reason: Reason,
    pub record: Option<Record>,
    /// A session with the peer stands.
    pub connected: bool,
    /// What the peer said in this conversation that it can; zero while nothing was said.
    pub peer_features: u64,
    pub peer_serving: bool,
    pub serving: bool,
    /// What is served is the peer's copy, over the link: this node's disk failed.
    pub front: bool,
    /// Operations are held at this moment.
    pub frozen: bool,
    pub lease_until: Option<Moment>,
    pub promise_until: Moment,
    /// The resync that this node drives.
    pub resync: Option<ResyncView>,
    /// An administrator paused what this node copies to the peer.
    pub resync_paused_until: Option<Moment>,
    pub resync_limits: Limits,
    /// Blocks of the volume as far as this node uses it; whether it is growing, and why it did not the last time.
    pub blocks: u64,
    pub growing: bool,
    pub grow_failed: Option<String>,
    /// A verify run that is under way.
    pub verify: Option<VerifyProgress>,
    /// Operations started or held.
    pub operations: usize,
    /// The witness answered the last question, and when.
    pub witness_seen: Option<Moment>,
    pub fencing: Option<FenceView>,
    /// Where there is a node that the volume goes back to.
    pub failback: Option<FailbackView>,
    /// There are ping targets, and none answers.
    pub reaches_nobody: bool,
    /// Since when a ping target answers, or none does; `None`: there are no targets.
    pub reach_since: Option<Moment>,
    /// What was decided about a split brain that is not over.
    pub verdict: Option<Verdict>,
    /// This copy is to give way and could not be put aside: why.
    pub not_kept: Option<String>,
    pub held: bool,
    /// The operator asked to leave the peer alone.
    pub disconnected: bool,
    /// The operator, or a mount that failed, keeps this node from serving.
    pub demoted: bool,
}
