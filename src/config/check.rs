//! The second half of reading a `twinfs.toml`: from values that are valid each by itself to a `Config`, and the
//! relations between values (times, addresses, paths). Every refusal names the formula or the other place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::after_split;
use super::arbitration;
use super::etcd;
use super::failback;
use super::parse::{Raw, Reader, Value, Values};
use super::serial;
use super::types::{Arbitration, Cluster, Config, Node, Notify, Timing, Volume, WriteAck};
use super::units::{format_size, format_span, parse_span};
use crate::base::limits::MEMORY_DEFAULT;
use crate::base::{AfterSplit, KeepAwake, Span};

/// Most paths between the nodes.
const PATHS_MAX: usize = 8;
/// Most volumes of one cluster.
const VOLUMES_MAX: usize = 64;

/// Builds the configuration; `None` when a part cannot be built (its problem has been told).
pub(super) fn assemble(raw: &Raw, reader: &mut Reader) -> Option<Config> {
    let mut cluster = cluster(&raw.cluster, reader);
    let timing = timing(&raw.timing, cluster.as_ref().map_or(Arbitration::Witness, |c| c.arbitration));
    relations(&timing, reader);
    let nodes = nodes(raw, reader)?;
    let volumes: Vec<Volume> =
        raw.volumes.iter().filter_map(|(name, values)| volume(name, values, &nodes, reader)).collect();
    if raw.volumes.is_empty() {
        reader.problem_at("volume", "there is no volume: add a section [volume.NAME]".to_string());
    }
    if volumes.len() > VOLUMES_MAX {
        reader.problem_at("volume", format!("more than {VOLUMES_MAX} volumes"));
    }
    if let Some(cluster) = &mut cluster {
        cluster.after_split_brain = policy(&raw.cluster, &nodes, &volumes, reader);
    }
    let fences = arbitration::agents(raw, &nodes, reader);
    if let Some(cluster) = &cluster {
        arbitration::demands(cluster, &timing, &nodes, &fences, reader);
    }
    distinct(&volumes, &nodes, reader);
    serial::check(&nodes, volumes.len(), &timing, reader);
    if volumes.iter().any(|v| !v.address.is_empty()) && timing.release_time < Span::from_millis(1_500) {
        // The kernel counts the lifetime of an address in whole seconds.
        let text = "release_time must be at least 1500ms while a volume has an address";
        reader.problem_at("timing.release_time", text.to_string());
    }
    let notify = notify(&raw.notify);
    Some(Config { cluster: cluster?, timing, nodes, fences, notify, volumes })
}

fn policy(values: &Values, nodes: &[Node; 2], volumes: &[Volume], reader: &mut Reader) -> Option<AfterSplit> {
    let given = text(values, "after_split_brain").filter(|text| !text.is_empty())?;
    match after_split::read(&given, nodes) {
        Ok(policy) => {
            after_split::needs_room(policy, volumes, reader);
            Some(policy)
        }
        Err(why) => {
            reader.problem_at("cluster.after_split_brain", why);
            None
        }
    }
}

fn notify(values: &Values) -> Option<Notify> {
    let Some(Value::Texts(argv)) = values.get("run") else { return None };
    let pick = |key: &str, default: Span| match values.get(key) {
        Some(Value::Span(span)) => *span,
        _ => default,
    };
    Some(Notify {
        argv: argv.clone(),
        timeout: pick("timeout", Notify::TIMEOUT),
        degraded_after: pick("degraded_after", Notify::DEGRADED_AFTER),
    })
}

fn text(values: &Values, key: &str) -> Option<String> {
    match values.get(key) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    }
}

fn cluster(values: &Values, reader: &mut Reader) -> Option<Cluster> {
    let Some(name) = text(values, "name") else {
        reader.problem_at(
            "cluster",
            "the section [cluster] with \"name\" and \"arbitration\" is missing".to_string(),
        );
        return None;
    };
    let arbitration = match text(values, "arbitration")?.as_str() {
        "witness" => Arbitration::Witness,
        "fence" => Arbitration::Fence,
        "yield" => Arbitration::Yield,
        "deadtime" => Arbitration::Deadtime,
        _ => Arbitration::Manual,
    };
    let (witness, etcd) = etcd::arbiter(values, arbitration, reader);
    let key_file = PathBuf::from(text(values, "key_file").unwrap_or_else(|| "/etc/twinfs/key".to_string()));
    let ping = match values.get("ping") {
        Some(Value::Hosts(hosts)) => hosts.clone(),
        _ => Vec::new(),
    };
    let on = |key| text(values, key).is_none_or(|word| word == "on");
    let (encrypt, realtime) = (on("encrypt"), on("realtime"));
    let accepts_split_brain = text(values, "i_accept_split_brain").filter(|text| !text.is_empty());
    Some(Cluster {
        name,
        key_file,
        arbitration,
        witness,
        etcd,
        accepts_split_brain,
        // It may name a node, and those are read later.
        after_split_brain: None,
        encrypt,
        realtime,
        ping,
    })
}

fn timing(values: &Values, arbitration: Arbitration) -> Timing {
    let defaults = Timing::defaults(arbitration);
    let pick = |key: &str, default: Span| match values.get(key) {
        Some(Value::Span(span)) => *span,
        _ => default,
    };
    let deadtime = pick("deadtime", defaults.deadtime);
    Timing {
        keepalive: pick("keepalive", defaults.keepalive),
        deadtime,
        // A third of the deadtime, in whole milliseconds.
        warntime: pick("warntime", Span::from_millis(deadtime.as_millis() / 3)),
        initdead: pick("initdead", defaults.initdead),
        slow_peer: pick("slow_peer", defaults.slow_peer),
        detach_grace: pick("detach_grace", defaults.detach_grace),
        release_time: pick("release_time", defaults.release_time),
        witness_timeout: pick("witness_timeout", defaults.witness_timeout),
        fence_delay: pick("fence_delay", defaults.fence_delay),
        fence_timeout: pick("fence_timeout", defaults.fence_timeout),
        fence_retry: pick("fence_retry", defaults.fence_retry),
    }
}

fn relations(timing: &Timing, reader: &mut Reader) {
    let lease = timing.lease();
    let show = format_span;
    if lease == Span::ZERO {
        let text = format!(
            "deadtime {} leaves no lease: deadtime / 1.01 must be longer than release_time + 2 * keepalive \
             ({} + 2 * {})",
            show(timing.deadtime),
            show(timing.release_time),
            show(timing.keepalive)
        );
        reader.problem_at("timing.deadtime", text);
        return;
    }
    let answer = timing.slow_peer + timing.witness_timeout + timing.witness_timeout;
    if answer >= lease {
        let text = format!(
            "slow_peer + 2 * witness_timeout ({}) must be shorter than the lease, (deadtime/1.01 - release_time - \
             2*keepalive)*0.99 = {} ms: lower slow_peer or raise deadtime",
            show(answer),
            lease.as_millis()
        );
        reader.problem_at("timing.slow_peer", text);
    }
    if timing.slow_peer < timing.keepalive + timing.keepalive {
        let text = format!(
            "slow_peer must be at least 2 * keepalive ({})",
            show(timing.keepalive + timing.keepalive)
        );
        reader.problem_at("timing.slow_peer", text);
    }
    if timing.initdead < timing.deadtime + timing.deadtime {
        let text =
            format!("initdead must be at least 2 * deadtime ({})", show(timing.deadtime + timing.deadtime));
        reader.problem_at("timing.initdead", text);
    }
    if timing.warntime >= timing.deadtime || timing.warntime < timing.keepalive {
        let text = format!(
            "warntime must lie between keepalive ({}) and deadtime ({})",
            show(timing.keepalive),
            show(timing.deadtime)
        );
        reader.problem_at("timing.warntime", text);
    }
}

fn nodes(raw: &Raw, reader: &mut Reader) -> Option<[Node; 2]> {
    let mut nodes: Vec<Node> = Vec::new();
    for (name, values) in &raw.nodes {
        let addresses: Vec<SocketAddr> = match values.get("addresses") {
            Some(Value::Sockets(addresses)) => addresses.clone(),
            _ => Vec::new(),
        };
        if addresses.is_empty() || addresses.len() > PATHS_MAX {
            let text = format!("node \"{name}\" needs 1 to {PATHS_MAX} addresses");
            reader.problem_at(&format!("node.{name}.addresses"), text);
        }
        let serial = match values.get("serial") {
            Some(Value::Lines(lines)) => lines.clone(),
            _ => Vec::new(),
        };
        nodes.push(Node { name: name.clone(), addresses, serial });
    }
    let count = nodes.len();
    let Ok(pair) = <[Node; 2]>::try_from(nodes) else {
        let text = format!("there must be exactly two sections [node.NAME], and there are {count}");
        reader.problem_at("node", text);
        return None;
    };
    let [a, b] = &pair;
    if a.addresses.len() != b.addresses.len() {
        let text = format!(
            "\"{}\" has {} addresses and \"{}\" {}: path 1 joins the first two, path 2 the second two, and so on",
            a.name,
            a.addresses.len(),
            b.name,
            b.addresses.len()
        );
        reader.problem_at(&format!("node.{}.addresses", b.name), text);
    }
    for (one, two) in a.addresses.iter().zip(&b.addresses) {
        if one.is_ipv4() != two.is_ipv4() {
            let text = format!("{one} and {two} form a path but are of two IP versions");
            reader.problem_at(&format!("node.{}.addresses", b.name), text);
        }
    }
    let mut seen: Vec<SocketAddr> = Vec::new();
    for (node, address) in pair.iter().flat_map(|n| n.addresses.iter().map(move |a| (n, a))) {
        if seen.contains(address) {
            reader.problem_at(&format!("node.{}.addresses", node.name), format!("{address} is used twice"));
        }
        seen.push(*address);
    }
    Some(pair)
}

fn volume(name: &str, values: &Values, nodes: &[Node; 2], reader: &mut Reader) -> Option<Volume> {
    let place = format!("volume.{name}");
    let image = per_node(&place, "image", values, nodes, reader);
    let device = per_node(&place, "device", values, nodes, reader);
    let (prefer, failback) = failback::read(&place, values, nodes, reader);
    let mount = PathBuf::from(text(values, "mount")?);
    if mount.components().count() < 2 {
        reader
            .problem_at(&format!("{place}.mount"), "the root directory cannot be a mount point".to_string());
    }
    let (resync_max, resync_min) = paces(&place, values, reader);
    let [Some(image_a), Some(image_b)] = image else { return None };
    let Some(Value::Size(size)) = values.get("size") else { return None };
    Some(Volume {
        name: name.to_string(),
        image: [image_a.into(), image_b.into()],
        size: *size,
        mount,
        salvage_dir: text(values, "salvage_dir").filter(|path| !path.is_empty()).map(PathBuf::from),
        address: match values.get("address") {
            Some(Value::Prefixes(list)) => list.clone(),
            _ => Vec::new(),
        },
        device: device.map(|d| d.filter(|text| !text.is_empty())),
        services: match values.get("services") {
            Some(Value::Services(list)) => list.clone(),
            _ => Vec::new(),
        },
        service_timeout: match values.get("service_timeout") {
            Some(Value::Span(span)) => *span,
            _ => parse_span("60s").unwrap_or_default(),
        },
        prefer,
        failback,
        write_ack: match text(values, "write_ack").as_deref() {
            Some("strict") => WriteAck::Strict,
            _ => WriteAck::Fsync,
        },
        scrub: match values.get("scrub") {
            Some(Value::Span(span)) => Some(*span),
            Some(_) => None,
            None => Some(Volume::SCRUB),
        },
        resync_max,
        resync_min,
        resync_priority: match values.get("resync_priority") {
            Some(Value::Number(number)) => *number,
            _ => Volume::RESYNC_PRIORITY,
        },
        keep_awake: text(values, "keep_awake").and_then(|word| KeepAwake::parse(&word)).unwrap_or_default(),
        memory: match values.get("memory") {
            Some(Value::Size(bytes)) => *bytes,
            _ => MEMORY_DEFAULT,
        },
    })
}

/// `resync_max` and `resync_min`. A default gives way to a maximum below it.
fn paces(place: &str, values: &Values, reader: &mut Reader) -> (u64, u64) {
    let given = |key| match values.get(key) {
        Some(Value::Size(rate)) => Some(*rate),
        _ => None,
    };
    let max = given("resync_max").unwrap_or(u64::MAX);
    let min = given("resync_min");
    if let Some(min) = min.filter(|min| *min > max) {
        let text = format!(
            "resync_min = \"{}\" is more than resync_max = \"{}\"",
            format_size(min),
            format_size(max)
        );
        reader.problem_at(&format!("{place}.resync_min"), text);
    }
    (max, min.unwrap_or(Volume::RESYNC_MIN).min(max))
}

/// The values of `key` on A and B, from one text for both or from a table by node.
fn per_node(
    place: &str,
    key: &'static str,
    values: &Values,
    nodes: &[Node; 2],
    reader: &mut Reader,
) -> [Option<String>; 2] {
    let table: &BTreeMap<String, String> = match values.get(key) {
        Some(Value::PerNode(table)) => table,
        Some(Value::Text(one)) => return [Some(one.clone()), Some(one.clone())],
        _ => return [None, None],
    };
    let known = |name: &String| nodes.iter().any(|node| node.name == *name);
    if let Some(other) = table.keys().find(|name| !known(name)) {
        let text = format!(
            "{key} names \"{other}\", but the nodes are \"{}\" and \"{}\"",
            nodes[0].name, nodes[1].name
        );
        reader.problem_at(&format!("{place}.{key}"), text);
    }
    if let Some(node) = nodes.iter().find(|node| !table.contains_key(&node.name)) {
        reader
            .problem_at(&format!("{place}.{key}"), format!("{key} says nothing for node \"{}\"", node.name));
    }
    [table.get(&nodes[0].name).cloned(), table.get(&nodes[1].name).cloned()]
}

/// No two volumes may share an image, a mount point or an address, nor an address with a node.
fn distinct(volumes: &[Volume], nodes: &[Node; 2], reader: &mut Reader) {
    for (index, volume) in volumes.iter().enumerate() {
        let place = format!("volume.{}", volume.name);
        for other in &volumes[..index] {
            let nested = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
            if nested(&volume.mount, &other.mount) {
                let text = format!("mount lies at or below that of volume \"{}\", or above it", other.name);
                reader.problem_at(&format!("{place}.mount"), text);
            }
            if (0..2).any(|n| volume.image[n] == other.image[n]) {
                let text = format!("image is also that of volume \"{}\"", other.name);
                reader.problem_at(&format!("{place}.image"), text);
            }
            if let Some(shared) = volume.address.iter().find(|a| other.address.iter().any(|b| a.ip == b.ip)) {
                let text = format!("{} is also an address of volume \"{}\"", shared.ip, other.name);
                reader.problem_at(&format!("{place}.address"), text);
            }
        }
        if (0..2).any(|n| volume.image[n].starts_with(&volume.mount)) {
            reader
                .problem_at(&format!("{place}.image"), "image lies below the volume's own mount".to_string());
        }
        let own =
            nodes.iter().flat_map(|n| &n.addresses).find(|n| volume.address.iter().any(|a| a.ip == n.ip()));
        if let Some(own) = own {
            let text = format!("{} belongs to a node: a service address moves between the nodes", own.ip());
            reader.problem_at(&format!("{place}.address"), text);
        }
    }
}
