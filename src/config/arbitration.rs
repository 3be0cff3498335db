//! What each way of arbitration demands of the rest of the file, and what it costs.
//!
//! Decides what is refused: a way without what it needs, and a second judge beside the first. Does not know how a way
//! works. Invariant: nothing that may serve twice is chosen without its acceptance in words.

use std::path::PathBuf;

use super::parse::{Raw, Reader, Value, Values};
use super::types::{Arbitration, Cluster, FenceAction, FenceAgent, Node, Timing};
use super::units::format_span;
use crate::base::{NodeId, Span};

/// The sentence without which `deadtime` is refused.
pub const ACCEPTANCE: &str = "yes, losing writes go to salvage";
/// Shortest deadtime where nothing but silence decides.
const DEADTIME_MIN: Span = Span::from_secs(30);

/// `[fence.NAME]`, in the order of the file.
pub(super) fn agents(raw: &Raw, nodes: &[Node; 2], reader: &mut Reader) -> Vec<FenceAgent> {
    let mut agents = Vec::new();
    for (name, values) in &raw.fences {
        let place = format!("fence.{name}");
        let Some(target) = target(&place, values, nodes, reader) else { continue };
        let Some(Value::Texts(argv)) = values.get("agent") else { continue };
        let options = match values.get("options") {
            Some(Value::Texts(options)) => options.clone(),
            _ => Vec::new(),
        };
        let action = match values.get("action") {
            Some(Value::Text(text)) if text == "off" => FenceAction::Off,
            _ => FenceAction::Reboot,
        };
        let level = match values.get("level") {
            Some(Value::Number(level)) => *level,
            _ => 1,
        };
        let secrets = match values.get("secrets") {
            Some(Value::Text(path)) => Some(PathBuf::from(path)),
            _ => None,
        };
        let (name, argv) = (name.clone(), argv.clone());
        agents.push(FenceAgent { name, target, level, argv, options, secrets, action });
    }
    agents
}

fn target(place: &str, values: &Values, nodes: &[Node; 2], reader: &mut Reader) -> Option<NodeId> {
    let Some(Value::Text(target)) = values.get("target") else { return None };
    let found = [NodeId::A, NodeId::B].into_iter().find(|id| nodes[usize::from(id.index())].name == *target);
    if found.is_none() {
        let text = format!(
            "target = \"{target}\" must be the node that it stops: \"{}\" or \"{}\"",
            nodes[0].name, nodes[1].name
        );
        reader.problem_at(&format!("{place}.target"), text);
    }
    found
}

/// What the chosen way needs, and what does not go with it.
pub(super) fn demands(
    cluster: &Cluster,
    timing: &Timing,
    nodes: &[Node; 2],
    fences: &[FenceAgent],
    reader: &mut Reader,
) {
    let way = cluster.arbitration;
    if way == Arbitration::Fence {
        for (id, node) in [NodeId::A, NodeId::B].into_iter().zip(nodes) {
            if !fences.iter().any(|agent| agent.target == id) {
                let text = format!(
                    "arbitration = \"fence\" needs an agent that stops \"{}\": add [fence.NAME] with target = \"{}\"",
                    node.name, node.name
                );
                reader.problem_at("cluster.arbitration", text);
            }
        }
    } else if let Some(agent) = fences.first() {
        let why = match way {
            Arbitration::Witness => {
                "a fence agent beside a witness would be a second judge, and each could let another node win"
            }
            _ => "no fence agent is asked in this mode",
        };
        let text =
            format!("[fence.{}] does not go with arbitration = \"{}\": {why}", agent.name, way.as_str());
        reader.problem_at(&format!("fence.{}", agent.name), text);
    }
    if way == Arbitration::Deadtime {
        return deadtime(cluster, timing, nodes, reader);
    }
    if cluster.accepts_split_brain.is_some() {
        let text = format!(
            "i_accept_split_brain goes with arbitration = \"deadtime\" only, not with \"{}\": remove it",
            way.as_str()
        );
        reader.problem_at("cluster.i_accept_split_brain", text);
    }
}

fn deadtime(cluster: &Cluster, timing: &Timing, nodes: &[Node; 2], reader: &mut Reader) {
    if cluster.accepts_split_brain.as_deref() != Some(ACCEPTANCE) {
        let text = format!(
            "arbitration = \"deadtime\" makes two primaries whenever every link is cut while both nodes live, and one \
             side's writes of that time are lost; to accept that, write i_accept_split_brain = \"{ACCEPTANCE}\""
        );
        reader.problem_at("cluster.i_accept_split_brain", text);
    }
    if cluster.after_split_brain.is_none() {
        let text =
            "arbitration = \"deadtime\" needs after_split_brain, such as \"manual\": which copy is kept";
        reader.problem_at("cluster.after_split_brain", text.to_string());
    }
    for node in nodes {
        let mut hosts: Vec<_> = node.addresses.iter().map(std::net::SocketAddr::ip).collect();
        hosts.sort_unstable();
        hosts.dedup();
        // No switch or network card fails with a serial line.
        if hosts.len() + node.serial.len() < 2 {
            let text = format!(
                "arbitration = \"deadtime\" needs at least 2 independent links: node \"{}\" has {} address, give one \
                 of another network card, cable and switch as well, or a serial line",
                node.name,
                hosts.len()
            );
            reader.problem_at(&format!("node.{}.addresses", node.name), text);
        }
    }
    if timing.deadtime < DEADTIME_MIN {
        let text = format!(
            "deadtime {} is too short where nothing but silence decides: at least {}",
            format_span(timing.deadtime),
            format_span(DEADTIME_MIN)
        );
        reader.problem_at("timing.deadtime", text);
    }
}

impl Arbitration {
    /// Shortest deadtime that goes with it.
    pub fn deadtime_min(self) -> Span {
        if self == Arbitration::Deadtime { DEADTIME_MIN } else { Timing::DEADTIME_MIN }
    }

    /// What the mode in force costs, in a sentence.
    pub fn risk(self) -> &'static str {
        match self {
            Arbitration::Witness => {
                "never two primaries; should the witness be down when a node dies or the link is cut, nobody serves \
                 until it is back"
            }
            Arbitration::Fence => {
                "never two primaries as long as an agent says \"done\" only of a machine that has stopped; should no \
                 agent work when a node dies or the link is cut, nobody serves until one does; a restarted node that \
                 has not met its peer waits for it"
            }
            Arbitration::Yield => {
                "never two primaries; when the secondary dies or the link is cut, the primary stops serving until the \
                 peer is back or you say \"twinfs promote --peer-is-down\""
            }
            Arbitration::Manual => {
                "never two primaries without a false word of yours; when the primary dies, nobody serves until you say \
                 \"twinfs promote --peer-is-down\" on the other node"
            }
            Arbitration::Deadtime => {
                "TWO PRIMARIES when every link is cut while both nodes live: both serve, and one side's writes of that \
                 time are lost"
            }
        }
    }
}
