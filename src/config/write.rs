//! Renders a `Config` as a commented `twinfs.toml`, for `init`. Every key is written out, so that the file documents
//! itself.

use std::fmt::{Display, Write};
use std::path::Path;

use super::after_split;
use super::failback::Failback;
use super::keys::{KEYS, Section};
use super::types::{Config, FenceAgent, Node, Timing, Volume};
use super::units::{format_size, format_span};
use crate::base::NodeId;

const HEAD: &str = "\
# twinfs: one directory on two machines. This file is the same on both nodes; see twinfs.toml(5).
# Durations take ms, s, m, h, d; sizes take K, M, G, T. Check a change with \"twinfs config check\".
";

impl Config {
    /// The file that `parse` reads back as this configuration.
    pub fn render(&self) -> String {
        self.write(Lines { text: HEAD.to_string(), all: true })
    }

    /// What the file means: no comments, and no key that has its default. So a version of the program that words a
    /// comment otherwise or knows one key more says the same of a file that both read.
    pub(super) fn meaning(&self) -> String {
        self.write(Lines { text: String::new(), all: false })
    }

    fn write(&self, mut out: Lines) -> String {
        out.section("cluster");
        out.key(Section::Cluster, "name", quoted(&self.cluster.name));
        out.key(Section::Cluster, "key_file", quoted(self.cluster.key_file.display()));
        out.key(Section::Cluster, "arbitration", quoted(self.cluster.arbitration.as_str()));
        for (name, on) in [("encrypt", self.cluster.encrypt), ("realtime", self.cluster.realtime)] {
            out.key(Section::Cluster, name, quoted(if on { "on" } else { "off" }));
        }
        if let Some(witness) = &self.cluster.witness {
            out.key(Section::Cluster, "witness", quoted(witness));
        }
        if let Some(etcd) = &self.cluster.etcd {
            out.key(Section::Cluster, "etcd", list(&etcd.urls));
            for (name, file) in [("etcd_ca", &etcd.ca), ("etcd_cert", &etcd.cert), ("etcd_key", &etcd.key)] {
                if let Some(file) = file {
                    out.key(Section::Cluster, name, quoted(file.display()));
                }
            }
        }
        let policy = self.cluster.after_split_brain.map(|policy| after_split::render(policy, &self.nodes));
        for (name, value) in
            [("i_accept_split_brain", &self.cluster.accepts_split_brain), ("after_split_brain", &policy)]
        {
            if let Some(value) = value {
                out.key(Section::Cluster, name, quoted(value));
            }
        }
        if !self.cluster.ping.is_empty() {
            out.key(Section::Cluster, "ping", list(&self.cluster.ping));
        }
        out.timing(&self.timing);
        for node in &self.nodes {
            out.section(&format!("node.{}", bare_or_quoted(&node.name)));
            out.key(Section::Node, "addresses", list(&node.addresses));
            out.key(Section::Node, "serial", list(&node.serial));
        }
        for agent in &self.fences {
            out.fence(agent, &self.nodes);
        }
        if let Some(notify) = &self.notify {
            out.section("notify");
            out.key(Section::Notify, "run", list(&notify.argv));
            out.key(Section::Notify, "timeout", quoted(format_span(notify.timeout)));
            out.key(Section::Notify, "degraded_after", quoted(format_span(notify.degraded_after)));
        }
        for volume in &self.volumes {
            out.volume(volume, &self.nodes);
        }
        out.text
    }
}

struct Lines {
    text: String,
    /// Every key, with its comment.
    all: bool,
}

impl Lines {
    fn section(&mut self, name: &str) {
        // Writing into a String cannot fail.
        let _ = write!(self.text, "\n[{name}]\n");
    }

    fn key(&mut self, section: Section, name: &str, value: String) {
        let key = KEYS.iter().find(|key| key.section == section && key.name == name);
        let line = format!("{name} = {value}");
        if self.all {
            let help = key.map_or("", |key| key.help);
            let _ = writeln!(self.text, "{line:<39} # {help}");
        } else if key.and_then(|key| key.default).is_none_or(|d| value != d && value != quoted(d)) {
            let _ = writeln!(self.text, "{line}");
        }
    }

    fn timing(&mut self, timing: &Timing) {
        self.section("timing");
        let rows = [
            ("keepalive", timing.keepalive),
            ("deadtime", timing.deadtime),
            ("warntime", timing.warntime),
            ("initdead", timing.initdead),
            ("slow_peer", timing.slow_peer),
            ("detach_grace", timing.detach_grace),
            ("release_time", timing.release_time),
            ("witness_timeout", timing.witness_timeout),
            ("fence_delay", timing.fence_delay),
            ("fence_timeout", timing.fence_timeout),
            ("fence_retry", timing.fence_retry),
        ];
        for (name, span) in rows {
            self.key(Section::Timing, name, quoted(format_span(span)));
        }
    }

    fn fence(&mut self, agent: &FenceAgent, nodes: &[Node; 2]) {
        self.section(&format!("fence.{}", bare_or_quoted(&agent.name)));
        self.key(Section::Fence, "target", quoted(&nodes[usize::from(agent.target.index())].name));
        self.key(Section::Fence, "agent", list(&agent.argv));
        self.key(Section::Fence, "level", agent.level.to_string());
        self.key(Section::Fence, "action", quoted(agent.action.as_str()));
        self.key(Section::Fence, "options", list(&agent.options));
        if let Some(secrets) = &agent.secrets {
            self.key(Section::Fence, "secrets", quoted(secrets.display()));
        }
    }

    fn volume(&mut self, volume: &Volume, nodes: &[Node; 2]) {
        self.section(&format!("volume.{}", bare_or_quoted(&volume.name)));
        let show = |path: &Path| path.display().to_string();
        self.key(Section::Volume, "image", per_node(volume.image.each_ref().map(|p| show(p)), nodes));
        self.key(Section::Volume, "size", quoted(format_size(volume.size)));
        self.key(Section::Volume, "mount", quoted(show(&volume.mount)));
        if let Some(dir) = &volume.salvage_dir {
            self.key(Section::Volume, "salvage_dir", quoted(show(dir)));
        }
        self.key(Section::Volume, "address", list(&volume.address));
        if volume.device.iter().any(Option::is_some) {
            let devices = volume.device.each_ref().map(|d| d.clone().unwrap_or_default());
            self.key(Section::Volume, "device", per_node(devices, nodes));
        }
        self.key(Section::Volume, "services", list(&volume.services));
        self.key(Section::Volume, "service_timeout", quoted(format_span(volume.service_timeout)));
        self.failback(volume, nodes);
        self.key(Section::Volume, "write_ack", quoted(volume.write_ack.as_str()));
        let scrub = volume.scrub.map_or("never".to_string(), format_span);
        self.key(Section::Volume, "scrub", quoted(scrub));
        let max = match volume.resync_max {
            u64::MAX => "unlimited".to_string(),
            max => format_size(max),
        };
        self.key(Section::Volume, "resync_max", quoted(max));
        self.key(Section::Volume, "resync_min", quoted(format_size(volume.resync_min)));
        self.key(Section::Volume, "resync_priority", volume.resync_priority.to_string());
        self.key(Section::Volume, "keep_awake", quoted(volume.keep_awake.as_str()));
        self.key(Section::Volume, "memory", quoted(format_size(volume.memory)));
    }
}

impl Lines {
    fn failback(&mut self, volume: &Volume, nodes: &[Node; 2]) {
        let prefer = volume.prefer.map(|id: NodeId| quoted(&nodes[usize::from(id.index())].name));
        match prefer {
            // Versions that know no other way say it so, and both nodes have to mean the same.
            Some(node) if !self.all && volume.failback == Failback::WhenSynced => {
                self.key(Section::Volume, "failback", node);
            }
            prefer => {
                if let Some(node) = prefer {
                    self.key(Section::Volume, "prefer", node);
                }
                self.key(Section::Volume, "failback", quoted(volume.failback));
            }
        }
    }
}

fn per_node(values: [String; 2], nodes: &[Node; 2]) -> String {
    if values[0] == values[1] {
        return quoted(&values[0]);
    }
    let pairs = [0, 1].map(|n| format!("{} = {}", bare_or_quoted(&nodes[n].name), quoted(&values[n])));
    format!("{{ {} }}", pairs.join(", "))
}

fn list<T: Display>(items: &[T]) -> String {
    format!("[{}]", items.iter().map(quoted).collect::<Vec<_>>().join(", "))
}

/// A key part of a header: names with a dot need quotes.
fn bare_or_quoted(name: &str) -> String {
    if name.contains('.') { quoted(name) } else { name.to_string() }
}

/// A TOML basic string.
fn quoted(value: impl Display) -> String {
    let mut out = String::from("\"");
    for c in value.to_string().chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
