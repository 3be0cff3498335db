//! Load does not fake a death: under threads that starve every ordinary one, heartbeats keep their pace.
//!
//! The load is what a backup at a high priority or a runaway program does to a machine: more spinning processes than
//! processors, with weights of a thousandfold. It lasts seconds and holds up whatever else runs on the machine.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::{Duration, Instant};

use harness::need;
use harness::pair::{Pair, Plan};
use serde_json::Value;

/// Seconds of load.
const LOAD: u64 = 8;
/// Spinning processes for each processor.
const EACH: usize = 6;
/// A program whose every fsync passes the machines that the heartbeats come from.
const WRITER: &str = r#"use IO::Handle; open(my $f, ">>", "/replicated/log") or die;
 while (1) { syswrite($f, "line\n") or die; $f->sync or die }"#;

fn status(pair: &Pair, name: &str) -> Value {
    let ran = pair.node(name).run(&["twinfs", "--json", "status"]);
    ran.out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

/// Heartbeats of the peer that arrived at `name` while the machine was under load, of a hundred that were due; and the
/// longest silence that ended in that time, milliseconds.
fn under_load(pair: &Pair, name: &str) -> (u64, u64) {
    let received = || status(pair, name)["links"][0]["received"].as_u64().expect("heartbeats are counted");
    let writer = pair.node("alpha").spawn("writer.log", &["perl", "-e", WRITER]);
    let (before, begun) = (received(), Instant::now());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let spin = format!("setpriority(0, 0, -20); alarm {LOAD}; 1 while 1");
    let load: Vec<_> = (0..processors * EACH)
        .map(|n| pair.node("gamma").spawn(&format!("spin-{n}.log"), &["perl", "-e", &spin]))
        .collect();
    for mut spinning in load {
        assert!(spinning.wait(Duration::from_secs(LOAD + 60)).is_some(), "the load does not end");
    }
    let took = begun.elapsed();
    drop(writer);
    let after = status(pair, name);
    let due = took.as_millis() as u64 / 100;
    let link = &after["links"][0];
    let recent = link["worst_gap_ago_ms"].as_u64().is_some_and(|ago| ago <= took.as_millis() as u64 + 1_000);
    let worst = if recent { link["worst_gap_ms"].as_u64().unwrap_or(0) } else { 0 };
    ((link["received"].as_u64().unwrap_or(0) - before) * 100 / due, worst)
}

#[test]
fn heartbeats_keep_their_pace_under_a_load_that_starves_ordinary_threads() {
    let name = "heartbeats_keep_their_pace_under_a_load_that_starves_ordinary_threads";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let with = Plan { arbitration: "manual", ..Plan::default() };
    let without = Plan { cluster: "realtime = \"off\"\n".to_string(), ..with.clone() };
    let mut pair = Pair::start("realtime", &with);
    let realtime = status(&pair, "beta")["realtime"].clone();
    if let Some(why) = realtime["threads_problem"].as_str() {
        need::skip(name, &format!("real-time threads are {why}"));
        return;
    }
    assert_eq!((&realtime["threads"], &realtime["memory_problem"]), (&Value::Bool(true), &Value::Null));
    let (pace, worst) = under_load(&pair, "beta");
    harness::say(&format!("real-time threads: {pace} % of the heartbeats, worst gap {worst} ms"));
    assert_eq!(pair.volume("alpha")["serving"], true);
    let links = pair.node("beta").run(&["twinfs", "status", "--links"]).out;
    assert!(links.contains("load       real-time threads, memory locked"), "{links}");

    pair.restart_with(&without);
    let (pace_off, worst_off) = under_load(&pair, "beta");
    harness::say(&format!("ordinary threads: {pace_off} % of the heartbeats, worst gap {worst_off} ms"));
    assert_eq!(status(&pair, "beta")["realtime"]["threads"], false);
    assert!(pace >= 90 && worst < 500, "load holds up the heartbeats: {pace} %, {worst} ms");
    // How much the same load starves depends on the kernel and on what else runs: at least it holds up more.
    assert!(
        worst_off > worst || pace_off < pace,
        "the load starved nobody, so this test shows nothing: {pace_off} %, {worst_off} ms"
    );
}
