//! What a pair says of itself: why it is so, from a recorded file as well, and what happened on both nodes.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::{Duration, Instant};

use harness::need;
use harness::node::{Node, Ran};
use harness::pair::{Pair, Plan};
use nix::sys::signal::Signal;
use serde_json::Value;

fn small() -> Plan {
    Plan { size: "64MiB", ..Plan::default() }
}

fn explained(node: &Node) -> Value {
    let ran = node.run(&["twinfs", "explain", "data", "--json"]).ok();
    serde_json::from_str(ran.out.lines().next().expect("one object")).expect("JSON")
}

/// One line on standard error, with these words, and this exit code.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &str) {
    assert_eq!((ran.code, ran.err.trim_end().lines().count()), (code, 1), "{}", ran.err);
    assert!(ran.err.contains(words), "{}", ran.err);
}

#[test]
fn a_node_says_why_it_is_so_and_a_file_says_the_same_elsewhere() {
    let name = "a_node_says_why_it_is_so_and_a_file_says_the_same_elsewhere";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::start("explain", &small());
    pair.wait_in_sync("alpha");
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    let (primary, secondary) = (explained(alpha), explained(beta));
    assert_eq!(primary["serve"]["bar"], "serves", "{primary}");
    // It served before it had a peer.
    assert_eq!(primary["served"]["right"], "sole", "{primary}");
    assert_eq!(secondary["serve"]["bar"], "peer-primary", "{secondary}");
    assert_eq!(secondary["alone"]["bar"], "talking", "{secondary}");
    assert_eq!((&primary["agrees"], &secondary["agrees"]), (&true.into(), &true.into()));
    let text = beta.run(&["twinfs", "explain"]).ok().out;
    harness::say(&text);
    for words in
        ["data on beta: secondary, in-sync", "no: alpha is primary by record", "row ", "the same answers"]
    {
        assert!(text.contains(words), "{words}:\n{text}");
    }
    refused(&beta.run(&["twinfs", "explain", "mail"]), 2, "no volume mail");
    beta.run(&["twinfs", "explain", "--record", "/before.json"]).ok();
    refused(&beta.run(&["twinfs", "explain", "--record", "/before.json"]), 1, "not written");

    // The primary's machine dies: its peer says by which right it serves.
    alpha.signal("twinfs daemon", Signal::SIGKILL);
    alpha.kill_all();
    pair.wait_serving("beta");
    let beta = pair.node("beta");
    let alone = explained(beta);
    assert_eq!(alone["went_alone"]["right"], "won", "{alone}");
    assert_eq!((&alone["served"]["right"], &alone["agrees"]), (&"sole".into(), &true.into()), "{alone}");
    let events = beta.run(&["twinfs", "events", "data"]).ok().out;
    assert!(events.contains("; by the word of the witness"), "{events}");
    beta.run(&["twinfs", "explain", "--record", "/after.json"]).ok();

    // Without any daemon the files say what was.
    beta.kill_all();
    refused(&beta.run(&["twinfs", "explain"]), 3, "not running");
    let before = beta.run(&["twinfs", "explain", "--from", "/before.json"]).ok().out;
    assert!(before.contains("data on beta: secondary, in-sync"), "{before}");
    assert!(
        before.contains("no: alpha is primary by record") && before.contains("the same answers"),
        "{before}"
    );
    let after = beta.run(&["twinfs", "explain", "--from", "/after.json", "--json"]).ok().out;
    let after: Value = serde_json::from_str(after.trim()).expect("JSON");
    assert_eq!((&after["went_alone"]["right"], &after["schema"]), (&"won".into(), &1.into()), "{after}");

    // A file that was tampered with says so; one that is none is refused.
    beta.sh("sed 's/\"confirmed\": true/\"confirmed\": false/' /before.json > /bent.json").ok();
    let bent = beta.run(&["twinfs", "explain", "--from", "/bent.json"]);
    assert_eq!(bent.code, 1, "{}", bent.err);
    assert!(bent.out.contains("OTHER answers"), "{}", bent.out);
    let spoilt = [
        ("head -c 300 /before.json", "is no recorded situation"),
        ("echo '{}'", "is no recorded situation"),
        ("head -c 2000000 /dev/zero", "more than 1048576 bytes"),
        ("head -c 1000 /dev/urandom", "is no recorded situation"),
        ("sed 's/\"twinfs_situation\": 1/\"twinfs_situation\": 9/' /before.json", "schema 9"),
        ("sed 's/\"held\"/\"hold\"/' /before.json", "is damaged: unknown field"),
    ];
    for (make, words) in spoilt {
        beta.sh(&format!("{make} > /bad.json")).ok();
        refused(&beta.run(&["twinfs", "explain", "--from", "/bad.json"]), 2, words);
    }
    refused(&beta.run(&["twinfs", "explain", "--from", "/missing.json"]), 2, "cannot be read");
    refused(
        &beta.run(&["twinfs", "explain", "other", "--from", "/before.json"]),
        2,
        "there is no volume other",
    );
}

/// The head and the nodes of the events of `twinfs history`.
fn history(node: &Node) -> (Value, Vec<Value>) {
    let ran = node.run(&["twinfs", "history", "-n", "200", "--json"]).ok();
    let mut objects = ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    (objects.next().expect("a head"), objects.collect())
}

#[test]
fn the_history_of_both_nodes_is_one_story_and_that_of_one_if_the_other_is_away() {
    let name = "the_history_of_both_nodes_is_one_story_and_that_of_one_if_the_other_is_away";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::start("history", &small());
    pair.wait_in_sync("alpha");
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    let of = |events: &[Value], node: &str| events.iter().filter(|event| event["node"] == node).count();
    for node in [alpha, beta] {
        let (head, events) = history(node);
        assert_eq!(head["peer_problem"], Value::Null, "{head}");
        // One machine, one clock.
        let (ahead, uncertain) =
            (head["peer_ahead_ms"].as_i64().unwrap(), head["uncertain_ms"].as_i64().unwrap());
        assert!(ahead.abs() <= uncertain && uncertain < 2_000, "{head}");
        assert!(of(&events, "alpha") >= 3 && of(&events, "beta") >= 3, "{events:?}");
        let times: Vec<u64> = events.iter().map(|event| event["here_unix_ms"].as_u64().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
    }
    let text = alpha.run(&["twinfs", "history", "data"]).ok().out;
    harness::say(&text);
    assert!(text.starts_with("of alpha and beta; their clocks agree within "), "{text}");
    refused(&alpha.run(&["twinfs", "history", "mail"]), 2, "no volume mail");

    // Stopped, it accepts what it never answers: bounded, and its own part is shown.
    beta.signal("twinfs daemon", Signal::SIGSTOP);
    let began = Instant::now();
    let (head, events) = history(alpha);
    let took = began.elapsed();
    let quiet = || alpha.run(&["twinfs", "events"]).out.contains("on every path (warntime)");
    let told = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        quiet()
    });
    beta.signal("twinfs daemon", Signal::SIGCONT);
    assert!(told, "nobody said that beta fell silent");
    assert!(took < Duration::from_millis(3_500), "it took {took:?}");
    assert!(head["peer_problem"].is_string() && head["peer_ahead_ms"].is_null(), "{head}");
    assert!(of(&events, "alpha") >= 3 && of(&events, "beta") == 0, "{events:?}");
}
