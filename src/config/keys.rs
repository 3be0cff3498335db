//! The one table of configuration keys: name, kind with range, default. The parser
//! refuses what is not here; twinfs.toml(5) is checked against it.

use crate::base::KeepAwake;
use crate::base::limits::{MEMORY_MAX, MEMORY_MIN};

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `[cluster]`
    Cluster,
    /// `[timing]`
    Timing,
    /// `[node.NAME]`
    Node,
    /// `[fence.NAME]`
    Fence,
    /// `[notify]`
    Notify,
    /// `[volume.NAME]`
    Volume,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Letters, digits, `-`, `_`, `.`; at most 63.
    Name,
    /// An absolute path.
    Path,
    /// An absolute path, or a table `{ NODE = "path", ... }`.
    PathPerNode,
    /// A text, or a table `{ NODE = "text", ... }`.
    TextPerNode,
    /// A duration with its unit, milliseconds at least and at most.
    Duration { min_ms: u64, max_ms: u64 },
    /// The same, or `never`.
    DurationOrNever { min_ms: u64, max_ms: u64 },
    /// A size with its unit, bytes at least and at most.
    Size { min: u64, max: u64 },
    /// Bytes a second as a size with its unit, at least and at most.
    Rate { min: u64, max: u64 },
    /// The same, or `unlimited`.
    RateOrUnlimited { min: u64, max: u64 },
    /// A whole number without a unit, at least and at most.
    Number { min: u64, max: u64 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `HOST:PORT`.
    HostPort,
    /// A list of `http://HOST:PORT` or `https://HOST:PORT`.
    Urls,
    /// A list of `IP:PORT`.
    SocketAddresses,
    /// A list of `DEVICE@BAUD`.
    SerialLines,
    /// `IP/PREFIX`, or a list of them.
    Prefixes,
    /// A list of `exec:/path` and systemd units.
    Services,
    /// A program with its arguments: an absolute path first.
    Argv,
    /// A list of `key=value`.
    Options,
    /// Any one line of text.
    Line,
    /// A list of IP addresses.
    Hosts,
    /// `never`, `when-synced`, a window, or a node's name.
    Failback,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub section: Section,
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written; `None`: the key must be given; `Some("")`: absent means none.
    pub default: Option<&'static str>,
    pub help: &'static str,
}

const fn key(
    section: Section,
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key { section, name, kind, default, help }
}

const fn span(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration { min_ms, max_ms }
}

/// Smallest volume: 64 MiB.
const SIZE_MIN: u64 = 64 << 20;
/// Largest volume: 64 TiB.
const SIZE_MAX: u64 = 64 << 40;

/// Slowest and fastest pace of a resync: 64 KiB and 1 TiB a second.
pub const RATE_MIN: u64 = 64 << 10;
pub const RATE_MAX: u64 = 1 << 40;

/// Every key there is, in the order of the manual page.
pub const KEYS: &[Key] = &[
    key(Section::Cluster, "name", Kind::Name, None, "name of the cluster, equal on nodes and witness"),
    key(
        Section::Cluster,
        "key_file",
        Kind::Path,
        Some("/etc/twinfs/key"),
        "the shared secret; mode 0600 in a directory of mode 0700",
    ),
    key(
        Section::Cluster,
        "arbitration",
        Kind::Choice(&["witness", "fence", "yield", "manual", "deadtime"]),
        None,
        "who decides which node may be primary when they cannot hear each other",
    ),
    key(
        Section::Cluster,
        "encrypt",
        Kind::Choice(&["on", "off"]),
        Some("on"),
        "off: streams between the nodes are authenticated, but can be read",
    ),
    key(
        Section::Cluster,
        "realtime",
        Kind::Choice(&["on", "off"]),
        Some("on"),
        "heartbeats have real-time threads and locked memory",
    ),
    key(Section::Cluster, "witness", Kind::HostPort, Some(""), "where the witness listens"),
    key(
        Section::Cluster,
        "etcd",
        Kind::Urls,
        Some(""),
        "members of an etcd cluster that is asked instead of a witness",
    ),
    key(Section::Cluster, "etcd_ca", Kind::Path, Some(""), "who signed the certificates of etcd, PEM"),
    key(Section::Cluster, "etcd_cert", Kind::Path, Some(""), "this node's certificate for etcd, PEM"),
    key(Section::Cluster, "etcd_key", Kind::Path, Some(""), "and its key, PEM; mode 0600"),
    key(
        Section::Cluster,
        "i_accept_split_brain",
        Kind::Line,
        Some(""),
        "the sentence without which deadtime is refused",
    ),
    key(
        Section::Cluster,
        "after_split_brain",
        Kind::Line,
        Some(""),
        "what becomes of two copies that both were written",
    ),
    key(
        Section::Cluster,
        "ping",
        Kind::Hosts,
        Some("[]"),
        "machines such as the gateway: a primary that reaches none of them hands over to a peer that does",
    ),
    key(Section::Timing, "keepalive", span(50, 10_000), Some("500ms"), "time between two heartbeats"),
    key(
        Section::Timing,
        "deadtime",
        span(1_000, 600_000),
        Some("10s"),
        "silence after which a peer is replaced",
    ),
    key(
        Section::Timing,
        "warntime",
        span(100, 600_000),
        Some("deadtime/3"),
        "silence that is worth a warning",
    ),
    key(Section::Timing, "initdead", span(2_000, 3_600_000), Some("30s"), "a booting node waits so long"),
    key(
        Section::Timing,
        "slow_peer",
        span(100, 300_000),
        Some("5s"),
        "a silent secondary is left behind after it",
    ),
    key(
        Section::Timing,
        "detach_grace",
        span(1_000, 3_600_000),
        Some("60s"),
        "services on a failed disk have so long to stop",
    ),
    key(Section::Timing, "release_time", span(100, 60_000), Some("2s"), "to drop address and services"),
    key(
        Section::Timing,
        "witness_timeout",
        span(20, 10_000),
        Some("500ms"),
        "for one request to the witness",
    ),
    key(Section::Timing, "fence_delay", span(1_000, 600_000), Some("5s"), "the primary may fence first"),
    key(Section::Timing, "fence_timeout", span(1_000, 600_000), Some("60s"), "for one run of an agent"),
    key(Section::Timing, "fence_retry", span(1_000, 600_000), Some("10s"), "after all agents failed"),
    key(Section::Node, "addresses", Kind::SocketAddresses, None, "one address per path to the peer"),
    key(
        Section::Node,
        "serial",
        Kind::SerialLines,
        Some("[]"),
        "one end of each serial line to the peer, for heartbeats",
    ),
    key(Section::Fence, "target", Kind::Name, None, "the node that it stops"),
    key(Section::Fence, "agent", Kind::Argv, None, "program and arguments, an absolute path first"),
    key(Section::Fence, "level", Kind::Number { min: 1, max: 9 }, Some("1"), "lower ones are tried first"),
    key(Section::Fence, "action", Kind::Choice(&["reboot", "off"]), Some("reboot"), "what it is told to do"),
    key(Section::Fence, "options", Kind::Options, Some("[]"), "key=value lines on its standard input"),
    key(Section::Fence, "secrets", Kind::Path, Some(""), "a private file with further such lines"),
    key(Section::Notify, "run", Kind::Argv, None, "program and arguments, an absolute path first"),
    key(Section::Notify, "timeout", span(1_000, 600_000), Some("30s"), "for one run, then it is killed"),
    key(
        Section::Notify,
        "degraded_after",
        span(1_000, 604_800_000),
        Some("10m"),
        "so long without a second current copy",
    ),
    key(Section::Volume, "image", Kind::PathPerNode, None, "file or block device that holds the copy"),
    key(Section::Volume, "size", Kind::Size { min: SIZE_MIN, max: SIZE_MAX }, None, "size of a new image"),
    key(Section::Volume, "mount", Kind::Path, None, "where the primary mounts it"),
    key(
        Section::Volume,
        "salvage_dir",
        Kind::Path,
        Some(""),
        "where the losing copy of a split is put aside",
    ),
    key(Section::Volume, "address", Kind::Prefixes, Some(""), "service addresses, raised on the primary"),
    key(Section::Volume, "device", Kind::TextPerNode, Some(""), "network device of the service addresses"),
    key(Section::Volume, "services", Kind::Services, Some("[]"), "started in this order, stopped in reverse"),
    key(Section::Volume, "service_timeout", span(1_000, 3_600_000), Some("60s"), "for one start or stop"),
    key(Section::Volume, "prefer", Kind::Line, Some(""), "the node that it belongs to, for failback"),
    key(Section::Volume, "failback", Kind::Failback, Some("never"), "when it goes back to that node"),
    key(
        Section::Volume,
        "write_ack",
        Kind::Choice(&["fsync", "strict"]),
        Some("fsync"),
        "when write(2) returns",
    ),
    key(
        Section::Volume,
        "scrub",
        Kind::DurationOrNever { min_ms: 10_000, max_ms: 31_536_000_000 },
        Some("7d"),
        "how often each node looks through its copy",
    ),
    key(
        Section::Volume,
        "resync_max",
        Kind::RateOrUnlimited { min: RATE_MIN, max: RATE_MAX },
        Some("unlimited"),
        "bytes a second that a resync never exceeds",
    ),
    key(
        Section::Volume,
        "resync_min",
        Kind::Rate { min: RATE_MIN, max: RATE_MAX },
        Some("4M"),
        "bytes a second to which programs may slow it",
    ),
    key(
        Section::Volume,
        "resync_priority",
        Kind::Number { min: 1, max: 9 },
        Some("5"),
        "volumes with a lower number are copied first",
    ),
    key(
        Section::Volume,
        "keep_awake",
        Kind::Choice(KeepAwake::WORDS),
        Some("auto"),
        "idle processors do not sleep while requests come quickly",
    ),
    key(
        Section::Volume,
        "memory",
        Kind::Size { min: MEMORY_MIN, max: MEMORY_MAX },
        Some("512M"),
        "what the daemon takes at most to serve it",
    ),
];

impl Section {
    /// As twinfs.toml(5) prints it.
    pub fn header(self) -> &'static str {
        match self {
            Section::Cluster => "[cluster]",
            Section::Timing => "[timing]",
            Section::Node => "[node.NAME]",
            Section::Fence => "[fence.NAME]",
            Section::Notify => "[notify]",
            Section::Volume => "[volume.NAME]",
        }
    }

    pub(super) fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| key.section == self)
    }
}
