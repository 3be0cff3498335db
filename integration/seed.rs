//! A second node that begins with a carried copy: bytes on the wire are counted.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::Duration;

use harness::need;
use harness::pair::{MOUNT, Pair, Plan};

const LIMIT: Duration = Duration::from_secs(60);
const IMAGE: &str = "/var/lib/twinfs/data.img";

/// Bytes that a node received on all its links.
fn received(pair: &Pair, name: &str) -> u64 {
    let line = "cat /proc/net/dev | awk -F'[: ]+' 'NR>2 && $2 != \"lo\" { sum += $3 } END { print sum }'";
    pair.node(name).sh(line).ok().out.trim().parse().expect("a number of bytes")
}

#[test]
fn a_carried_copy_taken_in_use_leaves_only_what_differs_for_the_wire() {
    let name = "a_carried_copy_taken_in_use_leaves_only_what_differs_for_the_wire";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("seed", &Plan { size: "192MiB", ..Plan::default() });
    let write = |file: &str, size: &str| {
        let line = format!("head -c {size} /dev/urandom > {MOUNT}/{file} && sync {MOUNT}/{file}");
        pair.node("alpha").sh(&line).ok();
    };
    write("old", "80M");
    // Carried away in use, and not of the newest.
    let carried = pair.world.dir.join("carried.img");
    let carry = format!("cp --sparse=always {IMAGE} {}", carried.display());
    pair.node("alpha").sh(&carry).ok();
    write("new", "4M");
    let sums = pair.node("alpha").sh(&format!("md5sum {MOUNT}/old {MOUNT}/new")).ok().out;

    pair.node("beta").run(&["twinfs", "down"]).ok();
    pair.wait_serving("alpha");
    let beta = pair.node("beta");
    let wrong = beta.run_within(LIMIT, &["twinfs", "join", "--seed", "/etc/twinfs/key"]);
    assert!(wrong.code != 0 && wrong.err.contains("cannot be a seed"), "{}", wrong.err);
    let there = beta.run_within(LIMIT, &["twinfs", "join", "--seed", &carried.display().to_string()]);
    assert!(there.code != 0 && there.err.contains("--replace data --seed"), "{}", there.err);
    let join = ["twinfs", "join", "--replace", "data", "--seed", &carried.display().to_string()];
    let joined = beta.run_within(LIMIT, &join).ok().out;
    assert!(joined.contains("MiB of data taken from"), "{joined}");

    let before = received(&pair, "beta");
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    let moved = received(&pair, "beta") - before;
    assert!(moved > 3 << 20, "{moved} bytes: the new file did not cross the wire");
    assert!(moved < 16 << 20, "{moved} bytes crossed the wire for 4 MiB that differ of 84");
    pair.node("alpha").run_within(LIMIT, &["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    assert_eq!(pair.node("beta").sh(&format!("md5sum {MOUNT}/old {MOUNT}/new")).ok().out, sums);
    let scrub = pair.node("beta").run_within(LIMIT, &["twinfs", "verify"]);
    assert_eq!(scrub.code, 0, "{}{}", scrub.out, scrub.err);
    pair.compare_images();
}
