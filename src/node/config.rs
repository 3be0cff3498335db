//! What a node is told once, at its start.

use serde::{Deserialize, Serialize};

use crate::base::{AfterSplit, NodeId, Span};
use crate::resync::Limits;

use super::failback::Failback;

/// Who decides when the nodes cannot agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Arbitration {
    /// A third process with a compare-and-swap record.
    Witness,
    /// An agent's word that the other one has stopped, by a node with unbroken continuity.
    Fence,
    /// The cut-off primary stops; the confirmed secondary takes over.
    Yield,
    /// The primary goes on alone; a person promotes the secondary.
    Manual,
    /// Silence: both may serve when every link is cut and both live.
    Deadtime,
}

/// The times of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Between two heartbeats.
    pub keepalive: Span,
    /// The secondary waits this long after the last heartbeat (D).
    pub deadtime: Span,
    /// A node that just started takes no one-sided step before this (I); at least `2 * deadtime`.
    pub initdead: Span,
    /// The primary gives up on a peer that has not answered for this long (T_p); below the lease.
    pub slow_peer: Span,
    /// Time the primary needs to drop address and services (T_rel).
    pub release: Span,
    /// Bound on the clocks' drift, in parts per million of true time.
    pub drift_ppm: u64,
    /// Failback waits this long after in-sync.
    pub failback_delay: Span,
    /// The secondary gives the primary so long to shoot first.
    pub fence_delay: Span,
    /// Between two rounds through the agents when none of them helped.
    pub fence_retry: Span,
    /// A primary whose disk failed works on the peer's copy for so long at most: its services stop in that time.
    #[serde(default = "detach_grace")]
    pub detach_grace: Span,
}

/// For facts that were recorded before there was such a time.
fn detach_grace() -> Span {
    Span::from_secs(60)
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            keepalive: Span::from_millis(500),
            deadtime: Span::from_secs(10),
            initdead: Span::from_secs(30),
            slow_peer: Span::from_secs(3),
            release: Span::from_secs(2),
            drift_ppm: 10_000,
            failback_delay: Span::from_secs(60),
            fence_delay: Span::from_secs(5),
            fence_retry: Span::from_secs(10),
            detach_grace: detach_grace(),
        }
    }
}

impl Timing {
    /// Length of the lease: `(D / (1 + r) - m) * (1 - r)` with `m = release + 2 * keepalive`.
    pub fn lease(&self) -> Span {
        let million = 1_000_000u128;
        let shrunk = u128::from(self.deadtime.0) * million / (million + u128::from(self.drift_ppm));
        let margin = u128::from(self.release.0) + 2 * u128::from(self.keepalive.0);
        let rest =
            shrunk.saturating_sub(margin) * (million - u128::from(self.drift_ppm.min(999_999))) / million;
        Span(u64::try_from(rest).unwrap_or(0))
    }
}

/// Deliberate faults, all off: tests switch one on and must then catch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Mutations {
    /// Acknowledge when the local part is done.
    pub ack_before_peer: bool,
    /// For the mirror: evict an extent at the acknowledgement instead of both flushes.
    pub evict_early: bool,
    /// For the mirror: after a crash trust what lay in the activity log of a copy that only followed.
    pub no_receiver_marks: bool,
    /// On losing the peer mark only what was not acknowledged.
    pub mark_only_unacked: bool,
    /// Count the lease from the echo's arrival instead of the heartbeat's send time.
    pub lease_from_echo_arrival: bool,
    /// Accept operations of any session and in any order.
    pub no_session_check: bool,
    /// Acknowledge alone before the record is stored.
    pub solo_ack_before_record: bool,
    /// Fsync is acknowledged on the local flush only.
    pub flush_local_only: bool,
    /// A resync ignores the target's marks.
    pub ignore_target_marks: bool,
    /// The joiner is told before the primary stored the join.
    pub joiner_first: bool,
    /// Members serve before the reconnect copy is complete.
    pub serve_before_copy: bool,
    /// No lease check at all.
    pub no_lease: bool,
    /// Take over without asking the witness.
    pub no_witness_vote: bool,
    /// The secondary takes over although the primary may still hold a lease.
    pub no_promise: bool,
    /// The lease is counted twice as long as the peer's promise allows.
    pub lease_too_long: bool,
    /// On losing the peer mark nothing.
    pub no_marks_on_loss: bool,
    /// A resync flows from the copy that is behind to the one that is ahead.
    pub wrong_direction: bool,
    /// For the mirror: after a crash trust everything that lay in the activity log.
    pub no_marks_on_start: bool,
    /// For the mirror: writes made alone are not marked.
    pub no_solo_marks: bool,
    /// For the mirror: what is written alone while a copy is made is not copied.
    pub no_copy_marks: bool,
    /// For the mirror: a receiver says done before it did.
    pub ack_before_apply: bool,
    /// For the mirror: a receiver does not flush its disk.
    pub no_receiver_flush: bool,
    /// A pause of a resync has no end.
    pub pause_for_ever: bool,
    /// For the mirror: a receiver keeps what was discarded.
    pub keep_discarded: bool,
    /// For the mirror: what differs at first sight is reported without a second look under the lock.
    pub verify_unlocked: bool,
    /// For the mirror: what a target saves is not flushed before it is overwritten.
    pub undo_unflushed: bool,
    /// For the mirror: a target saves what the resync overwrites and not what the primary writes meanwhile.
    pub undo_skips_writes: bool,
    /// For the mirror: verify takes this node's content for good without looking at its digest.
    pub export_rot: bool,
    /// An agent that gives no answer has done what it was asked for.
    pub fence_unanswered: bool,
    /// A restarted node fences as if it had agreed on its record.
    pub fence_after_restart: bool,
    /// Beside a witness the secondary takes an agent's word for a vote.
    pub fence_as_vote: bool,
    /// Whoever hands over may take over all the same.
    pub handover_keeps_right: bool,
    /// A node that starts, joins or hands over waits for nothing that it promised.
    pub forget_promise: bool,
    /// What is noted outside the image does not count.
    pub ignore_state_file: bool,
    /// A handover is a data generation.
    pub handover_mints: bool,
    /// The losing side of a split follows without having been put aside.
    pub resolve_unkept: bool,
    /// Whoever says that it left may take over all the same.
    pub leave_keeps_right: bool,
    /// A restart forgets when the volume went back last.
    pub forget_failback: bool,
    /// A primary without a disk acknowledges before its peer has recorded that it is the only member.
    pub front_unrecorded: bool,
    /// Whoever is worked on over the link serves as soon as the link is gone.
    pub front_unpromised: bool,
    /// What a primary without a disk writes is not marked at its peer.
    pub front_unmarked: bool,
}

/// Settings of one node's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub me: NodeId,
    pub arbitration: Arbitration,
    pub timing: Timing,
    /// The node that becomes primary again by itself; `None`: the primary stays where it is.
    pub failback: Option<Failback>,
    /// Levels of fence agents that are tried one after the other.
    pub fence_levels: u32,
    /// There are ping targets: `Event::Reach` says whether one answers.
    pub pings: bool,
    /// Blocks in the data area.
    pub blocks: u64,
    /// Most blocks of resync reads in flight at once.
    pub copy_blocks_max: u64,
    /// What this node offers (`wire::feature`): all that the program can, or less, as an earlier version of it.
    pub features: u64,
    /// Pace of a resync that nobody waits for.
    pub resync: Limits,
    /// Who gives way after a split brain if no person decides.
    pub after_split: AfterSplit,
    pub mutations: Mutations,
}

/// What was found when the image was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartInfo {
    /// Fresh and random: identifiers and nonces are derived from it.
    pub seed: u128,
    /// The bitmap is not empty, or blocks were noted while a target.
    pub marks: bool,
    /// The activity log is not empty.
    pub hot: bool,
    /// The node state file agrees: present, same incarnation, its `v` not above the image's, not marked unusable.
    pub file_agrees: bool,
    /// The copy was on its way back to its last consistent state.
    pub going_back: bool,
    /// A request to a fence agent whose answer is not noted.
    pub fence_left: Option<u128>,
    /// Since this node last asked for the volume by itself (`failback_ago`); `None`: it never did.
    pub failback_ago: Option<Span>,
}
