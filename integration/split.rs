//! A split brain of two real daemons is shown file by file and ended from either node, or by the policy; the side that
//! gives way can be mounted afterwards.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use harness::need;
use harness::node::Node;
use harness::pair::{MOUNT, Pair, Plan};
use serde_json::Value;

/// Alpha goes on alone, beta is promoted by a word that is not true, and both meet again.
fn split(pair: &Pair, primary: &str, other: &str, change: &dyn Fn(&Node)) {
    pair.world.cable("beta", 0, false);
    pair.wait(primary, "alone", |volume| volume["state"] == "alone");
    change(pair.node(primary));
    pair.wait(other, "cut off", |volume| volume["connected"] == false);
    pair.node(other).run(&["twinfs", "promote", "--peer-is-down"]).ok();
    pair.wait_serving(other);
    change(pair.node(other));
    pair.world.cable("beta", 0, true);
}

fn both_diverged(pair: &Pair) {
    for node in ["alpha", "beta"] {
        pair.wait(node, "diverged", |volume| volume["state"] == "diverged");
    }
}

fn report(node: &Node) -> Value {
    let ran = node.run(&["twinfs", "resolve", "data", "--json"]);
    assert_eq!(ran.code, 5, "{}{}", ran.out, ran.err);
    let report: Value = serde_json::from_str(ran.out.lines().next().expect("a line")).expect("json");
    assert!(report["schema"].is_u64(), "{report}");
    report
}

/// `path word` of everything that a node's side tells.
fn told(report: &Value, node: &str) -> Vec<String> {
    let sides = report["sides"].as_array().expect("sides");
    let at = sides.iter().position(|side| side["node"] == node).expect("the side");
    let path = |file: &Value| file["path"].as_str().unwrap_or_default().to_string();
    let mut all: Vec<String> = Vec::new();
    for file in sides[at]["files"].as_array().expect("files") {
        all.push(format!("{} {}", path(file), if file["made"] == true { "created" } else { "changed" }));
    }
    for file in report["deleted"][at].as_array().map_or(&[][..], Vec::as_slice) {
        all.push(format!("{} deleted", path(file)));
    }
    all.sort();
    all
}

fn refused(node: &Node, words: &[&str], code: i32, said: &str) -> String {
    let ran = node.run(words);
    assert_eq!(ran.code, code, "{words:?}: {}{}", ran.out, ran.err);
    assert!(ran.err.contains(said), "{words:?}: {}", ran.err);
    ran.out
}

/// The name of the newest kept copy of a node.
fn newest_pack(node: &Node) -> String {
    let listed = node.run(&["twinfs", "salvage", "list", "--json"]).ok().out;
    let last: Value = serde_json::from_str(listed.lines().last().expect("a kept copy")).expect("json");
    assert!(last["readable"] == true, "{last}");
    last["pack"].as_str().expect("its name").to_string()
}

/// What `command` says in the kept copy.
fn in_pack(node: &Node, command: &str) -> String {
    let pack = newest_pack(node);
    let look = format!(
        "mkdir -p /run/old && twinfs salvage mount {pack} /run/old && (cd /run/old && {command}); umount /run/old"
    );
    node.sh(&look).ok().out
}

#[test]
fn a_split_is_shown_and_ended_from_either_node_and_the_other_side_is_kept() {
    let name = "a_split_is_shown_and_ended_from_either_node_and_the_other_side_is_kept";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::start("resolve", &Plan { arbitration: "manual", size: "64MiB", ..Plan::default() });
    let before = format!(
        "cd {MOUNT} && mkdir d && echo x > d/x && for f in both shared doomed; do echo old > $f; done && twinfs sync"
    );
    pair.node("alpha").sh(&before).ok();
    split(&pair, "alpha", "beta", &|node| {
        let gone = if node.name == "beta" { "rm -r doomed d &&" } else { "" };
        let own =
            format!("cd {MOUNT} && {gone} echo {0} > {0} && echo {0} > shared && twinfs sync", node.name);
        node.sh(&own).ok();
    });
    both_diverged(&pair);
    // Either node tells the same of both.
    for asked in ["alpha", "beta"] {
        let report = report(pair.node(asked));
        assert_eq!(report["peer_problem"], Value::Null, "{report}");
        assert_eq!(told(&report, "alpha"), ["/alpha created", "/shared changed"], "{report}");
        let beta = ["/beta created", "/d deleted", "/doomed deleted", "/shared changed"];
        assert_eq!(told(&report, "beta"), beta, "{report}");
        let sides = report["sides"].as_array().expect("sides");
        assert!(sides.iter().all(|side| side["changed_blocks"].as_u64() > Some(0)), "{report}");
        assert!(sides.iter().any(|side| side["node"] == "alpha" && side["led"] == true), "{report}");
    }
    let beta = pair.node("beta");
    let keep = ["twinfs", "resolve", "data", "--keep", "alpha"];
    let shown = refused(beta, &keep, 6, "--confirm beta");
    assert!(
        shown.contains("deleted") && shown.contains("/doomed") && shown.contains("serves now"),
        "{shown}"
    );
    refused(beta, &[&keep[..], &["--confirm", "alpha"]].concat(), 2, "nothing is decided");
    refused(beta, &["twinfs", "resolve", "data", "--keep", "gamma", "--confirm", "beta"], 2, "no node gamma");
    both_diverged(&pair);
    beta.run(&[&keep[..], &["--confirm", "beta"]].concat()).ok();
    pair.wait_in_sync("alpha");
    assert_eq!(
        pair.node("alpha").sh(&format!("cd {MOUNT} && ls && cat shared")).ok().out,
        "alpha\nboth\nd\ndoomed\nshared\nalpha\n"
    );
    assert_eq!(in_pack(pair.node("beta"), "ls && cat shared"), "beta\nboth\nshared\nbeta\n");
    let events = pair.node("beta").run(&["twinfs", "events"]).ok().out;
    assert!(
        events.contains("that of alpha is kept") && events.contains("is put aside as it was"),
        "{events}"
    );
    refused(pair.node("beta"), &[&keep[..], &["--confirm", "beta"]].concat(), 1, "nothing to resolve");
    // The other way around, said on the node that gives way.
    split(&pair, "alpha", "beta", &|node| {
        node.sh(&format!("cd {MOUNT} && echo {0} > second-{0} && twinfs sync", node.name)).ok();
    });
    both_diverged(&pair);
    // Shown alone while the peer is away: said so, and nothing is decided without it.
    let ends =
        |node: &Node| node.sh("twinfs events | grep -c 'the stream to beta ended'").out.trim().to_string();
    let before = ends(pair.node("alpha"));
    pair.world.cable("beta", 0, false);
    let gone = harness::wait_for(std::time::Duration::from_secs(30), || ends(pair.node("alpha")) != before);
    assert!(gone, "the stream of a cut cable is never given up");
    let report = report(pair.node("alpha"));
    assert!(report["peer_problem"].is_string(), "{report}");
    // What was only read there cannot be told from what was changed without the other copy.
    let alone = told(&report, "alpha");
    assert!(
        alone.iter().all(|line| line == "/second-alpha created" || line == "/shared changed"),
        "{report}"
    );
    let keep = ["twinfs", "resolve", "data", "--keep", "beta", "--confirm", "alpha"];
    refused(pair.node("alpha"), &keep, 8, "not reached");
    pair.world.cable("beta", 0, true);
    pair.wait("alpha", "met", |volume| volume["peer_heard_ms"].as_u64() < Some(500));
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while pair.node("alpha").run(&keep).code != 0 {
        assert!(std::time::Instant::now() < limit, "it is never reached again");
    }
    pair.wait_in_sync("beta");
    let there = pair.node("beta").sh(&format!("ls {MOUNT}")).ok().out;
    assert!(there.contains("second-beta") && !there.contains("second-alpha"), "{there}");
    assert!(in_pack(pair.node("alpha"), "ls").contains("second-alpha"));
    let mut pair = pair;
    pair.compare_images();
}

#[test]
fn a_policy_ends_a_split_by_itself_and_waits_for_room() {
    let name = "a_policy_ends_a_split_by_itself_and_waits_for_room";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan {
        arbitration: "manual",
        size: "64MiB",
        cluster: "after_split_brain = \"discard-older-primary\"\n".into(),
        volume: "salvage_dir = \"/run/kept\"\n".to_string(),
        ..Plan::default()
    };
    let mut pair = Pair::prepare("policy", &plan);
    for node in ["alpha", "beta"] {
        let made = pair.node(node).sh("mkdir /run/kept && mount -t tmpfs -o size=1M tmpfs /run/kept");
        made.ok();
        pair.start_daemon(node);
    }
    pair.wait_in_sync("alpha");
    split(&pair, "alpha", "beta", &|node| {
        node.sh(&format!("cd {MOUNT} && echo {0} > {0} && twinfs sync", node.name)).ok();
    });
    // Beta became primary while they were apart: alpha gives way, and has no room for its copy.
    pair.wait("alpha", "no room", |volume| {
        volume["reason"].as_str().is_some_and(|why| why.contains("could not be put aside"))
    });
    let alpha = pair.node("alpha");
    let report = report(alpha);
    assert_eq!(report["keep"], "beta", "{report}");
    assert_eq!(told(&report, "alpha"), ["/alpha created"], "{report}");
    assert!(!alpha.sh(&format!("mountpoint {MOUNT}")).out.contains("is a mountpoint"), "it serves on");
    assert_eq!(pair.node("beta").sh(&format!("ls {MOUNT}")).ok().out, "beta\n");
    let keep = ["twinfs", "resolve", "data", "--keep", "beta", "--confirm", "alpha"];
    refused(alpha, &keep, 1, "has room for");
    assert_eq!(alpha.sh("ls /run/kept").ok().out, "", "something half made is left");
    alpha.sh("mount -o remount,size=300M /run/kept").ok();
    alpha.run(&keep).ok();
    pair.wait_in_sync("beta");
    assert_eq!(pair.node("beta").sh(&format!("ls {MOUNT}")).ok().out, "beta\n");
    assert_eq!(in_pack(pair.node("alpha"), "ls"), "alpha\n");
    pair.compare_images();
}
