//! The checked configuration as plain data, and what follows from it by arithmetic alone.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::etcd::EtcdPlace;
use super::failback::Failback;
use crate::base::{AfterSplit, KeepAwake, NodeId, SerialLine, Span};

/// Port for TCP and UDP between the nodes when an address names none. No neighbour (DRBD, Heartbeat, corosync,
/// GlusterFS) uses it.
pub const DEFAULT_PORT: u16 = 8790;
/// Port of the witness when `witness` names none.
pub const DEFAULT_WITNESS_PORT: u16 = 8791;
/// Bound on the difference of each node's clock rate from true time, in thousandths: 1 %, twenty times NTP's slew.
const DRIFT_PERMILLE: u64 = 10;

/// Everything a `twinfs.toml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub cluster: Cluster,
    pub timing: Timing,
    /// `nodes[0]` is A, the first `[node.NAME]` of the file.
    pub nodes: [Node; 2],
    /// In the order of the file.
    pub fences: Vec<FenceAgent>,
    /// `None`: nobody is told.
    pub notify: Option<Notify>,
    /// In the order of the file.
    pub volumes: Vec<Volume>,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: String,
    pub key_file: PathBuf,
    pub arbitration: Arbitration,
    /// One of these two is set exactly when `arbitration = "witness"`.
    pub witness: Option<HostPort>,
    pub etcd: Option<EtcdPlace>,
    /// Set exactly when `arbitration = "deadtime"`: the sentence that accepts two primaries.
    pub accepts_split_brain: Option<String>,
    /// What becomes of two copies that both were written; always set with `arbitration = "deadtime"`.
    pub after_split_brain: Option<AfterSplit>,
    /// Replication streams are encrypted; else only authenticated.
    pub encrypt: bool,
    /// Heartbeats have real-time threads and locked memory, where the kernel permits.
    pub realtime: bool,
    /// Machines of which a node that may serve alone reaches at least one.
    pub ping: Vec<IpAddr>,
}

/// Who decides which node may be primary when they cannot hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arbitration {
    Witness,
    Fence,
    Yield,
    Manual,
    Deadtime,
}

/// `[fence.NAME]`: a program that stops a machine, called as the fence agents of the Linux clusters are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceAgent {
    pub name: String,
    /// The node that it stops.
    pub target: NodeId,
    /// Levels are tried in rising order; all agents of one level must succeed.
    pub level: u64,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `key=value`, given on standard input.
    pub options: Vec<String>,
    /// A private file with further such lines: what nobody else may read.
    pub secrets: Option<PathBuf>,
    pub action: FenceAction,
}

/// What an agent is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAction {
    Reboot,
    Off,
}

impl FenceAction {
    pub fn as_str(self) -> &'static str {
        match self {
            FenceAction::Reboot => "reboot",
            FenceAction::Off => "off",
        }
    }
}

/// `[notify]`: a program that is told what an administrator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// For one run.
    pub timeout: Span,
    /// A volume that lacks its second copy for so long is told.
    pub degraded_after: Span,
}

impl Notify {
    /// Unless told otherwise.
    pub const TIMEOUT: Span = Span::from_secs(30);
    pub const DEGRADED_AFTER: Span = Span::from_secs(600);
}

/// `[timing]`; the symbols are those of twinfs(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// K: between two heartbeats.
    pub keepalive: Span,
    /// D: silence on every path after which the peer may be replaced.
    pub deadtime: Span,
    /// Silence after which a warning is told.
    pub warntime: Span,
    /// I: a booting node takes no one-sided step before this.
    pub initdead: Span,
    /// T_p: a secondary that acknowledges nothing for so long is left behind.
    pub slow_peer: Span,
    /// What runs on a primary whose disk failed goes on with the peer's copy for so long at most.
    pub detach_grace: Span,
    /// T_rel: what a primary that lost its lease needs to drop address and services.
    pub release_time: Span,
    /// One request to the witness, until it is repeated.
    pub witness_timeout: Span,
    /// The secondary lets the primary fence first.
    pub fence_delay: Span,
    /// For one run of one fence agent.
    pub fence_timeout: Span,
    /// Between two rounds through the agents.
    pub fence_retry: Span,
}

/// `[node.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// One per path; path `i` of A talks to path `i` of B, TCP and UDP on the same port.
    pub addresses: Vec<SocketAddr>,
    /// One end of each serial line: line `i` of A ends at line `i` of B. They carry datagrams only, and their numbers
    /// follow those of the paths.
    pub serial: Vec<SerialLine>,
}

/// `[volume.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    /// File or block device on A and on B.
    pub image: [PathBuf; 2],
    /// Bytes of a new image; a multiple of 4 MiB. Existing images keep theirs.
    pub size: u64,
    pub mount: PathBuf,
    /// Where the losing copy of a split is put aside; `None`: beside the image.
    pub salvage_dir: Option<PathBuf>,
    /// Service addresses, raised on the primary.
    pub address: Vec<IpPrefix>,
    /// Network device for `address` on A and on B; `None`: the device whose own network contains the address.
    pub device: [Option<String>; 2],
    /// Started in this order after the mount, stopped in reverse.
    pub services: Vec<Service>,
    /// For one start or stop of one service.
    pub service_timeout: Span,
    /// The node that it belongs to; set unless `failback` is `Never`.
    pub prefer: Option<NodeId>,
    /// When it goes back there by itself.
    pub failback: Failback,
    pub write_ack: WriteAck,
    /// How often each node looks through its own copy; `None`: never by itself.
    pub scrub: Option<Span>,
    /// Bytes a second: a resync never exceeds `max` (`u64::MAX`: unlimited), and programs slow it to `min` at most.
    pub resync_max: u64,
    pub resync_min: u64,
    /// 1 to 9: volumes with a lower number are copied first.
    pub resync_priority: u64,
    /// Whether processors are kept from sleeping while requests come quickly.
    pub keep_awake: KeepAwake,
    /// Bytes of memory that serving it may take.
    pub memory: u64,
}

/// When write(2) returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAck {
    /// When the data is in memory; fsync makes it stable on both nodes.
    Fsync,
    /// When it is stable on both nodes, as if every file were opened with O_SYNC.
    Strict,
}

/// A program that is started on the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// `exec:/path`: called with `start`, `stop` and `status`, judged by the LSB exit codes.
    Exec(PathBuf),
    /// A systemd unit.
    Unit(String),
}

/// An address with the length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpPrefix {
    pub ip: IpAddr,
    pub prefix: u8,
}

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl Config {
    /// The first digits of `hash`, for people to compare.
    pub fn short_hash(&self) -> String {
        self.hash()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// BLAKE3 of what the file means: comments, order of keys, spelling of units and keys with their default do not
    /// count. Compared by the nodes at the handshake.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key("twinfs 2026-01 configuration", self.meaning().as_bytes())
    }

    /// The node called `name`.
    pub fn node_id(&self, name: &str) -> Option<NodeId> {
        [NodeId::A, NodeId::B].into_iter().find(|id| self.node(*id).name == name)
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id.index())]
    }

    /// The agents that stop `target`, level after level.
    pub fn fence_levels(&self, target: NodeId) -> Vec<Vec<FenceAgent>> {
        let mut levels = std::collections::BTreeMap::<u64, Vec<FenceAgent>>::new();
        for agent in self.fences.iter().filter(|agent| agent.target == target) {
            levels.entry(agent.level).or_default().push(agent.clone());
        }
        levels.into_values().collect()
    }

    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }
}

impl Node {
    /// This node's end of every way that heartbeats take, in the order of their numbers.
    pub fn ends(&self) -> Vec<String> {
        let paths = self.addresses.iter().map(ToString::to_string);
        paths.chain(self.serial.iter().map(ToString::to_string)).collect()
    }
}

impl Cluster {
    /// A number that tells this cluster's packets from another's before any key is tried.
    pub fn id(&self) -> u128 {
        let hash = blake3::derive_key("twinfs 2026-01 cluster id", self.name.as_bytes());
        let mut out = [0u8; 16];
        out.copy_from_slice(&hash[..16]);
        u128::from_le_bytes(out)
    }
}

impl Volume {
    /// Unless told otherwise.
    pub const SCRUB: Span = Span::from_secs(7 * 24 * 3600);
    pub const RESYNC_MIN: u64 = 4 << 20;
    pub const RESYNC_PRIORITY: u64 = 5;

    pub fn image_on(&self, node: NodeId) -> &PathBuf {
        &self.image[usize::from(node.index())]
    }

    pub fn device_on(&self, node: NodeId) -> Option<&str> {
        self.device[usize::from(node.index())].as_deref()
    }
}

impl Timing {
    /// What an empty `[timing]` means.
    pub fn defaults(arbitration: Arbitration) -> Timing {
        let pick = |usual: u64, yielding: u64, silent: u64| {
            Span::from_millis(match arbitration {
                Arbitration::Yield => yielding,
                Arbitration::Deadtime => silent,
                _ => usual,
            })
        };
        Timing {
            keepalive: pick(500, 1_000, 1_000),
            deadtime: pick(10_000, 30_000, 120_000),
            warntime: pick(3_333, 10_000, 40_000),
            initdead: pick(30_000, 120_000, 240_000),
            slow_peer: pick(5_000, 15_000, 15_000),
            detach_grace: Span::from_millis(60_000),
            release_time: pick(2_000, 4_000, 4_000),
            witness_timeout: Span::from_millis(500),
            fence_delay: Span::from_millis(5_000),
            fence_timeout: Span::from_millis(60_000),
            fence_retry: Span::from_millis(10_000),
        }
    }

    /// L: how long the primary may answer after *sending* the newest heartbeat that came back echoed,
    /// `(deadtime/(1+r) - release_time - 2*keepalive) * (1-r)` with the drift bound r; zero if nothing is left.
    pub fn lease(&self) -> Span {
        let shortened = self.deadtime.0.saturating_mul(1_000) / (1_000 + DRIFT_PERMILLE);
        let margin = self.release_time.0.saturating_add(self.keepalive.0.saturating_mul(2));
        let left = shortened.saturating_sub(margin);
        Span(left / 1_000 * (1_000 - DRIFT_PERMILLE))
    }

    /// The shortest deadtime, in steps of 100 ms, whose lease outlasts `gap` and that goes with the other times
    /// (`initdead` apart, which is twice as long): the lease is longer than slow_peer + 2*witness_timeout.
    pub fn deadtime_for(&self, gap: Span) -> Span {
        const STEP: u64 = 100_000_000;
        let answer = self.slow_peer + self.witness_timeout + self.witness_timeout;
        let lease = |deadtime: Span| Timing { deadtime, ..*self }.lease();
        let fits = |deadtime| lease(deadtime) > answer && lease(deadtime) >= gap;
        // The formula turned round, rounded down; the rest is looked for.
        let least = u128::from(gap.max(answer).0) * 1_000 / u128::from(1_000 - DRIFT_PERMILLE);
        let margin = u128::from(self.release_time.0) + 2 * u128::from(self.keepalive.0);
        let shortest = (least + margin) * u128::from(1_000 + DRIFT_PERMILLE) / 1_000;
        let steps = u64::try_from(shortest).unwrap_or(u64::MAX) / STEP;
        let near = (steps..steps.saturating_add(4)).map(|step| Span(step.saturating_mul(STEP)));
        let found = near.into_iter().find(|deadtime| fits(*deadtime));
        found.unwrap_or(Span(steps.saturating_add(4).saturating_mul(STEP))).max(Timing::DEADTIME_MIN)
    }

    /// What `deadtime` may be at least, whatever the rest is.
    pub const DEADTIME_MIN: Span = Span::from_secs(1);
}

impl Arbitration {
    pub fn as_str(self) -> &'static str {
        match self {
            Arbitration::Witness => "witness",
            Arbitration::Fence => "fence",
            Arbitration::Deadtime => "deadtime",
            Arbitration::Yield => "yield",
            Arbitration::Manual => "manual",
        }
    }
}

impl WriteAck {
    pub fn as_str(self) -> &'static str {
        match self {
            WriteAck::Fsync => "fsync",
            WriteAck::Strict => "strict",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Exec(path) => write!(f, "exec:{}", path.display()),
            Service::Unit(unit) => f.write_str(unit),
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
