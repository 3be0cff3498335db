//! A pair grows while a program writes: the room is there at once on both, whoever serves, whatever is killed.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::Duration;

use harness::need;
use harness::node::Node;
use harness::pair::{MOUNT, Pair, Plan};

const LIMIT: Duration = Duration::from_secs(60);
/// Writes, fsyncs and counts until it is told to stop: a line for each.
const LOAD: &str = "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i >> /replicated/log && \
                    sync /replicated/log && echo $i > /tmp/acked; done";

fn plan() -> Plan {
    Plan { size: "96MiB", ..Plan::default() }
}

fn megabytes(node: &Node) -> u64 {
    let out = node.sh(&format!("df --output=size -BM {MOUNT} | tail -1 | tr -dc 0-9")).ok().out;
    out.trim().parse().unwrap_or(0)
}

#[test]
fn a_pair_grows_under_load_and_keeps_its_size() {
    let name = "a_pair_grows_under_load_and_keeps_its_size";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("grow", &plan());
    let alpha = pair.node("alpha");
    let was = megabytes(alpha);
    assert!((60..96).contains(&was), "{was} MiB of 96");
    let load = alpha.spawn("load.log", &["sh", "-c", LOAD]);
    let refused = alpha.run_within(LIMIT, &["twinfs", "grow", "data", "64M"]);
    assert!(refused.code == 2 && refused.err.contains("never becomes smaller"), "{}", refused.err);
    let refused = pair.node("beta").run_within(LIMIT, &["twinfs", "grow", "data", "256M"]);
    assert!(refused.code != 0 && refused.err.contains("say it on the primary"), "{}", refused.err);
    let grown = alpha.run_within(LIMIT, &["twinfs", "grow", "data", "256M"]);
    assert_eq!(grown.code, 0, "{}{}", grown.out, grown.err);
    let reached = harness::wait_for(Duration::from_secs(10), || megabytes(alpha) > was + 140);
    assert!(reached, "{} MiB after {was}: {}", megabytes(alpha), alpha.log("twinfsd.log"));
    // More than was there before, on both.
    alpha
        .sh(&format!(
            "head -c 120M /dev/urandom > {MOUNT}/big && sync {MOUNT}/big && md5sum {MOUNT}/big > /tmp/sum"
        ))
        .ok();
    alpha.sh("touch /tmp/enough").ok();
    drop(load);
    let acked = alpha.sh("cat /tmp/acked").ok().out;
    let sum = alpha.sh("cut -d' ' -f1 /tmp/sum").ok().out;
    alpha.run_within(LIMIT, &["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    let beta = pair.node("beta");
    assert!(megabytes(beta) > was + 140, "the other node has the old size: {}", megabytes(beta));
    assert_eq!(beta.sh(&format!("md5sum < {MOUNT}/big | cut -d' ' -f1")).ok().out, sum);
    assert!(beta.sh(&format!("tail -1 {MOUNT}/log")).ok().out.trim() >= acked.trim());
    for node in ["alpha", "beta"] {
        let long = pair.node(node).sh("stat -c %s /var/lib/twinfs/data.img").ok().out;
        assert!(long.trim().parse::<u64>().unwrap_or(0) > 240 << 20, "{node}: {long}");
    }
    pair.compare_images();
}

#[test]
fn a_node_that_missed_the_end_of_it_grows_when_it_is_back() {
    let name = "a_node_that_missed_the_end_of_it_grows_when_it_is_back";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("grow-cut", &plan());
    let was = megabytes(pair.node("alpha"));
    let away = pair.node("beta").run(&["twinfs", "down"]);
    away.ok();
    pair.wait_serving("alpha");
    let refused = pair.node("alpha").run_within(LIMIT, &["twinfs", "grow", "data", "256M"]);
    assert!(refused.code != 0 && refused.err.contains("beta has to grow too"), "{}", refused.err);
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    // Killed in the middle of it, as far as a test can tell where that is.
    std::thread::scope(|scope| {
        let alpha = pair.node("alpha");
        scope.spawn(|| alpha.run_within(LIMIT, &["twinfs", "grow", "data", "256M"]));
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(60));
            pair.node("beta").kill_all();
        });
    });
    pair.wait_serving("alpha");
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    let again = pair.node("alpha").run_within(LIMIT, &["twinfs", "grow", "data", "256M"]);
    let done = again.code == 0 || again.err.contains("there are");
    assert!(done, "{}{}", again.out, again.err);
    let size = || megabytes(pair.node("alpha"));
    assert!(harness::wait_for(Duration::from_secs(10), || size() > was + 140), "{} MiB", size());
    pair.compare_images();
}
