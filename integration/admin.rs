//! What an administrator does and sees besides the data path: orders while something is missing, a disk that is
//! replaced, services that die, directories that move while the power goes.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::{Duration, Instant};

use harness::need;
use harness::node::{Node, Ran};
use harness::pair::{MOUNT, Pair, Plan};
use nix::sys::signal::Signal;

fn small() -> Plan {
    Plan { size: "64MiB", ..Plan::default() }
}

fn node_status(node: &Node) -> serde_json::Value {
    let ran = node.run(&["twinfs", "--json", "status"]);
    ran.out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

/// This exit code, one line on standard error with these words.
#[track_caller]
fn refused(node: &Node, words: &[&str], code: i32, said: &[&str]) -> Ran {
    let ran = node.run_within(Duration::from_secs(30), words);
    assert_eq!(ran.code, code, "{words:?}: {}{}", ran.out, ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{words:?}: {}", ran.err);
    for word in said {
        assert!(ran.err.contains(word), "{words:?} says nothing of {word}: {}", ran.err);
    }
    ran
}

#[track_caller]
fn until(what: &str, limit: u64, mut check: impl FnMut() -> bool) {
    assert!(harness::wait_for(Duration::from_secs(limit), &mut check), "not within {limit} s: {what}");
}

#[test]
fn a_silent_witness_is_seen_before_it_is_needed_and_no_order_stops_the_service() {
    let name = "a_silent_witness_is_seen_before_it_is_needed_and_no_order_stops_the_service";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("witness-gone", &small());
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    until("healthy", 20, || alpha.run(&["twinfs", "status"]).code == 0);
    pair.node("gamma").signal("twinfs witness", Signal::SIGKILL);
    until("degraded", 20, || alpha.run(&["twinfs", "status"]).code == 4);
    let status = alpha.run(&["twinfs", "status"]).out;
    assert!(status.contains("does not answer") && status.contains("twinfs witness"), "{status}");
    assert!(node_status(alpha)["witness"]["problem"].is_string());
    let kept = &["stays as it is", "witness"];
    refused(alpha, &["twinfs", "switchover"], 8, kept);
    refused(beta, &["twinfs", "promote"], 8, kept);
    alpha.sh(&format!("echo kept > {MOUNT}/file && sync {MOUNT}/file")).ok();
    // It comes back without its memory: both nodes tell it again, and it can decide.
    pair.node("gamma").sh("rm -rf /var/lib/twinfs-witness").ok();
    pair.start_witness();
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    let known = |node: &Node| {
        let status = node_status(node);
        status["health"] == "ok" && status["volumes"][0]["witness_unknown"] == false
    };
    until("the witness knows the volume", 40, || known(alpha) && known(beta));
    alpha.signal("twinfs daemon", Signal::SIGKILL);
    pair.wait_serving("beta");
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    pair.node("beta").run(&["twinfs", "switchover"]).ok();
    pair.wait_in_sync("alpha");
    assert_eq!(pair.node("alpha").sh(&format!("cat {MOUNT}/file")).ok().out, "kept\n");
}

#[test]
fn a_replaced_copy_is_filled_from_the_other_node_whichever_it_is() {
    let name = "a_replaced_copy_is_filled_from_the_other_node_whichever_it_is";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("replace", &small());
    let sum = format!("sha256sum < {MOUNT}/data");
    pair.node("alpha").sh(&format!("head -c 9000000 /dev/urandom > {MOUNT}/data && sync {MOUNT}/data")).ok();
    let before = pair.node("alpha").sh(&sum).ok().out;
    let replace = &["twinfs", "join", "--replace", "data"];
    for (gone, stays) in [("beta", "alpha"), ("alpha", "beta")] {
        let node = pair.node(gone);
        refused(node, replace, 78, &["in use"]);
        node.run(&["twinfs", "down"]).ok();
        refused(node, &["twinfs", "join", "--replace", "nodata"], 2, &["nodata", "data"]);
        pair.wait_serving(stays);
        pair.node(stays).signal("twinfs daemon", Signal::SIGSTOP);
        refused(pair.node(gone), replace, 6, &["left alone", stays]);
        pair.node(stays).signal("twinfs daemon", Signal::SIGCONT);
        pair.wait_serving(stays);
        pair.node(gone).run(replace).ok();
        assert!(pair.node(gone).sh("ls /var/lib/twinfs").ok().out.contains("data.img.replaced-"));
        pair.start_daemon(gone);
        pair.wait_in_sync(stays);
        pair.node(stays).run(&["twinfs", "switchover"]).ok();
        pair.wait_in_sync(gone);
        assert_eq!(pair.node(gone).sh(&sum).ok().out, before, "{gone} has another file");
    }
    // Alone by its own record: the only current copy is not given up, whatever the other one says.
    pair.node("beta").run(&["twinfs", "down"]).ok();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone");
    pair.node("alpha").run(&["twinfs", "down"]).ok();
    refused(pair.node("alpha"), replace, 6, &["left alone"]);
    for node in ["alpha", "beta"] {
        pair.start_daemon(node);
    }
    pair.wait_in_sync("alpha");
    pair.compare_images();
}

#[test]
fn every_order_that_cannot_be_carried_out_ends_with_its_code_and_one_line() {
    let name = "every_order_that_cannot_be_carried_out_ends_with_its_code_and_one_line";
    if !need::have_nodes(name, &[("setpriv", "util-linux")]) {
        return;
    }
    let mut pair = Pair::prepare("orders", &small());
    let alpha = pair.node("alpha");
    let verbs =
        ["status", "promote", "demote", "switchover", "connect", "disconnect", "sync", "events", "down"];
    for verb in verbs {
        refused(alpha, &["twinfs", verb], 3, &["not running", "twinfs up"]);
        let line = alpha.run(&["twinfs", "--json", verb]).out;
        let object: serde_json::Value = serde_json::from_str(line.trim()).expect("one JSON object");
        assert_eq!((&object["schema"], &object["exit"]), (&1.into(), &3.into()), "{verb}: {line}");
    }
    for words in [&["twinfs", "adopt", "/srv"], &["twinfs", "release", "/srv"]] {
        refused(alpha, words, 3, &["not running"]);
    }
    refused(alpha, &["twinfs", "create-md", "data"], 2, &["twinfs init", "twinfs join"]);
    refused(alpha, &["twinfs", "statsu"], 2, &["status", "--help"]);
    refused(alpha, &["twinfs", "status", "--wtach"], 2, &["--watch", "twinfs status --help"]);
    refused(alpha, &["twinfs", "mkfs", "/var/lib/twinfs/data.img"], 6, &["-f", "twinfs image"]);
    refused(alpha, &["twinfs", "mkfs", "/tmp/none"], 2, &["size"]);
    pair.start_witness();
    pair.start_daemon("alpha");
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    let nobody = ["setpriv", "--reuid", "65534", "--clear-groups"];
    for verb in verbs.iter().chain(&["up", "daemon"]) {
        let ran = refused(alpha, &[&nobody[..], &["twinfs", verb]].concat(), 77, &["root"]);
        assert!(ran.out.is_empty(), "{verb}: {}", ran.out);
    }
    refused(alpha, &[&nobody[..], &["twinfs", "config", "check"]].concat(), 77, &["root"]);
    assert_eq!(
        alpha.sh("stat -c %a /var/lib/twinfs/data.img").ok().out,
        "600\n",
        "others can read everything"
    );
    for verb in &verbs[1..7] {
        refused(alpha, &["twinfs", verb, "other"], 2, &["other", "data"]);
    }
    refused(beta, &["twinfs", "sync"], 7, &["primary"]);
    refused(beta, &["twinfs", "adopt", "/srv"], 7, &["alpha"]);
    // Idempotent: what is so already is done.
    alpha.run(&["twinfs", "up"]).ok();
    alpha.run(&["twinfs", "promote"]).ok();
    alpha.run(&["twinfs", "primary", "all"]).ok();
    alpha.run(&["twinfs", "connect"]).ok();
    beta.run(&["twinfs", "secondary", "data"]).ok();
    beta.run(&["twinfs", "init"]);
    // No terminal: no colour and no cursor motion; a terminal and --no-color: neither.
    let plain = alpha.run(&["twinfs", "status"]).out;
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let watched = alpha.sh("timeout 2.5 twinfs --json status --watch; true").out;
    assert!(watched.lines().count() >= 2, "{watched}");
    assert!(watched.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{watched}");
    for signal in [Signal::SIGHUP, Signal::SIGHUP] {
        alpha.signal("twinfs daemon", signal);
    }
    until("SIGHUP is answered", 5, || alpha.run(&["twinfs", "events"]).out.contains("the one in use"));
    // The peer is gone for good.
    pair.node("beta").kill_all();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone");
    let alpha = pair.node("alpha");
    refused(alpha, &["twinfs", "switchover"], 8, &["status"]);
    refused(alpha, &["twinfs", "connect"], 8, &["beta"]);
    alpha.run(&["twinfs", "disconnect"]).ok();
    let status = alpha.run(&["twinfs", "status"]);
    assert!(status.code == 4 && status.out.contains("twinfs connect data"), "{}", status.out);
    let down = alpha.run(&["twinfs", "down"]).ok();
    assert!(down.err.contains("stops for everybody"), "{}", down.err);
}

/// An init script around a sleeping program, with its state below /run.
const SERVICE: &str = r#"#!/bin/sh
pid=$(cat /run/napper.pid 2>/dev/null)
case $1 in
start) [ -d /replicated/data ] || exit 5
  setsid sleep 100000 >/dev/null 2>&1 </dev/null & echo $! > /run/napper.pid;;
stop) [ -e /run/napper.hangs ] && sleep 100000; [ -z "$pid" ] || kill $pid 2>/dev/null; rm -f /run/napper.pid;;
status) [ -n "$pid" ] || exit 3; kill -0 $pid 2>/dev/null || exit 1;;
*) exit 3;;
esac
"#;

#[test]
fn a_service_that_dies_is_restarted_once_then_the_volume_switches_over_and_a_hanging_stop_is_bounded() {
    let name =
        "a_service_that_dies_is_restarted_once_then_the_volume_switches_over_and_a_hanging_stop_is_bounded";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let plan = Plan {
        volume: "services = [\"exec:/usr/local/sbin/napper\"]\nservice_timeout = \"2s\"\n\
                 address = \"192.0.2.99/24\"\n"
            .into(),
        ..small()
    };
    let mut pair = Pair::prepare("services", &plan);
    std::fs::write(pair.world.dir.join("napper"), SERVICE).expect("script");
    for node in ["alpha", "beta"] {
        let line = format!("install -m 755 {}/napper /usr/local/sbin/napper", pair.world.dir.display());
        pair.node(node).sh(&line).ok();
    }
    pair.start_witness();
    // The directory that the service needs comes with the volume: the first start fails, and is reported.
    pair.start_daemon("alpha");
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    pair.node("alpha").sh(&format!("mkdir {MOUNT}/data && sync {MOUNT}/data")).ok();
    for node in ["beta", "alpha"] {
        pair.node(node).run(&["twinfs", "down"]).ok();
    }
    for node in ["alpha", "beta"] {
        pair.start_daemon(node);
    }
    pair.wait_in_sync("alpha");
    let serving = Instant::now();
    let alpha = pair.node("alpha");
    let pid = |node: &Node| node.sh("cat /run/napper.pid").out.trim().to_string();
    let runs = |node: &Node| node.sh("/usr/local/sbin/napper status").code == 0;
    until("the service runs", 20, || runs(alpha));
    let first = pid(alpha);
    alpha.sh(&format!("kill -9 {first}")).ok();
    until("it was started once more", 20, || runs(alpha) && pid(alpha) != first);
    assert_eq!(node_status(alpha)["volumes"][0]["serving"], true, "one death moves nothing");
    // Right after a takeover it would stay and be reported, so that two nodes do not play ping-pong.
    std::thread::sleep(Duration::from_secs(41).saturating_sub(serving.elapsed()));
    alpha.sh(&format!("kill -9 {}", pid(alpha))).ok();
    pair.wait_serving("beta");
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    until("it runs on the other node", 20, || runs(beta));
    assert!(!runs(alpha), "it runs on both nodes");
    let told = alpha.run(&["twinfs", "events"]).out;
    for words in ["napper", "started once more", "asked to take over"] {
        assert!(told.contains(words), "nothing was told of {words}: {told}");
    }
    let addresses = |node: &Node| node.sh("ip -o addr show").ok().out;
    until("the address moved", 10, || addresses(beta).contains("192.0.2.99"));
    assert!(!addresses(alpha).contains("192.0.2.99"));
    pair.wait_in_sync("beta");
    beta.sh("touch /run/napper.hangs").ok();
    let began = Instant::now();
    beta.run_within(Duration::from_secs(30), &["twinfs", "switchover"]).ok();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(12), "a stop script that hangs held the switchover up for {took:?}");
    let told = beta.run(&["twinfs", "events"]).out;
    assert!(told.contains("did not stop"), "{told}");
    let alpha = pair.node("alpha");
    until("it runs on the first node again", 20, || runs(alpha));
    // A daemon that was stopped keeps no address: the kernel takes it away.
    alpha.signal("twinfs daemon", Signal::SIGSTOP);
    until("the kernel removed the address", 20, || !addresses(alpha).contains("192.0.2.99"));
    alpha.signal("twinfs daemon", Signal::SIGCONT);
}

/// A directory with what a plain copy loses, and its description.
const FILL: &str = "mkdir -p /srv/mail/deep/er && cd /srv/mail && for n in $(seq 400); do echo $n > deep/$n; done && \
    ln deep/1 deep/er/hard && ln -s ../deep soft && mkfifo pipe && truncate -s 5M sparse && echo end >> sparse && \
    chown 65534:12 deep/2 && chmod 4751 deep/2 && chmod 1777 deep/er && touch -d 2001-02-03T04:05:06.789Z deep/3";
const LOOK: &str = "cd /srv/mail/ && find . -printf '%P %y %m %U %G %n %T@ %l\\n' | sort && \
    find . -type f -printf '%P %s\\n' -exec sha256sum {} + | sort | sha256sum && du -k sparse | cut -f 1";

#[test]
fn an_adoption_and_a_release_that_are_killed_at_any_time_lose_nothing_and_can_be_completed() {
    let name = "an_adoption_and_a_release_that_are_killed_at_any_time_lose_nothing_and_can_be_completed";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::start("adopt", &small());
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    alpha.sh(FILL).ok();
    beta.sh("mkdir -p /srv/mail && echo own > /srv/mail/own").ok();
    let before = alpha.sh(LOOK).ok().out;
    assert!(before.lines().count() > 400, "{before}");
    let is_link = |node: &Node| node.sh("test -L /srv/mail").code == 0;
    for (verb, linked) in [("adopt", true), ("release", false)] {
        let (mut killed, mut wait) = (0, 4_u64);
        loop {
            let limit = format!("0.{wait:03}");
            let ran = alpha.run_within(
                Duration::from_secs(20),
                &["sh", "-c", &format!("timeout -s KILL {limit} twinfs {verb} /srv/mail; echo $?")],
            );
            let code = ran.out.lines().last().unwrap_or_default().to_string();
            assert_eq!(alpha.sh(LOOK).ok().out, before, "{verb} killed after {limit} s");
            let own = beta.sh("cat /srv/mail/own /srv/mail.twinfs-adopted/own 2>/dev/null").out;
            assert_eq!(own, "own\n", "{verb} killed after {limit} s: the other node's own file");
            if code == "0" {
                break;
            }
            assert!(code == "137" || ran.err.contains("is not adopted"), "{verb}: {}{}", ran.out, ran.err);
            if ran.err.contains("is not adopted") {
                break; // Only the word to the other node was missing.
            }
            killed += 1;
            wait = (wait * 5 / 4 + 1).min(900);
            assert!(killed < 60, "{verb} never ended");
        }
        harness::say(&format!("{verb}: killed {killed} times, then complete"));
        assert!(killed >= 3, "{verb} ended before it could be killed");
        assert_eq!(is_link(alpha), linked);
        until("the other node follows", 20, || {
            is_link(beta) == linked || alpha.run(&["twinfs", verb, "/srv/mail"]).code > 1
        });
        let left = alpha.sh("find / -xdev -name '*.twinfs-partial' -o -xdev -name '*.twinfs-link'").out;
        assert_eq!(left, "", "{verb} left something half done");
        if linked {
            alpha.run(&["twinfs", "switchover"]).ok();
            pair.wait_in_sync("beta");
            assert_eq!(beta.sh(LOOK).ok().out, before, "seen from the other node");
            beta.run(&["twinfs", "switchover"]).ok();
            pair.wait_in_sync("alpha");
            alpha.sh("rm -rf /srv/mail.twinfs-adopted").ok();
        }
    }
    assert_eq!(beta.sh("cat /srv/mail/own").ok().out, "own\n", "the other node has its own directory again");
}

#[test]
fn what_cannot_be_adopted_is_refused_and_a_peer_that_is_away_follows_later() {
    let name = "what_cannot_be_adopted_is_refused_and_a_peer_that_is_away_follows_later";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("adopt-bad", &small());
    let alpha = pair.node("alpha");
    alpha.sh("mkdir -p /srv/a /srv/mnt /srv/in/side && echo a > /srv/a/file && ln -s /srv/a /srv/link").ok();
    alpha.sh("mount -t tmpfs tmpfs /srv/mnt && mount -t tmpfs tmpfs /srv/in/side && touch /srv/plain").ok();
    for (dir, words) in [
        ("/srv/mnt", "mount point"),
        ("/srv/in", "mount point"),
        ("/srv/link", "not a directory"),
        ("/srv/plain", "not a directory"),
        ("/srv/none", "does not exist"),
        ("srv/a", "absolute"),
        ("/etc", "twinfs needs"),
        ("/var/lib", "twinfs needs"),
        (MOUNT, "volume"),
    ] {
        refused(alpha, &["twinfs", "adopt", dir], 1, &[words]);
    }
    alpha.sh(&format!("mkdir -p {MOUNT}/srv/a && echo other > {MOUNT}/srv/a/file")).ok();
    refused(alpha, &["twinfs", "adopt", "/srv/a"], 1, &["in the way"]);
    assert_eq!(alpha.sh("cat /srv/a/file").ok().out, "a\n");
    alpha.sh(&format!("rm -r {MOUNT}/srv/a")).ok();
    refused(alpha, &["twinfs", "release", "/srv/a"], 1, &["not adopted"]);
    // The peer is away: it is done here, and there as soon as the peer is primary.
    pair.node("beta").kill_all();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone");
    let alpha = pair.node("alpha");
    let ran = alpha.run(&["sh", "-c", "exec 7< /srv/a/file; twinfs adopt /srv/a"]).ok();
    assert!(ran.err.contains("is used by sh") && ran.err.contains("was not told"), "{}", ran.err);
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    pair.node("alpha").run(&["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    assert_eq!(pair.node("beta").sh("cat /srv/a/file").ok().out, "a\n");
}

#[test]
fn copies_that_diverged_are_joined_again_by_what_status_says_and_the_other_side_is_kept() {
    let name = "copies_that_diverged_are_joined_again_by_what_status_says_and_the_other_side_is_kept";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("diverged", &Plan { arbitration: "manual", ..small() });
    pair.node("alpha").sh(&format!("echo both > {MOUNT}/both && sync {MOUNT}/both")).ok();
    pair.world.cable("beta", 0, false);
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone");
    let write = |node: &Node| {
        node.sh(&format!("echo {0} > {MOUNT}/{0} && sync {MOUNT}/{0}", node.name)).ok();
    };
    write(pair.node("alpha"));
    // The mistake: the word was given, and it was not true.
    refused(pair.node("beta"), &["twinfs", "promote"], 7, &["--peer-is-down"]);
    pair.node("beta").run(&["twinfs", "promote", "--peer-is-down"]).ok();
    pair.wait_serving("beta");
    write(pair.node("beta"));
    pair.world.cable("beta", 0, true);
    for node in ["alpha", "beta"] {
        pair.wait(node, "diverged", |volume| volume["state"] == "diverged");
        let status = pair.node(node).run(&["twinfs", "status"]);
        assert!(status.code == 5 && status.out.contains("join --replace"), "{}", status.out);
    }
    pair.node("beta").run(&["twinfs", "down"]).ok();
    pair.node("beta").run(&["twinfs", "join", "--replace", "data"]).ok();
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    assert_eq!(pair.node("alpha").sh(&format!("ls {MOUNT}")).ok().out, "alpha\nboth\n");
    let beta = pair.node("beta");
    let listed = beta.run(&["twinfs", "salvage", "list", "--json"]).ok().out;
    let pack: serde_json::Value = serde_json::from_str(listed.trim()).expect("one kept copy");
    let pack = pack["pack"].as_str().expect("its name").to_string();
    let said = beta.run(&["twinfs", "salvage", "list"]).ok().out;
    assert!(said.contains("had gone on alone by an operator's word") && said.contains(&pack), "{said}");
    let look = format!(
        "mkdir /run/old && twinfs salvage mount {pack} /run/old && cat /run/old/beta && ! touch /run/old/x 2>&1 && \
         umount /run/old"
    );
    assert!(beta.sh(&look).ok().out.starts_with("beta\n"), "what was given up cannot be read");
    // What only the losing side has comes out; what both have alike does not.
    refused(
        beta,
        &["twinfs", "salvage", "export", &pack, "/run/out"],
        1,
        &["not mounted on this node", "--against"],
    );
    refused(beta, &["twinfs", "salvage", "export", "data-1", "/run/out"], 2, &["data-1", &pack]);
    pair.node("alpha").run(&["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    let beta = pair.node("beta");
    let export = ["twinfs", "salvage", "export", &pack, "/run/out"];
    let dry = beta.run(&[&export[..], &["--dry-run"]].concat()).ok().out;
    assert!(dry.contains("only-here   beta") && !dry.contains("both"), "{dry}");
    assert!(!beta.sh("ls /run").ok().out.contains("out"), "a dry run makes nothing");
    beta.run(&export).ok();
    assert_eq!(beta.sh("cd /run/out && find . -type f && cat beta").ok().out, "./beta\nbeta\n");
    assert_eq!(beta.sh("stat -c %Y.%a.%U /run/out/beta").ok().out.matches("644.root").count(), 1);
    refused(beta, &export, 1, &["not empty"]);
    beta.run(&["twinfs", "salvage", "export", &pack, "/run/all", "--all"]).ok();
    assert_eq!(beta.sh("ls /run/all").ok().out, "beta\nboth\n");
    assert!(!beta.sh("cat /proc/mounts").ok().out.contains("twinfs-salvage"), "a mount is left");
    let drop = |confirm: &str| ["twinfs", "salvage", "drop", &pack, "--confirm", confirm].map(String::from);
    let call = |words: &[String]| words.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    assert_eq!(beta.sh(&call(&drop("yes"))).code, 2);
    pair.world.cable("beta", 0, false);
    pair.wait("beta", "alone", |volume| volume["state"] == "alone");
    assert_eq!(pair.node("beta").sh(&call(&drop(&pack))).code, 6, "the copy may be needed");
    pair.world.cable("beta", 0, true);
    pair.wait_in_sync("beta");
    pair.node("beta").sh(&call(&drop(&pack))).ok();
    assert_eq!(
        pair.node("beta").run(&["twinfs", "salvage", "list"]).ok().out,
        "no copy is kept on this node\n"
    );
    pair.compare_images();
}
