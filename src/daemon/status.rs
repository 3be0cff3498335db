//! What `twinfs status` shows: plain data, and the words for a tired person.
//!
//! Decides how a state is worded and what counts as healthy. Does not know where the facts come from. Invariant: every
//! state that waits says for what, and what helps.

use serde::{Deserialize, Serialize};

use crate::services::run::ServiceView;

use super::advice;
use super::link_status::LinkStatus;
pub use super::verify::VerifyStatus;

/// How worried to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    #[default]
    Ok,
    Degraded,
    Broken,
}

/// A node and its volumes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: String,
    pub peer: String,
    pub version: String,
    pub pid: u32,
    pub arbitration: String,
    /// Of the configuration that this daemon read at its start.
    pub config_hash: String,
    /// `None`: not compared yet.
    pub config_equal: Option<bool>,
    pub health: Health,
    /// Where `arbitration` is `witness`.
    pub witness: Option<WitnessStatus>,
    /// What the way of arbitration costs.
    #[serde(default)]
    pub risk: String,
    /// Where `arbitration` is `fence`: the agents that stop the peer.
    #[serde(default)]
    pub fence: Vec<FenceStatus>,
    /// What crosses the paths cannot be read by others; `None`: not said.
    #[serde(default)]
    pub encrypt: Option<bool>,
    #[serde(default)]
    pub links: Vec<LinkStatus>,
    /// Whether load can hold up the heartbeats.
    #[serde(default)]
    pub realtime: RealtimeStatus,
    /// What somebody should do about the node itself.
    pub advice: Vec<String>,
    pub volumes: Vec<VolumeStatus>,
}

/// What the kernel permits so that load does not look like a death.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealtimeStatus {
    /// The configuration asks for it.
    pub wanted: bool,
    /// Heartbeats and the volumes' clocks have real-time threads.
    pub threads: bool,
    pub threads_problem: Option<String>,
    /// `all`: no page in use is ever paged out; `start`: none that was in use at the start; empty: any may be.
    pub memory: String,
    pub memory_problem: Option<String>,
}

/// The witness as this node sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WitnessStatus {
    pub address: String,
    /// Since its last answer; `None`: never answered.
    pub answered_ms: Option<u64>,
    /// Why it does not answer; `None` while it does.
    pub problem: Option<String>,
}

/// A fence agent as this node sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FenceStatus {
    pub agent: String,
    /// It was asked something since the start.
    pub looked: bool,
    /// Why it does not work; `None` while it does.
    pub problem: Option<String>,
}

/// One volume as this node sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VolumeStatus {
    pub name: String,
    pub health: Health,
    /// primary, secondary, joining, target, frozen, handing-over, diverged, failed
    pub role: String,
    /// in-sync, catching-up, behind, alone, diverged, joining
    pub state: String,
    pub state_since_ms: u64,
    pub reason: String,
    /// What the reason waits for, at most.
    pub until_ms: Option<u64>,
    /// What happens by itself, and what somebody should do.
    pub next: String,
    pub advice: Vec<String>,
    pub serving: bool,
    pub frozen: bool,
    pub record_v: Option<u64>,
    pub members: Vec<String>,
    pub primary: Option<String>,
    pub generation: Option<String>,
    pub connected: bool,
    pub peer_serving: bool,
    /// Since the last authentic heartbeat; `None`: never heard.
    pub peer_heard_ms: Option<u64>,
    pub lease_left_ms: Option<u64>,
    /// Blocks of 4 KiB copied and to copy in the present resync.
    pub resync_done_blocks: Option<u64>,
    pub resync_total_blocks: Option<u64>,
    /// Over the last half minute at most.
    pub resync_bytes_per_second: Option<u64>,
    /// At that speed; `None` while it is not known or nothing gets on.
    pub resync_left_ms: Option<u64>,
    /// Paused by "twinfs resync pause", for so much longer.
    pub resync_paused_ms: Option<u64>,
    /// Nothing got on for so long, and why.
    pub resync_stalled_ms: Option<u64>,
    pub resync_stalled_why: Option<String>,
    /// Bytes a second; `None`: unlimited.
    pub resync_max: Option<u64>,
    pub resync_min: Option<u64>,
    /// Of a copy that is not current: since when it is not; `None`: it is, or nobody knows.
    pub behind_ms: Option<u64>,
    /// Of a half overwritten copy: whether it can go back to its last consistent state.
    pub way_back: Option<bool>,
    /// Blocks whose content before the resync is kept, and those put back so far.
    pub kept_blocks: u64,
    pub put_back_blocks: u64,
    /// Blocks that the peer may lack.
    pub dirty_blocks: u64,
    /// The machine's last conversation with the witness; see also the node's `witness`.
    pub witness_seen_ms: Option<u64>,
    /// The witness has no record of this volume.
    pub witness_unknown: bool,
    /// This copy was replaced by another one.
    #[serde(default)]
    pub replaced: bool,
    /// "twinfs demote" and "twinfs disconnect" are in force.
    pub demoted: bool,
    pub disconnected: bool,
    /// "twinfs hold" is in force.
    #[serde(default)]
    pub held: bool,
    /// The node that the volume goes back to, when, and why not now; `None`: it stays where it is.
    #[serde(default)]
    pub failback_to: Option<String>,
    #[serde(default)]
    pub failback_when: String,
    #[serde(default)]
    pub failback_stays: String,
    /// By the clock of the machine, which may jump.
    #[serde(default)]
    pub failback_from_unix_s: Option<u64>,
    /// The same in words.
    #[serde(default)]
    pub failback: String,
    /// The peer is to be stopped by an agent, for so long; and what "twinfs fence-confirm" wants to hear.
    #[serde(default)]
    pub fencing_ms: Option<u64>,
    #[serde(default)]
    pub fence_code: Option<String>,
    /// There are ping targets, and none answers.
    #[serde(default)]
    pub reaches_nobody: bool,
    /// Why the peer and this node do not talk, if one of them refuses.
    pub refused: Option<String>,
    /// The verify run that is under way, and how the last one ended.
    pub verify: Option<VerifyStatus>,
    pub verified: Option<VerifyStatus>,
    /// Blocks repaired from the peer since the start, and those that no copy has any more.
    pub repaired_blocks: u64,
    pub lost_blocks: u64,
    pub image: String,
    pub size_bytes: u64,
    pub mount: String,
    pub mounted: bool,
    pub addresses: Vec<String>,
    pub services: Vec<ServiceView>,
    /// DRBD's names for whoever reads those.
    pub drbd: DrbdWords,
}

/// The same state in DRBD's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrbdWords {
    pub cstate: String,
    pub role: String,
    pub disk: String,
}

impl VolumeStatus {
    /// Judges the facts already filled in.
    pub fn judge(&mut self) {
        self.health = self.judged();
        self.drbd = self.drbd_words();
    }

    fn judged(&self) -> Health {
        let somebody_serves = self.serving || self.peer_serving;
        match self.state.as_str() {
            "diverged" => Health::Broken,
            _ if self.role == "failed" || self.frozen || !somebody_serves => Health::Broken,
            _ if self.is_damaged() || self.resync_paused_ms.is_some() => Health::Degraded,
            "in-sync" if self.services.iter().all(|service| service.state != "failed") => Health::Ok,
            _ => Health::Degraded,
        }
    }

    /// Some block is not as it should be.
    pub fn is_damaged(&self) -> bool {
        self.lost_blocks > 0 || self.verified.as_ref().is_some_and(|last| last.left() > 0)
    }

    fn drbd_words(&self) -> DrbdWords {
        let cstate = match (self.connected, self.state.as_str(), self.resync_total_blocks.is_some()) {
            (_, "diverged", _) => "StandAlone",
            (false, _, _) => "Connecting",
            (true, _, true) if self.resync_paused_ms.is_some() && self.role != "target" => "PausedSyncS",
            (true, _, true) if self.role == "target" => "SyncTarget",
            (true, _, true) => "SyncSource",
            (true, _, false) => "Connected",
        };
        let disk = match (self.role.as_str(), self.state.as_str()) {
            ("failed", _) => "Failed",
            ("target", _) => "Inconsistent",
            (_, "behind") => "Outdated",
            (_, "joining") if !self.serving => "Consistent",
            _ => "UpToDate",
        };
        let role = if self.serving { "Primary" } else { "Secondary" };
        DrbdWords { cstate: cstate.into(), role: role.into(), disk: disk.into() }
    }

    /// Share of the resync that is done, in tenths of a percent.
    pub fn resync_permille(&self) -> Option<u64> {
        let (done, total) = (self.resync_done_blocks?, self.resync_total_blocks?);
        Some(done.min(total).saturating_mul(1000).checked_div(total).unwrap_or(1000))
    }

    /// The state as one line, with its age.
    pub fn state_line(&self, peer: &str) -> String {
        let state = match (self.state.as_str(), self.resync_permille()) {
            ("catching-up", Some(permille)) => {
                let total = self.resync_total_blocks.unwrap_or(0);
                let left = total.saturating_sub(self.resync_done_blocks.unwrap_or(0));
                let way = if self.role == "target" { "from" } else { "to" };
                format!(
                    "catching-up {}.{} % ({} left, {way} {peer})",
                    permille / 10,
                    permille % 10,
                    bytes(left * 4096)
                )
            }
            ("in-sync", _) => format!("in-sync with {peer}"),
            (state, _) => state.to_string(),
        };
        format!("{state} for {}", age(self.state_since_ms))
    }

    /// Why it is so, with what it waits for at most.
    pub fn reason_line(&self) -> String {
        match self.until_ms.filter(|left| *left > 0) {
            Some(left) => format!("{} (at most {} more)", self.reason, age(left)),
            None => self.reason.clone(),
        }
    }
}

impl NodeStatus {
    /// The worst of the volumes, and no better than degraded while a takeover could not work; and what to do.
    pub fn judge(&mut self) {
        self.volumes.iter_mut().for_each(VolumeStatus::judge);
        advice::fill(self);
        let worst = self.volumes.iter().map(|v| v.health).max().unwrap_or_default();
        let silent = self.witness.as_ref().is_some_and(|witness| witness.problem.is_some());
        // A new pair, and one whose witness forgot it, make themselves known within seconds.
        let unknown =
            |v: &VolumeStatus| v.witness_unknown && v.state == "in-sync" && v.state_since_ms > 30_000;
        let unknown = self.volumes.iter().any(unknown);
        let unarmed = self.fence.iter().any(|agent| agent.problem.is_some());
        // With a path gone the next cut is one too many.
        let bare = self.links.iter().any(|link| link.down);
        let hurt = bare || self.config_equal == Some(false) || silent || unknown || unarmed;
        self.health = if hurt { worst.max(Health::Degraded) } else { worst };
    }
}

/// A length of time as people say it.
pub fn age(ms: u64) -> String {
    crate::base::Span::from_millis(ms).to_string()
}

/// `2026-01-31T08:15:02Z` from milliseconds since 1970.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in years of 365.2425 days: Howard Hinnant's civil calendar, by its published formula.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// A number of bytes as people say it.
pub fn bytes(count: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| count >> shift > 0) {
        Some((unit, shift)) => {
            format!("{}.{} {unit}", count >> shift, ((count & ((1 << shift) - 1)) * 10) >> shift)
        }
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(role: &str, state: &str) -> VolumeStatus {
        let mut volume = VolumeStatus {
            name: "mail".into(),
            role: role.into(),
            state: state.into(),
            serving: role == "primary",
            peer_serving: role == "secondary",
            connected: true,
            ..VolumeStatus::default()
        };
        volume.judge();
        volume
    }

    #[test]
    fn health_follows_from_the_state() {
        assert_eq!(volume("primary", "in-sync").health, Health::Ok);
        assert_eq!(volume("secondary", "in-sync").health, Health::Ok);
        assert_eq!(volume("primary", "alone").health, Health::Degraded);
        assert_eq!(volume("primary", "catching-up").health, Health::Degraded);
        assert_eq!(volume("joining", "joining").health, Health::Broken, "nobody serves");
        assert_eq!(volume("diverged", "diverged").health, Health::Broken);
        let mut frozen = volume("primary", "in-sync");
        frozen.frozen = true;
        frozen.judge();
        assert_eq!(frozen.health, Health::Broken);
    }

    #[test]
    fn times_are_printed_as_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696_000), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_798_761_599_999), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn a_silent_witness_is_degraded_before_it_is_needed() {
        let silent = WitnessStatus { problem: Some("silent".into()), ..WitnessStatus::default() };
        let mut node = NodeStatus { volumes: vec![volume("primary", "in-sync")], ..NodeStatus::default() };
        node.judge();
        assert_eq!(node.health, Health::Ok);
        node.witness = Some(silent);
        node.judge();
        assert_eq!(node.health, Health::Degraded);
        assert!(!node.advice.is_empty());
    }

    #[test]
    fn a_resync_says_how_much_is_left_and_which_way_it_goes() {
        let mut status = volume("target", "catching-up");
        status.resync_done_blocks = Some(250);
        status.resync_total_blocks = Some(1000);
        status.state_since_ms = 61_000;
        status.judge();
        assert_eq!(status.state_line("beta"), "catching-up 25.0 % (2.9 MiB left, from beta) for 1 min 1 s");
        assert_eq!(status.drbd.cstate, "SyncTarget");
        assert_eq!(status.drbd.disk, "Inconsistent");
    }
}
