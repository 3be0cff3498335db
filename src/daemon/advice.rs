//! What happens by itself, and what a person should do: the second and third question of whoever reads a status.
//!
//! Decides the words from the facts of a status alone. Does not know how the facts came about. Invariants: whatever is
//! not healthy has a `next` or an advice; every command that is advised exists.

use super::status::{NodeStatus, VolumeStatus, age};

/// A peer that was not heard for so long is not just late.
const SILENT_MS: u64 = 10_000;

/// What a volume's words depend on besides itself.
struct Around<'a> {
    peer: &'a str,
    arbitration: &'a str,
    witness: Option<&'a str>,
    witness_silent: bool,
}

/// Fills in `next` and `advice` of the node and its volumes.
pub fn fill(node: &mut NodeStatus) {
    let witness = node.witness.clone();
    let around = Around {
        peer: &node.peer.clone(),
        arbitration: &node.arbitration.clone(),
        witness: witness.as_ref().map(|w| w.address.as_str()),
        witness_silent: witness.as_ref().is_some_and(|w| w.problem.is_some()),
    };
    node.advice = about_node(node, &around);
    for volume in &mut node.volumes {
        volume.next = next(volume, &around);
        volume.advice = advice(volume, &around);
    }
}

fn about_node(node: &NodeStatus, around: &Around<'_>) -> Vec<String> {
    let mut advice = Vec::new();
    if node.config_equal == Some(false) {
        advice.push(format!(
            "make /etc/twinfs/twinfs.toml the same here and on {} (\"twinfs config check\" shows its hash), then \
             \"twinfs down\" and \"twinfs up\" where it was changed",
            around.peer
        ));
    }
    for link in node.links.iter().filter(|link| link.down) {
        let good = || node.links.iter().filter(|other| !other.down);
        let left = match good().count() {
            0 => "the nodes do not hear each other both ways",
            _ if good().all(|other| other.serial) => "what is left is a serial line, which carries no data",
            1 => "a single path is left",
            _ => "the other paths are left",
        };
        let parts = match link.serial {
            true => "cable, and at each end that the device is there and nothing else uses it",
            false => "cable, switch, firewall",
        };
        advice
            .push(format!("look at path {} ({} to {}): {parts}; {left}", link.path, link.local, link.remote));
    }
    for agent in &node.fence {
        if let Some(problem) = &agent.problem {
            let cost = "a failure now would stop the service until it works";
            advice.push(format!("mend the fence agent {} ({problem}): {cost}", agent.agent));
        }
    }
    if let (true, Some(at)) = (around.witness_silent, around.witness) {
        let risk = "a failure now would stop the service";
        advice.push(format!("start \"twinfs witness\" at {at}, or let its UDP port through: {risk}"));
    }
    advice
}

/// What happens without anybody doing anything.
fn next(volume: &VolumeStatus, around: &Around<'_>) -> String {
    let peer = around.peer;
    let primary_by_record = volume.primary.as_deref().is_some_and(|primary| primary != peer);
    let left = volume.until_ms.filter(|left| *left > 0).or(volume.lease_left_ms).filter(|left| *left > 0);
    let in_time = left.map_or("soon".to_string(), |left| format!("within {}", age(left)));
    match (volume.role.as_str(), volume.state.as_str()) {
        ("failed", _) => format!("nothing; {peer} goes on where it can"),
        (_, "diverged") => "nothing: each node has data that the other one lacks".into(),
        ("frozen", _) if volume.connected => "goes on as soon as both nodes agree".into(),
        ("frozen", _) => match around.arbitration {
            "witness" => format!("asks the witness {in_time}, and with its word goes on without {peer}"),
            "manual" | "deadtime" => format!("goes on without {peer} {in_time}"),
            "fence" => format!("goes on without {peer} as soon as a fence agent says that it has stopped"),
            _ => format!("stops serving {in_time}; {peer} takes over if it is there"),
        },
        // The record cannot change without it.
        (_, "catching-up") if around.witness_silent => {
            "in sync when everything is copied and the witness answers".into()
        }
        (_, "catching-up" | "alone") if volume.resync_paused_ms.is_some() => {
            format!("copying goes on in {}", age(volume.resync_paused_ms.unwrap_or(0)))
        }
        (_, "catching-up") => match volume.resync_left_ms {
            Some(left) => format!("in sync in about {} at this pace", age(left)),
            None => "in sync when everything is copied".into(),
        },
        (_, "alone") if volume.serving => format!("goes on; what changes is copied when {peer} is back"),
        ("handing-over", _) => "the primary changes; services start on the other node".into(),
        (_, "in-sync") if !volume.serving && !volume.peer_serving => match volume.demoted {
            true => "stays stopped until told otherwise".into(),
            false => "one of the nodes starts serving".into(),
        },
        (_, "in-sync") if volume.witness_unknown => "both nodes make this volume known to the witness".into(),
        (_, "in-sync") => String::new(),
        (_, "behind") => format!("catches up by itself as soon as {peer} answers"),
        _ if volume.record_v.is_none() => format!("fetches everything as soon as {peer} answers"),
        _ if volume.demoted => "stays stopped until told otherwise".into(),
        _ if volume.connected => "follows from the comparison of both copies".into(),
        _ => match (around.arbitration, primary_by_record) {
            ("witness", _) => {
                format!("serves when {peer} answers, or with the word of the witness {in_time}")
            }
            ("manual", true) => format!("serves when {peer} answers, or without it {in_time}"),
            ("yield", false) if volume.until_ms.is_some() => format!("takes over {in_time}"),
            _ => format!("serves when {peer} answers"),
        },
    }
}

/// What a person should do; empty where nothing helps or nothing is needed.
fn advice(volume: &VolumeStatus, around: &Around<'_>) -> Vec<String> {
    let (peer, name) = (around.peer, volume.name.as_str());
    let mut advice = Vec::new();
    let mut say = |text: String| advice.push(text);
    let anew = format!("\"twinfs down\", \"twinfs join --replace {name}\", \"twinfs up\"");
    if volume.role == "failed" && volume.replaced {
        say(format!("take the disk under {} out, or wipe it with \"twinfs mkfs --force\"", volume.image));
    } else if volume.role == "failed" {
        say(format!("repair or replace the disk under {}, then here: {anew}", volume.image));
    }
    if volume.state == "diverged" {
        say(format!(
            "\"twinfs resolve {name}\" shows what each side changed; \"twinfs resolve {name} --keep NODE\" keeps one \
             and puts the other one aside"
        ));
        say(format!(
            "without the other node: on the one whose own changes shall go (its copy is kept aside): {anew}"
        ));
    }
    if volume.resync_paused_ms.is_some() {
        say(format!(
            "\"twinfs resync resume {name}\" ends the pause: until then only this node has everything"
        ));
    }
    if volume.disconnected {
        say(format!("\"twinfs connect {name}\" ends what \"twinfs disconnect\" began"));
    } else if !volume.connected && volume.state != "diverged" && volume.role != "failed" {
        say(reach(volume, peer));
    }
    if volume.demoted && !volume.peer_serving {
        say(format!("\"twinfs promote {name}\" on the node that shall serve"));
    }
    let cut_off = !volume.connected && !volume.serving && !volume.peer_serving && !volume.demoted;
    let waits = matches!(around.arbitration, "manual" | "yield") || around.witness_silent;
    if cut_off && waits && volume.members.len() == 2 && volume.state != "behind" {
        say(format!(
            "only if {peer} is down for certain (powered off): \"twinfs promote --peer-is-down {name}\" here"
        ));
    }
    // A dead primary was serving when it was heard last.
    let silent = !volume.connected && volume.peer_heard_ms.is_none_or(|ms| ms > SILENT_MS);
    if silent && !volume.serving && volume.state == "behind" && volume.way_back != Some(false) {
        let old = volume.behind_ms.map_or(String::new(), |ms| format!(" of {} ago", age(ms)));
        say(format!(
            "only if {peer} and its disk are gone for good: \"twinfs promote --peer-is-down --force {name}\" serves \
             the state{old} that is here, and gives up what {peer} wrote since"
        ));
    }
    if volume.witness_unknown && volume.state == "alone" {
        say(format!(
            "if {peer} is down for good: \"twinfs connect --enrol-witness {name}\" makes the witness know it"
        ));
    }
    if volume.lost_blocks > 0 {
        say(format!(
            "restore the files that \"twinfs events {name}\" names from a backup: both disks lost a part of them"
        ));
    } else if volume.is_damaged() {
        say("\"twinfs verify --repair\" on the primary repairs what the last verify found".into());
    }
    for service in volume.services.iter().filter(|service| service.state == "failed") {
        say(format!(
            "find out why {} fails (\"twinfs events {name}\" and its own log); start it by hand",
            service.name
        ));
    }
    advice
}

fn reach(volume: &VolumeStatus, peer: &str) -> String {
    match (&volume.refused, volume.peer_heard_ms) {
        (Some(why), _) => format!("{peer} is there and refuses: {why}"),
        (None, Some(0..2_500)) => {
            format!("{peer} is there; see \"twinfs events\" on both nodes if it stays so")
        }
        _ => format!("look at {peer}: is it on, is \"twinfs up\" done there, are cable and firewall open?"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{Health, WitnessStatus};
    use super::*;

    fn node(arbitration: &str, volume: VolumeStatus) -> NodeStatus {
        let mut node = NodeStatus {
            node: "alpha".into(),
            peer: "beta".into(),
            arbitration: arbitration.into(),
            volumes: vec![volume],
            ..NodeStatus::default()
        };
        node.judge();
        node
    }

    fn volume(role: &str, state: &str) -> VolumeStatus {
        VolumeStatus {
            name: "mail".into(),
            role: role.into(),
            state: state.into(),
            serving: role == "primary",
            connected: matches!(state, "in-sync" | "catching-up"),
            peer_serving: matches!(role, "secondary" | "target"),
            record_v: Some(4),
            members: vec!["alpha".into(), "beta".into()],
            primary: Some("alpha".into()),
            ..VolumeStatus::default()
        }
    }

    fn words(node: &NodeStatus) -> String {
        let volume = &node.volumes[0];
        format!("{} | {} | {}", volume.next, volume.advice.join(" / "), node.advice.join(" / "))
    }

    #[test]
    fn whatever_is_not_healthy_says_what_comes_next_or_what_to_do() {
        let roles =
            ["primary", "secondary", "joining", "target", "frozen", "handing-over", "diverged", "failed"];
        let states = ["in-sync", "catching-up", "behind", "alone", "diverged", "joining"];
        for arbitration in ["witness", "yield", "manual"] {
            for (role, state) in roles.iter().flat_map(|role| states.map(|state| (*role, state))) {
                for connected in [false, true] {
                    let mut volume = volume(role, state);
                    volume.connected = connected;
                    let node = node(arbitration, volume);
                    let said = words(&node);
                    assert!(node.health == Health::Ok || said.len() > 6, "{role} {state}: {said}");
                }
            }
        }
    }

    #[test]
    fn the_healthy_are_left_in_peace() {
        for role in ["primary", "secondary"] {
            let node = node("witness", volume(role, "in-sync"));
            assert_eq!((node.health, words(&node).as_str()), (Health::Ok, " |  | "));
        }
    }

    #[test]
    fn a_forced_promotion_is_advised_only_where_nothing_else_helps() {
        let says = |node: &NodeStatus| words(node).contains("--peer-is-down mail");
        assert!(says(&node("manual", volume("joining", "joining"))));
        assert!(says(&node("yield", volume("joining", "joining"))));
        assert!(!says(&node("witness", volume("joining", "joining"))), "the witness decides");
        let old = node("manual", volume("joining", "behind"));
        assert!(!says(&old) && words(&old).contains("--force mail"), "this copy is old");
        let mut lost = volume("target", "behind");
        lost.way_back = Some(false);
        (lost.connected, lost.peer_serving) = (false, false);
        assert!(!words(&node("manual", lost)).contains("--force"), "half overwritten, with no way back");
        let mut silent = node("witness", volume("joining", "joining"));
        silent.witness = Some(WitnessStatus { problem: Some("silent".into()), ..WitnessStatus::default() });
        silent.judge();
        assert!(says(&silent) && words(&silent).contains("twinfs witness"), "{}", words(&silent));
    }

    #[test]
    fn an_operator_is_reminded_of_what_was_ordered() {
        let mut volume = volume("primary", "alone");
        volume.disconnected = true;
        assert!(words(&node("witness", volume.clone())).contains("twinfs connect mail"));
        volume.serving = false;
        volume.demoted = true;
        assert!(words(&node("witness", volume)).contains("twinfs promote mail"));
    }
}
