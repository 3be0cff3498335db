//! Another program goes on with the daemon of either node of a pair: nothing changes hands, and whatever goes wrong
//! costs no more than a takeover.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::Duration;

use harness::node::{Node, Ran};
use harness::pair::{MOUNT, Pair, Plan};
use harness::{need, say, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A service with its state below /run; starting it twice starts it once.
const SERVICE: &str = r#"#!/bin/sh
pid=$(cat /run/steady.pid 2>/dev/null)
case $1 in
start) [ -n "$pid" ] && kill -0 $pid 2>/dev/null && exit 0
  echo start >> /run/steady.log
  setsid sleep 100000 >/dev/null 2>&1 </dev/null & echo $! > /run/steady.pid;;
stop) echo stop >> /run/steady.log; [ -z "$pid" ] || kill $pid 2>/dev/null; rm -f /run/steady.pid;;
status) [ -n "$pid" ] || exit 3; kill -0 $pid 2>/dev/null || exit 1;;
*) exit 3;;
esac
"#;

/// Writes and syncs numbers until /run/enough, with a removed file open all the time; prints what was acknowledged.
const WRITER: &str = r#"exec 3<>/replicated/held && rm /replicated/held || exit 9
i=0
while [ ! -e /run/enough ]; do
  i=$((i + 1))
  echo $i >> /replicated/log && sync /replicated/log && echo $i >&3 || { echo "failed at $i"; exit 1; }
  echo $i > /run/acked
done
exit 0
"#;

fn start(test: &str) -> Pair {
    let plan = Plan {
        volume: "services = [\"exec:/usr/local/sbin/steady\"]\naddress = \"192.0.2.99/24\"\n".into(),
        ..Plan::default()
    };
    let mut pair = Pair::prepare(test, &plan);
    std::fs::write(pair.world.dir.join("steady"), SERVICE).expect("script");
    std::fs::write(pair.world.dir.join("writer"), WRITER).expect("script");
    for node in ["alpha", "beta"] {
        let line = format!("install -m 755 {}/steady /usr/local/sbin/steady", pair.world.dir.display());
        pair.node(node).sh(&line).ok();
    }
    pair.start_witness();
    for node in ["alpha", "beta"] {
        pair.start_daemon(node);
    }
    pair.wait_in_sync("alpha");
    let runs = || pair.node("alpha").sh("/usr/local/sbin/steady status").code == 0;
    assert!(wait_for(Duration::from_secs(20), runs), "the service does not run");
    pair
}

fn upgrade(node: &Node, program: &[&str]) -> Ran {
    node.run(&[&["twinfs", "--json", "upgrade"], program].concat())
}

fn pause(ran: &Ran) -> u64 {
    let json: Value = serde_json::from_str(ran.out.trim()).expect("one object");
    json["pause_ms"].as_u64().expect("milliseconds")
}

fn has_address(node: &Node) -> bool {
    node.sh("ip addr show").ok().out.contains("192.0.2.99")
}

fn acked(node: &Node) -> u64 {
    node.sh("cat /run/acked 2>/dev/null").out.trim().parse().unwrap_or(0)
}

fn is_all_there(node: &Node, count: u64) {
    let there = node.sh(&format!("cat {MOUNT}/log")).ok().out;
    let all: Vec<u64> = there.lines().map(|line| line.parse().expect("a number")).collect();
    let expected: Vec<u64> = (1..=all.len() as u64).collect();
    assert!(all == expected && all.len() as u64 >= count, "{} of {count} numbers are there", all.len());
}

#[test]
fn both_nodes_go_on_in_another_program_under_load_and_nothing_changes_hands() {
    let name = "both_nodes_go_on_in_another_program_under_load_and_nothing_changes_hands";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = start("upgrade-pair");
    let script = pair.world.dir.join("writer").display().to_string();
    let mut writer = pair.node("alpha").spawn("writer.log", &["sh", &script]);
    assert!(wait_for(Duration::from_secs(20), || acked(pair.node("alpha")) > 20), "nothing is written");
    let service = pair.node("alpha").sh("cat /run/steady.pid").ok().out;
    let touched = pair.node("alpha").sh("cat /run/steady.log").ok().out;
    let pid = pair.node("alpha").pids_of("twinfs daemon");
    for round in 1..=4 {
        for name in ["beta", "alpha"] {
            let node = pair.node(name);
            let ran = upgrade(node, &[]).ok();
            say(&format!("upgrade {round} of {name}: requests waited {} ms", pause(&ran)));
            assert!(has_address(pair.node("alpha")), "the address is gone");
            pair.wait_in_sync("alpha");
            let before = acked(pair.node("alpha"));
            let more = || acked(pair.node("alpha")) > before + 5;
            assert!(wait_for(Duration::from_secs(10), more), "nothing more is written");
        }
    }
    let alpha = pair.node("alpha");
    assert_eq!(alpha.pids_of("twinfs daemon"), pid, "the process goes on");
    assert_eq!(alpha.sh("cat /run/steady.log").ok().out, touched, "the service was touched");
    assert_eq!(alpha.sh("cat /run/steady.pid").ok().out, service);
    let started = pair.node("beta").sh("cat /run/steady.log").out;
    assert!(!started.contains("start"), "the service ran on beta: {started}");
    let told = alpha.run(&["twinfs", "events", "-n", "1000"]).ok().out;
    assert_eq!(told.matches("goes on with the mount").count(), 4, "{told}");
    alpha.sh("touch /run/enough").ok();
    assert_eq!(writer.wait(Duration::from_secs(20)), Some(0), "{}", alpha.log("writer.log"));
    is_all_there(alpha, acked(alpha));
    // What came of it takes over, is taken over from, and stops like any daemon.
    alpha.run(&["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    upgrade(pair.node("beta"), &[]).ok();
    pair.wait_in_sync("beta");
    is_all_there(pair.node("beta"), acked(pair.node("alpha")));
    pair.node("beta").signal("twinfs daemon", Signal::SIGTERM);
    // By record: while beta is on its way out nobody could say yes to a successor.
    pair.wait("alpha", "alone", |volume| volume["mounted"] == true && volume["state"] == "alone");
    // Alone, too; refused, with everything as before, as long as its services are being started.
    let mut ran = None;
    let done = wait_for(Duration::from_secs(10), || {
        let now = upgrade(pair.node("alpha"), &[]);
        let refused = now.code == 75;
        ran = Some(now);
        !refused
    });
    assert!(done, "it is refused for ever");
    ran.expect("it ran").ok();
    pair.wait_serving("alpha");
    pair.node("alpha").sh(&format!("echo alone > {MOUNT}/alone && sync {MOUNT}/alone")).ok();
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    pair.compare_images();
}

#[test]
fn an_upgrade_that_goes_wrong_costs_no_more_than_a_takeover() {
    let name = "an_upgrade_that_goes_wrong_costs_no_more_than_a_takeover";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = start("upgrade-wrong");
    let script = pair.world.dir.join("writer").display().to_string();
    let dies = pair.world.dir.join("dies").display().to_string();
    let text = "#!/bin/sh\n[ \"$1\" = upgrade ] && exit 0\nexit 3\n";
    std::fs::write(&dies, text).expect("script");
    pair.node("alpha").sh(&format!("chmod 755 {dies}")).ok();
    let mut writer = pair.node("alpha").spawn("writer.log", &["sh", &script]);
    assert!(wait_for(Duration::from_secs(20), || acked(pair.node("alpha")) > 20), "nothing is written");
    // One that cannot go on is found out before anything stops.
    let refused = upgrade(pair.node("alpha"), &["--program", "/bin/false"]);
    assert!(refused.code != 0 && refused.err.contains("/bin/false"), "{}", refused.err);
    pair.wait_in_sync("alpha");
    assert!(writer.0.try_wait().expect("writer").is_none(), "{}", pair.node("alpha").log("writer.log"));
    // One that dies leaves a machine without a daemon: the peer takes over with all that was acknowledged.
    let failed = upgrade(pair.node("alpha"), &["--program", &dies]);
    assert!(failed.code != 0, "{}", failed.out);
    assert_eq!(writer.wait(Duration::from_secs(30)), Some(1), "{}", pair.node("alpha").log("writer.log"));
    pair.wait_serving("beta");
    let count = acked(pair.node("alpha"));
    is_all_there(pair.node("beta"), count);
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    // And one that is killed as soon as it serves.
    upgrade(pair.node("beta"), &[]).ok();
    pair.node("beta").signal("twinfs daemon", Signal::SIGKILL);
    pair.wait_serving("alpha");
    is_all_there(pair.node("alpha"), count);
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    // The peer falls silent during the pause: the mount ends before anybody else may serve.
    pair.world.part("alpha", "beta");
    let late = upgrade(pair.node("alpha"), &[]);
    say(&format!("with the link cut: exit code {}, {}{}", late.code, late.out.trim(), late.err.trim()));
    pair.world.heal();
    pair.wait_either_in_sync();
    let primary = pair.primary().expect("somebody serves");
    is_all_there(pair.node(primary), count);
    pair.compare_images();
}
