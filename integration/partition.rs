//! Cut cables and a stopped primary, with a witness: who serves, what is acknowledged, and that all is well after.
//!
//! A writer on the primary appends numbered records with fsync and notes, outside the volume, when each began and when
//! it was acknowledged. Nothing may be acknowledged that is not in the file of whoever serves in the end, and nothing
//! by the old primary once another node has taken over. Nobody types a command to repair anything.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::need;
use harness::node::{Node, Running};
use harness::pair::{MOUNT, Pair, Plan};
use nix::sys::signal::Signal;

/// Appends until it fails; `ARGV[0]` is its mark in the file, `ARGV[1]` where it notes.
const WRITER: &str = r#"
use strict; use IO::Handle; use Time::HiRes qw(time sleep);
my ($mark, $notes) = @ARGV;
open(my $log, ">>", "/replicated/log") or exit 2;
open(my $out, ">>", $notes) or exit 2;
$out->autoflush(1);
for (my $n = 0; ; $n++) {
  my $start = time;
  syswrite($log, sprintf("%s %08d\n", $mark, $n)) or exit 3;
  $log->sync or exit 4;
  printf $out "%d %.6f %.6f\n", $n, $start, time;
  sleep 0.002;
}
"#;

struct Writer {
    mark: &'static str,
    notes: std::path::PathBuf,
    running: Running,
}

/// One acknowledged record: number, beginning, acknowledgement.
type Note = (u64, f64, f64);

impl Writer {
    fn start(node: &Node, mark: &'static str) -> Writer {
        let notes = node.dir.join(format!("notes-{mark}"));
        let path = notes.display().to_string();
        let running = node.spawn(&format!("writer-{mark}.log"), &["perl", "-e", WRITER, mark, &path]);
        let writer = Writer { mark, notes, running };
        assert!(
            harness::wait_for(Duration::from_secs(20), || writer.notes().len() > 50),
            "{mark}: nothing is written"
        );
        writer
    }

    fn notes(&self) -> Vec<Note> {
        let text = std::fs::read_to_string(&self.notes).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
            })
            .collect()
    }

    /// What became of the program: its next call failed (and how), or it waits for an answer that does not come.
    fn fate(&mut self) -> String {
        match self.running.wait(Duration::from_millis(500)) {
            None => "its next call hangs".to_string(),
            Some(0) => panic!("{}: the writer ended without an error", self.mark),
            Some(3) => "its next write failed".to_string(),
            Some(4) => "its next fsync failed".to_string(),
            Some(code) => panic!("{}: the writer ended with {code}", self.mark),
        }
    }

    /// Every acknowledged record is in the file that `node` serves.
    fn check(&self, node: &Node) {
        // First what was acknowledged, then the file: the writer may still be at work.
        let notes = self.notes();
        let file = node.sh(&format!("cat {MOUNT}/log")).ok().out;
        let there: std::collections::BTreeSet<&str> = file.lines().collect();
        let lost: Vec<&Note> = notes
            .iter()
            .filter(|(n, ..)| !there.contains(format!("{} {n:08}", self.mark).as_str()))
            .collect();
        assert!(
            lost.is_empty(),
            "{}: {} of {} acknowledged records are lost: {lost:?}",
            self.mark,
            lost.len(),
            notes.len()
        );
        harness::say(&format!("{}: {} records acknowledged, {} lost", self.mark, notes.len(), lost.len()));
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Waits until `pair` is in sync again under `primary`, writes there, and compares the images.
fn all_is_well(pair: &mut Pair, primary: &str, writers: &[&Writer]) {
    pair.wait_in_sync(primary);
    for writer in writers {
        writer.check(pair.node(primary));
    }
    let other = if primary == "alpha" { "beta" } else { "alpha" };
    assert_ne!(pair.volume(other)["serving"], true, "two primaries");
    pair.node(primary).sh(&format!("echo well > {MOUNT}/well && sync {MOUNT}/well")).ok();
    pair.compare_images();
}

#[test]
fn a_witness_seen_by_both_leaves_the_volume_with_the_primary() {
    let name = "a_witness_seen_by_both_leaves_the_volume_with_the_primary";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let mut pair = Pair::start("partition-both", &Plan::default());
    let writer = Writer::start(pair.node("alpha"), "alpha");
    pair.world.part("alpha", "beta");
    let cut = now();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone" && volume["serving"] == true);
    let goes_on = harness::wait_for(Duration::from_secs(20), || {
        writer.notes().iter().any(|(_, start, _)| *start > cut + 3.0)
    });
    assert!(goes_on, "the primary does not go on alone: {}", pair.volume("alpha"));
    // Well past the deadtime the secondary still does not serve: the witness has given its word.
    std::thread::sleep(Duration::from_secs(6));
    assert_ne!(pair.volume("beta")["serving"], true, "two primaries");
    pair.world.heal();
    all_is_well(&mut pair, "alpha", &[&writer]);
}

#[test]
fn a_witness_seen_by_the_secondary_only_moves_the_volume_and_the_old_primary_acknowledges_nothing_more() {
    let name =
        "a_witness_seen_by_the_secondary_only_moves_the_volume_and_the_old_primary_acknowledges_nothing_more";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let mut pair = Pair::start("partition-secondary", &Plan::default());
    let mut old = Writer::start(pair.node("alpha"), "alpha");
    pair.world.part("alpha", "beta");
    pair.world.part("alpha", "gamma");
    let cut = now();
    pair.wait_serving("beta");
    let taken = now();
    let new = Writer::start(pair.node("beta"), "beta");
    nothing_late(&old, taken);
    harness::say(&format!(
        "takeover {:.1} s after the cut; the old primary's writer: {}",
        taken - cut,
        old.fate()
    ));
    pair.world.heal();
    all_is_well(&mut pair, "beta", &[&old, &new]);
    nothing_late(&old, taken);
}

#[test]
fn a_primary_stopped_past_the_deadtime_acknowledges_nothing_when_it_wakes() {
    let name = "a_primary_stopped_past_the_deadtime_acknowledges_nothing_when_it_wakes";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let mut pair = Pair::start("partition-stop", &Plan::default());
    let mut old = Writer::start(pair.node("alpha"), "alpha");
    pair.node("alpha").signal("twinfs daemon", Signal::SIGSTOP);
    let stopped = now();
    pair.wait_serving("beta");
    let taken = now();
    let new = Writer::start(pair.node("beta"), "beta");
    pair.node("alpha").signal("twinfs daemon", Signal::SIGCONT);
    std::thread::sleep(Duration::from_secs(2));
    harness::say(&format!(
        "takeover {:.1} s after the stop; the old primary's writer: {}",
        taken - stopped,
        old.fate()
    ));
    all_is_well(&mut pair, "beta", &[&old, &new]);
    nothing_late(&old, taken);
}

#[test]
fn a_switchover_under_a_writer_loses_nothing_and_comes_back() {
    let name = "a_switchover_under_a_writer_loses_nothing_and_comes_back";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let mut pair = Pair::start("partition-switchover", &Plan::default());
    let mut old = Writer::start(pair.node("alpha"), "alpha");
    let asked = now();
    pair.node("alpha").run(&["twinfs", "switchover"]).ok();
    pair.wait_serving("beta");
    let taken = now();
    harness::say(&format!("switchover {:.1} s; the old writer: {}", taken - asked, old.fate()));
    assert!(taken - asked < 10.0, "a planned change waits for no timer");
    nothing_late(&old, taken);
    let new = Writer::start(pair.node("beta"), "beta");
    pair.node("beta").run(&["twinfs", "switchover"]).ok();
    pair.wait_serving("alpha");
    all_is_well(&mut pair, "alpha", &[&old, &new]);
}

/// Nothing was acknowledged by the old primary after the takeover, however early it began.
fn nothing_late(old: &Writer, taken: f64) {
    let late: Vec<Note> =
        old.notes().into_iter().filter(|(.., acknowledged)| *acknowledged > taken).collect();
    assert!(late.is_empty(), "acknowledged by the old primary after the takeover at {taken}: {late:?}");
}

/// Every packet of one path is lost, both ways and without a word to anybody.
fn swallow(pair: &Pair, path: usize) {
    for (one, other) in [("alpha", "beta"), ("beta", "alpha")] {
        pair.node(one).drop_from(&pair.world.address(other, path));
    }
}

#[test]
fn a_path_that_swallows_the_stream_is_left_within_a_second_and_both_stay_in_sync() {
    let name = "a_path_that_swallows_the_stream_is_left_within_a_second_and_both_stay_in_sync";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    // Without the other path the primary would wait for 1.9 s and go on alone.
    let plan =
        Plan { arbitration: "manual", paths: 2, slow_peer: "1900ms", encrypt: "off", ..Plan::default() };
    let mut pair = Pair::start("partition-paths", &plan);
    let mut writers = Vec::new();
    for primary in ["alpha", "beta"] {
        if primary == "beta" {
            pair.node("alpha").run(&["twinfs", "switchover"]).ok();
            pair.wait_in_sync("beta");
        }
        let record = pair.volume(primary)["record_v"].clone();
        let writer = Writer::start(pair.node(primary), primary);
        // Whichever carries the stream, it is among them.
        for path in [0, 1] {
            swallow(&pair, path);
            std::thread::sleep(Duration::from_secs(3));
            pair.world.heal();
            std::thread::sleep(Duration::from_secs(3));
        }
        let longest = writer.notes().iter().map(|(_, began, done)| done - began).fold(0.0, f64::max);
        harness::say(&format!("{primary} primary: the longest write took {longest:.2} s"));
        assert!(longest > 0.3, "the path that was cut did not carry the stream");
        assert!(longest < 1.0, "a write waited for {longest:.2} s");
        assert!(!record.is_null(), "no record to compare");
        assert_eq!(pair.volume(primary)["record_v"], record, "the members changed");
        writers.push(writer);
    }
    let writers: Vec<&Writer> = writers.iter().collect();
    all_is_well(&mut pair, "beta", &writers);
}

/// `twinfs --json status`: what it says, and its exit code.
fn status(pair: &Pair, node: &str) -> (serde_json::Value, i32) {
    let ran = pair.node(node).run(&["twinfs", "--json", "status", "--links"]);
    (serde_json::from_str(&ran.out).expect("JSON"), ran.code)
}

#[test]
fn a_path_that_is_silent_lossy_or_one_way_is_said_by_status_and_its_lateness_by_one_event() {
    let name = "a_path_that_is_silent_lossy_or_one_way_is_said_by_status_and_its_lateness_by_one_event";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan { arbitration: "manual", paths: 2, encrypt: "off", ..Plan::default() };
    let pair = Pair::start("partition-links", &plan);
    let healthy = || harness::wait_for(Duration::from_secs(20), || status(&pair, "alpha").1 == 0);
    assert!(healthy(), "{:#}", status(&pair, "alpha").0);
    let (at_first, _) = status(&pair, "alpha");
    assert_eq!(at_first["encrypt"], false);
    for link in at_first["links"].as_array().expect("links") {
        assert!(link["problem"].is_null() && link["lost"] == 0, "{link:#}");
        assert!(link["received"].as_u64() > Some(0), "{link:#}");
    }
    let text = pair.node("alpha").run(&["twinfs", "status"]).out;
    assert!(text.contains("NOT ENCRYPTED") && !text.contains("path 2"), "{text}");
    // Silent: long enough to be late, not long enough to be told as gone.
    swallow(&pair, 1);
    let down = || status(&pair, "alpha").0["links"][1]["down"] == true;
    assert!(harness::wait_for(Duration::from_secs(8), down), "{:#}", status(&pair, "alpha").0);
    let (seen, code) = status(&pair, "alpha");
    assert_eq!(
        (code, &seen["volumes"][0]["health"], &seen["links"][0]["down"]),
        (4, &"ok".into(), &false.into())
    );
    let text = pair.node("alpha").run(&["twinfs", "status"]).out;
    assert!(
        text.contains("path 2") && text.contains("silent for") && text.contains("look at path 2"),
        "{text}"
    );
    pair.world.heal();
    assert!(healthy(), "{:#}", status(&pair, "alpha").0);
    let link = status(&pair, "alpha").0["links"][1].clone();
    assert!(link["lost"].as_u64() >= Some(4) && link["late"] == 1, "{link:#}");
    assert!(link["worst_gap_ms"].as_u64() >= Some(1_000), "{link:#}");
    assert_eq!(status(&pair, "alpha").0["links"][0]["lost"], 0, "the other path lost nothing");
    let events = pair.node("alpha").run(&["twinfs", "--json", "events"]).ok().out;
    let told = |name: &str| events.lines().filter(|line| line.contains(&format!("\"{name}\""))).count();
    assert_eq!((told("heartbeats-late"), told("path-down")), (1, 0), "{events}");
    assert!(events.contains("were lost on the way"), "{events}");
    // One way: beta is heard, and hears nothing.
    pair.node("beta").drop_from(&pair.world.address("alpha", 1));
    let one_way = || {
        let problem = status(&pair, "alpha").0["links"][1]["problem"].clone();
        problem.as_str().is_some_and(|problem| problem.contains("one way only"))
    };
    assert!(harness::wait_for(Duration::from_secs(25), one_way), "{:#}", status(&pair, "alpha").0);
    pair.world.heal();
    let links = pair.node("alpha").run(&["twinfs", "status", "--links"]).out;
    harness::say(&links);
    assert!(links.lines().all(|line| line.len() <= 80) && links.contains("round trip"), "{links}");
    // Silence of one path is none of the pair's, and a few seconds are too little to judge by.
    let advise = pair.node("alpha").run(&["twinfs", "--json", "advise"]);
    let said: serde_json::Value = serde_json::from_str(&advise.out).expect("JSON");
    assert_eq!((advise.code, &said["judgement"]), (75, &"too-little-seen".into()), "{said:#}");
    assert_eq!((&said["together"]["late"], &said["suggested_ms"]), (&0.into(), &serde_json::Value::Null));
    assert!(said["paths"][1]["late"].as_u64() >= Some(1), "{said:#}");
    // All of them silent for more than half the lease: known at once to be too long.
    swallow(&pair, 0);
    swallow(&pair, 1);
    std::thread::sleep(Duration::from_millis(1_500));
    pair.world.heal();
    let short = || pair.node("alpha").run(&["twinfs", "advise"]).code == 4;
    assert!(
        harness::wait_for(Duration::from_secs(8), short),
        "{}",
        pair.node("alpha").run(&["twinfs", "advise"]).out
    );
    harness::say(&pair.node("alpha").run(&["twinfs", "advise"]).out);
}

/// Notes what it is told, and hangs for a takeover.
const TOLD: &str = r#"#!/bin/sh
echo "$1 $2 $3 $4 $5 reads $(cat)" >> /run/told
[ "$2" != takeover ] || sleep 600
"#;

#[test]
fn a_takeover_is_told_on_both_nodes_by_a_program_that_holds_nothing_up() {
    let name = "a_takeover_is_told_on_both_nodes_by_a_program_that_holds_nothing_up";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let section =
        "\n[notify]\nrun = [\"/usr/local/sbin/told\", \"-x\"]\ntimeout = \"1s\"\ndegraded_after = \"2s\"\n";
    let mut pair = Pair::prepare("notify", &Plan { volume: section.to_string(), ..Plan::default() });
    let missing = pair.node("alpha").run(&["twinfs", "config", "check"]).ok();
    assert!(missing.out.contains("/usr/local/sbin/told"), "{}", missing.out);
    for name in ["alpha", "beta"] {
        let node = pair.node(name);
        std::fs::write(node.dir.join("told"), TOLD).expect("program");
        let place = "/usr/local/sbin/told";
        node.sh(&format!("cp {}/told {place} && chmod 755 {place}", node.dir.display())).ok();
    }
    let there = pair.node("alpha").run(&["twinfs", "config", "check"]).ok();
    assert!(!there.out.contains("cannot be run"), "{}", there.out);
    pair.start_witness();
    pair.start_daemon("alpha");
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    let told = |pair: &Pair, name: &str, word: &str| {
        let all = pair.node(name).sh("cat /run/told 2>&1 || true").out;
        all.lines()
            .filter(|line| line.starts_with(&format!("-x {word} ")))
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    let wait_told = |pair: &Pair, name: &str, word: &str| {
        let told = || told(pair, name, word);
        assert!(
            harness::wait_for(Duration::from_secs(20), || !told().is_empty()),
            "{name} was not told of {word}"
        );
        told()
    };
    pair.node("alpha").run(&["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    pair.node("beta").run(&["twinfs", "switchover"]).ok();
    pair.wait_in_sync("alpha");
    pair.node("alpha").signal("twinfs daemon", Signal::SIGKILL);
    pair.wait_serving("beta");
    let first = wait_told(&pair, "beta", "takeover");
    assert!(first[0].starts_with("-x takeover data beta alpha reads {"), "{first:?}");
    let json = first[0].split_once("reads ").map_or("", |(_, json)| json);
    let json: serde_json::Value = serde_json::from_str(json).expect("one JSON object");
    assert_eq!((json["event"].as_str(), json["node"].as_str()), (Some("takeover"), Some("beta")));
    assert!(
        json["text"].as_str().is_some_and(|text| text.contains("beta took data over from alpha")),
        "{json}"
    );
    let late = wait_told(&pair, "beta", "degraded");
    assert_eq!(late.len(), 1, "{late:?}");
    assert_eq!(
        told(&pair, "alpha", "takeover"),
        Vec::<String>::new(),
        "a planned change, or a dead node's hook"
    );
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    wait_told(&pair, "alpha", "takeover");
    std::thread::sleep(Duration::from_secs(4));
    for name in ["alpha", "beta"] {
        assert_eq!(told(&pair, name, "takeover").len(), 1, "{name}");
        assert!(pair.node(name).pids_of("told").is_empty(), "{name}: a hung program is left");
        let events = pair.node(name).run(&["twinfs", "events"]).out;
        assert_eq!(events.matches("could not be told of a takeover").count(), 1, "{name}: {events}");
    }
    pair.compare_images();
}

/// What users cannot reach is moved, and what nobody can reach is not.
#[test]
fn a_primary_that_reaches_no_ping_target_hands_over_to_one_that_does_and_a_tie_moves_nothing() {
    let name = "a_primary_that_reaches_no_ping_target_hands_over_to_one_that_does_and_a_tie_moves_nothing";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let cluster = "ping = [\"192.0.2.13\"]\n".to_string();
    let plan = Plan { arbitration: "yield", cluster, ..Plan::default() };
    let mut pair = Pair::start("partition-ping", &plan);
    let reaches = |pair: &Pair, name: &str| pair.volume(name)["reaches_nobody"] == false;
    let both = |pair: &Pair| reaches(pair, "alpha") && reaches(pair, "beta");
    assert!(harness::wait_for(Duration::from_secs(20), || both(&pair)), "{:#}", pair.volume("alpha"));
    let old = Writer::start(pair.node("alpha"), "alpha");
    // The peer has to have reached it for three deadtimes.
    std::thread::sleep(Duration::from_secs(13));
    pair.world.part("alpha", "gamma");
    pair.wait_in_sync("beta");
    let events = pair.node("alpha").run(&["twinfs", "events", "-n", "1000"]).out;
    assert!(events.contains("no ping target answers this node and one answers beta"), "{events}");
    // Now neither does.
    pair.world.part("beta", "gamma");
    let new = Writer::start(pair.node("beta"), "beta");
    std::thread::sleep(Duration::from_secs(20));
    pair.wait_in_sync("beta");
    assert_ne!(pair.volume("alpha")["serving"], true, "a tie moved it");
    pair.world.heal();
    assert!(harness::wait_for(Duration::from_secs(20), || both(&pair)), "{:#}", pair.volume("alpha"));
    all_is_well(&mut pair, "beta", &[&old, &new]);
}

/// What the classic pairs did, with its price: a takeover when the deadtime is over, and two primaries when every link
/// is cut, which is found at the first contact and never lets the two copies mix.
#[test]
fn where_silence_decides_a_dead_primary_is_replaced_and_a_full_cut_makes_two_that_are_kept_apart() {
    let name =
        "where_silence_decides_a_dead_primary_is_replaced_and_a_full_cut_makes_two_that_are_kept_apart";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let plan = Plan {
        arbitration: "deadtime",
        paths: 2,
        cluster: "i_accept_split_brain = \"yes, losing writes go to salvage\"\n\
                  after_split_brain = \"manual\"\n"
            .into(),
        deadtime: "30s",
        initdead: "60s",
        ..Plan::default()
    };
    let mut pair = Pair::start("partition-silence", &plan);
    pair.node("alpha").sh(&format!("echo one > {MOUNT}/one && sync {MOUNT}/one")).ok();
    pair.node("alpha").kill_all();
    let dead = now();
    pair.wait_serving("beta");
    let took = now() - dead;
    harness::say(&format!("takeover {took:.1} s after the death, deadtime 30 s"));
    assert!((29.0..33.0).contains(&took), "{took:.1} s");
    assert_eq!(pair.node("beta").sh(&format!("cat {MOUNT}/one")).ok().out, "one\n");
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    pair.world.part("alpha", "beta");
    pair.wait_serving("alpha");
    for node in ["alpha", "beta"] {
        assert_eq!(pair.volume(node)["serving"], true, "{node} does not serve");
        pair.node(node).sh(&format!("echo {node} > {MOUNT}/{node} && sync {MOUNT}/{node}")).ok();
    }
    let (_, code) = status(&pair, "alpha");
    assert_ne!(code, 0, "the status says that all is well");
    pair.world.heal();
    for node in ["alpha", "beta"] {
        pair.wait(node, "diverged", |volume| volume["state"] == "diverged");
    }
    // Neither copy took anything from the other.
    for (node, other) in [("alpha", "beta"), ("beta", "alpha")] {
        let seen = pair.node(node).sh(&format!("ls {MOUNT}")).out;
        if pair.volume(node)["serving"] == true {
            assert!(seen.contains(node) && !seen.contains(other), "{node}: {seen}");
        }
    }
    pair.node("beta").run(&["twinfs", "resolve", "data", "--keep", "beta", "--confirm", "alpha"]).ok();
    pair.wait_in_sync("beta");
    let kept = pair.node("beta").sh(&format!("cat {MOUNT}/beta")).ok().out;
    assert_eq!(kept, "beta\n");
    pair.compare_images();
}
