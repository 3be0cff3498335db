//! A primary dies for good while the other node, back after an outage, is half overwritten by it: real daemons, real
//! mounts. The other node serves what it held when it left, by the operator's word and by nothing less.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::{Duration, Instant};

use harness::need;
use harness::pair::{MOUNT, Pair, Plan};

/// Written before the outage, overwritten during it.
const OLD: &str = "seq 1 400000";
const NEW: &str = "seq 500000 900000";

/// Looks at beta until it is half overwritten, as closely as the command allows.
fn half_overwritten(pair: &Pair) -> bool {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let volume = pair.volume("beta");
        if volume["way_back"] == true && volume["kept_blocks"].as_u64() > Some(0) {
            return true;
        }
        if volume["state"] == "in-sync" && volume["record_v"].as_u64() > Some(2) {
            return false;
        }
    }
    false
}

/// Beta is away while alpha writes; alpha dies in the middle of the resync.
fn interrupted(plan: &Plan, name: &str) -> Pair {
    let mut pair = Pair::start(name, plan);
    pair.node("alpha").sh(&format!("{OLD} > {MOUNT}/file && sync {MOUNT}/file")).ok();
    pair.node("beta").kill_all();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone" && volume["serving"] == true);
    let lines = [
        format!("{NEW} > {MOUNT}/new && mv {MOUNT}/new {MOUNT}/file"),
        format!("head -c 160M /dev/urandom > {MOUNT}/much && sync"),
    ];
    lines.iter().for_each(|line| drop(pair.node("alpha").sh(line).ok()));
    pair.start_daemon("beta");
    assert!(half_overwritten(&pair), "the resync was over too soon: {:#}", pair.volume("beta"));
    pair.node("alpha").kill_all();
    pair
}

#[test]
fn a_half_overwritten_copy_serves_its_old_state_when_the_source_is_gone_for_good() {
    let name = "a_half_overwritten_copy_serves_its_old_state_when_the_source_is_gone_for_good";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan { arbitration: "manual", size: "512MiB", ..Plan::default() };
    let mut pair = interrupted(&plan, "undo-gone");
    // The source was there a moment ago: nobody goes back under it.
    let early = pair.node("beta").run(&["twinfs", "promote", "--peer-is-down", "--force", "data"]);
    assert!(early.code != 0 && early.err.contains("is there"), "{}: {}", early.code, early.err);
    pair.wait("beta", "behind, with advice", |volume| {
        let advice = volume["advice"].to_string();
        volume["state"] == "behind" && volume["behind_ms"].is_u64() && advice.contains("--force data")
    });
    let plain = pair.node("beta").run(&["twinfs", "promote", "--peer-is-down", "data"]);
    assert!(plain.code != 0 && plain.err.contains("--force"), "{}: {}", plain.code, plain.err);
    assert_ne!(pair.volume("beta")["serving"], true);

    let promoted = pair.node("beta").run(&["twinfs", "promote", "--peer-is-down", "--force", "data"]).ok();
    assert!(promoted.out.contains("with the state of") && promoted.out.contains("ago"), "{}", promoted.out);
    harness::say(promoted.out.trim());
    let same = format!("{OLD} | cmp - {MOUNT}/file && test ! -e {MOUNT}/much && test ! -e {MOUNT}/new");
    pair.node("beta").sh(&same).ok();
    pair.node("beta").sh(&format!("echo goes on > {MOUNT}/after && sync {MOUNT}/after")).ok();

    // The dead one is not dead: both wrote. It gets a new copy, and its old one is kept aside.
    pair.start_daemon("alpha");
    for node in ["alpha", "beta"] {
        pair.wait(node, "diverged", |volume| volume["state"] == "diverged");
    }
    pair.node("alpha").run(&["twinfs", "down"]).ok();
    pair.node("alpha").run(&["twinfs", "join", "--replace", "data"]).ok();
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    pair.node("beta").sh(&format!("{same} && grep -q on {MOUNT}/after")).ok();
    pair.compare_images();
}

#[test]
fn a_half_overwritten_copy_whose_source_returns_is_brought_up_to_date() {
    let name = "a_half_overwritten_copy_whose_source_returns_is_brought_up_to_date";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan { arbitration: "manual", size: "512MiB", ..Plan::default() };
    let mut pair = interrupted(&plan, "undo-back");
    pair.node("beta").kill_all();
    let image = "/var/lib/twinfs/data.img";
    let dumped = pair.node("beta").run(&["twinfs", "dump", "superblock", image]).ok();
    assert!(dumped.out.contains("blocks kept"), "{}", dumped.out);
    let checked = pair.node("beta").run(&["fsck-twinfs", "-n", image]);
    assert!(checked.code == 0 && checked.out.contains("are kept"), "{}: {}", checked.code, checked.out);
    for node in ["beta", "alpha"] {
        pair.start_daemon(node);
    }
    pair.wait_in_sync("alpha");
    pair.node("alpha").sh(&format!("{NEW} | cmp - {MOUNT}/file")).ok();
    assert_eq!(pair.volume("beta")["way_back"], serde_json::Value::Null);
    pair.compare_images();
}
