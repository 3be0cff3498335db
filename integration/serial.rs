//! Heartbeats over a serial cable beside the network: a peer that is heard on it alone is alive, and one that is heard
//! on nothing is replaced as ever.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::{Duration, Instant};

use harness::cable::Cable;
use harness::need;
use harness::pair::{MOUNT, Pair, Plan};
use nix::sys::signal::Signal;
use serde_json::Value;

/// `twinfs --json status --links`: what it says, and its exit code.
fn status(pair: &Pair, node: &str) -> (Value, i32) {
    let ran = pair.node(node).run(&["twinfs", "--json", "status", "--links"]);
    (serde_json::from_str(&ran.out).unwrap_or_default(), ran.code)
}

/// What `node` knows of the serial line, which comes after the one path.
fn line(pair: &Pair, node: &str) -> Value {
    status(pair, node).0["links"][1].clone()
}

/// Waits until the serial line is as `check` wants it on both nodes.
#[track_caller]
fn wait_line(pair: &Pair, what: &str, check: impl Fn(&Value) -> bool) {
    for node in ["alpha", "beta"] {
        let mut last = Value::Null;
        let reached = harness::wait_for(Duration::from_secs(20), || {
            last = line(pair, node);
            check(&last)
        });
        assert!(reached, "{node}: the serial line is not {what}: {last:#}");
    }
}

fn works(line: &Value) -> bool {
    heard(line) && line["problem"].is_null()
}

/// Heartbeats come. What was lost before may still be said.
fn heard(line: &Value) -> bool {
    line["down"] == false && line["heard_ms"].as_u64().is_some_and(|ms| ms < 1_000)
}

fn start(test: &str, plan: &Plan) -> (Pair, Cable) {
    let mut pair = Pair::prepare(test, plan);
    let cable = Cable::plugged(&pair.world.dir);
    if plan.arbitration == "witness" {
        pair.start_witness();
    }
    for name in ["alpha", "beta"] {
        pair.start_daemon(name);
    }
    pair.wait_in_sync("alpha");
    wait_line(&pair, "used", works);
    (pair, cable)
}

/// Silence alone decides here, so without the line both nodes would serve.
#[test]
fn a_peer_that_is_heard_on_the_serial_line_alone_is_not_replaced() {
    let name = "a_peer_that_is_heard_on_the_serial_line_alone_is_not_replaced";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan {
        arbitration: "deadtime",
        // Ten heartbeats a second are more than it carries.
        serial: Some(9_600),
        cluster: "i_accept_split_brain = \"yes, losing writes go to salvage\"\n\
                  after_split_brain = \"manual\"\n"
            .into(),
        deadtime: "30s",
        initdead: "60s",
        ..Plan::default()
    };
    let (mut pair, cable) = start("serial-alone", &plan);
    pair.world.part("alpha", "beta");
    let (cut, mut longest) = (Instant::now(), 0);
    while cut.elapsed() < Duration::from_secs(36) {
        let beta = pair.volume("beta");
        assert_ne!(beta["serving"], true, "a live primary was replaced: {beta:#}");
        longest = longest.max(beta["peer_heard_ms"].as_u64().expect("it is heard"));
        std::thread::sleep(Duration::from_millis(200));
    }
    pair.node("alpha").sh(&format!("echo on > {MOUNT}/on && sync {MOUNT}/on")).ok();
    let (seen, code) = status(&pair, "beta");
    let links = &seen["links"];
    assert_ne!(code, 0, "all is well, it says");
    assert!(links[0]["down"] == true && links[0]["serial"] == false, "{links:#}");
    assert!(links[1]["serial"] == true && works(&links[1]), "{links:#}");
    // What a slow line is not given is not lost on it.
    assert!(links[1]["received"].as_u64() > Some(100), "{links:#}");
    assert!(links[1]["loss_permille"].as_u64() < Some(50), "{links:#}");
    assert!(
        links[1]["rtt_us"].as_u64() > Some(0) && links[1]["worst_gap_ms"].as_u64() > Some(0),
        "{links:#}"
    );
    let asked = |key: &str| links[1][key].as_u64().expect("probes are counted");
    assert!(asked("answers") * 10 > asked("probes") * 9, "a busy line has no room for them: {links:#}");
    let text = pair.node("beta").run(&["twinfs", "status"]).out;
    assert!(text.contains("path 1") && text.contains("serial line, which carries no data"), "{text}");
    let links = pair.node("beta").run(&["twinfs", "status", "--links"]).out;
    assert!(links.contains("serial-beta@9600 to ") && links.contains("heartbeats only"), "{links}");
    harness::say(&format!("{links}\nthe longest time without a heartbeat: {longest} ms"));
    let advise = pair.node("beta").run(&["twinfs", "--json", "advise"]);
    let said: Value = serde_json::from_str(&advise.out).expect("JSON");
    assert!(
        said["paths"][1]["remote"].as_str().is_some_and(|end| end.contains("serial-alpha@9600")),
        "{said:#}"
    );
    pair.world.heal();
    pair.wait_in_sync("alpha");
    assert_eq!(status(&pair, "beta").0["volumes"][0]["state"], "in-sync", "they did not part");
    drop(cable);
    pair.compare_images();
}

#[test]
fn an_unplugged_line_is_told_and_taken_up_again_and_without_it_a_dead_primary_is_replaced_as_ever() {
    let name =
        "an_unplugged_line_is_told_and_taken_up_again_and_without_it_a_dead_primary_is_replaced_as_ever";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan { serial: Some(115_200), ..Plan::default() };
    let (mut pair, mut cable) = start("serial-unplugged", &plan);
    let check = pair.node("alpha").run(&["twinfs", "--json", "config", "check"]).ok().out;
    assert!(check.contains("\"serial_problems\":[]"), "{check}");
    let record = pair.volume("alpha")["record_v"].clone();

    // The devices go, as those of USB adapters do.
    cable.unplug();
    wait_line(&pair, "named", |line| {
        line["down"] == true
            && line["problem"].as_str().is_some_and(|why| why.contains("cannot be used: No such"))
    });
    assert_eq!(status(&pair, "alpha").1, 4, "a line that is gone is one cut less that is survived");
    let check = pair.node("alpha").run(&["twinfs", "config", "check"]).ok().out;
    assert!(check.contains("serial-alpha@115200: No such file"), "{check}");
    cable.plug();
    wait_line(&pair, "used again", heard);

    // The cable is cut, and both devices stay.
    cable.cut(true);
    wait_line(&pair, "silent", |line| {
        line["down"] == true && line["problem"].as_str().is_some_and(|why| why.contains("silent for"))
    });
    let told = |event: &str| pair.node("beta").run(&["twinfs", "--json", "events"]).out.contains(event);
    assert!(harness::wait_for(Duration::from_secs(20), || told("\"path-down\"")), "nobody is told");
    cable.cut(false);
    wait_line(&pair, "heard again", heard);
    assert_eq!(pair.volume("alpha")["record_v"], record, "a serial line changed the members");

    // The whole machine, and its cable with it.
    pair.node("alpha").sh(&format!("echo one > {MOUNT}/one && sync {MOUNT}/one")).ok();
    cable.cut(true);
    pair.node("alpha").kill_all();
    let dead = Instant::now();
    pair.wait_serving("beta");
    let took = dead.elapsed();
    harness::say(&format!("takeover {:.1} s after the death, deadtime 4 s", took.as_secs_f64()));
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert_eq!(pair.node("beta").sh(&format!("cat {MOUNT}/one")).ok().out, "one\n");
    cable.cut(false);
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    wait_line(&pair, "heard after the return", heard);
    pair.compare_images();
}

#[test]
fn a_daemon_that_was_killed_is_told_of_over_the_cable_that_is_left() {
    let name = "a_daemon_that_was_killed_is_told_of_over_the_cable_that_is_left";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan { serial: Some(9_600), deadtime: "20s", initdead: "40s", ..Plan::default() };
    let (mut pair, _cable) = start("serial-killed", &plan);
    // Stopped, so that it cannot go on alone before it dies.
    pair.node("alpha").signal("twinfs daemon", Signal::SIGSTOP);
    let silent = Instant::now();
    pair.world.part("alpha", "beta");
    pair.node("alpha").signal("twinfs daemon", Signal::SIGKILL);
    pair.wait_serving("beta");
    let took = silent.elapsed();
    harness::say(&format!("takeover {:.1} s after the last word, deadtime 20 s", took.as_secs_f64()));
    assert!(took < Duration::from_secs(15), "nobody told beta: {took:?}");
    pair.world.heal();
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
}

#[test]
fn what_is_no_serial_line_is_refused_before_it_is_used() {
    let name = "what_is_no_serial_line_is_refused_before_it_is_used";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::prepare("serial-check", &Plan { serial: Some(115_200), ..Plan::default() });
    let alpha = pair.node("alpha");
    let with = |device: &str| {
        let from = harness::cable::device(&pair.world.dir, "alpha");
        let line = format!("s|{}@115200|{device}|", from.display());
        alpha.run(&["sed", &line, "-i.orig", "/etc/twinfs/twinfs.toml"]).ok();
        let ran = alpha.run(&["twinfs", "config", "check"]);
        alpha.run(&["mv", "/etc/twinfs/twinfs.toml.orig", "/etc/twinfs/twinfs.toml"]).ok();
        (ran.code, ran.out + &ran.err)
    };
    for (device, says) in [
        ("/dev/null@115200", "/dev/null@115200: it is no terminal (tty)"),
        ("/dev/ttyS0", "must be DEVICE@BAUD"),
        ("/dev/ttyS0@115201", "115201 is no speed that is known here"),
        ("/dev/ttyS0@9600", "have two speeds"),
    ] {
        let (code, said) = with(device);
        assert!(code == 78 && said.contains(says), "{device}: {code} {said}");
    }
    let (code, said) = with("/dev/ttyNONE0@115200");
    assert!(code == 0 && said.contains("/dev/ttyNONE0@115200: No such file"), "{code} {said}");
}
