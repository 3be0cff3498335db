//! A disk that dies under a primary: its services stop in order, with what only the peer has, and go on over there.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::need;
use harness::pair::{MOUNT, Pair, Plan};
use harness::powercut::PowerDisk;

/// Bytes of each disk.
const DISK: u64 = 192 << 20;
/// How long the service takes to stop.
const STOP: f64 = 1.5;

/// Appends numbered records with fsync. Told to stop it goes on for a while, reads a large file past all caches, notes
/// its sum, and makes, renames and removes files. Any error is its exit code.
const LEDGER: &str = r#"
use strict; use IO::Handle; use Fcntl; use Time::HiRes qw(time sleep);
my ($notes, $stop) = @ARGV;
my $told = 0;
$SIG{TERM} = sub { $told ||= time };
open(my $log, ">>", "/replicated/ledger") or exit 2;
open(my $out, ">>", $notes) or exit 2;
$out->autoflush(1);
sub put { syswrite($log, $_[0]) or exit 3; $log->sync or exit 4; }
for (my $n = 0; !$told || time < $told + $stop; $n++) {
  put(sprintf("%08d\n", $n));
  printf $out "%d %.6f\n", $n, time;
  if ($told && $n % 20 == 0) {
    open(my $new, ">", "/replicated/new.$n") or exit 5;
    print $new "x" x 20000; $new->flush or exit 5; $new->sync or exit 6; close $new or exit 6;
    rename("/replicated/new.$n", "/replicated/state") or exit 7;
    mkdir "/replicated/made.$n" or exit 8; rmdir "/replicated/made.$n" or exit 8;
  }
  sleep 0.002;
}
my $sum = `dd if=/replicated/large iflag=direct bs=1M status=none | sha256sum`;
exit 9 if $?;
put("stopped $sum");
print $out "stopped\n";
"#;

/// The service of it: `stop` waits for the program and says how it ended.
const SERVICE: &str = r#"#!/bin/sh
pid=$(cat /run/ledger.pid 2>/dev/null)
case $1 in
start) rm -f /run/ledger.end
  setsid sh -c 'perl /usr/local/lib/ledger.pl /var/lib/ledger.notes 1.5; echo $? > /run/ledger.end' \
    >/dev/null 2>&1 </dev/null &
  for try in 1 2 3 4 5 6 7 8 9; do pid=$(pgrep -x -f '^perl /usr/local/lib/ledger.pl .*') && break; sleep 0.1; done
  echo $pid > /run/ledger.pid;;
stop) [ -z "$pid" ] || kill -TERM $pid 2>/dev/null
  for try in $(seq 100); do [ -e /run/ledger.end ] && exit 0; sleep 0.1; done; exit 1;;
status) [ -n "$pid" ] || exit 3; kill -0 $pid 2>/dev/null || exit 1;;
*) exit 3;;
esac
"#;

fn install(pair: &Pair, dir: &std::path::Path) {
    std::fs::write(dir.join("ledger"), SERVICE).expect("script");
    std::fs::write(dir.join("ledger.pl"), LEDGER).expect("program");
    for node in ["alpha", "beta"] {
        let dir = dir.display();
        let line = format!(
            "install -D -m 755 {dir}/ledger /usr/local/sbin/ledger && \
             install -D -m 644 {dir}/ledger.pl /usr/local/lib/ledger.pl"
        );
        pair.node(node).sh(&line).ok();
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64()
}

/// What the program acknowledged on a node: number and time.
fn notes(pair: &Pair, node: &str) -> Vec<(u64, f64)> {
    let text = pair.node(node).sh("cat /var/lib/ledger.notes 2>/dev/null; true").out;
    let one = |line: &str| {
        let (number, at) = line.split_once(' ')?;
        Some((number.parse().ok()?, at.parse().ok()?))
    };
    text.lines().filter_map(one).collect()
}

#[test]
fn services_on_a_disk_that_died_stop_without_an_error_and_lose_nothing() {
    let name = "services_on_a_disk_that_died_stop_without_an_error_and_lose_nothing";
    if need::have_nodes(name, &[]) {
        // What it had not flushed when it died is lost with it.
        let stop = |pair: &Pair| {
            pair.node("alpha").kill_all();
            pair.world.disks[0].restore();
        };
        disk_fails("disk-dies", &PowerDisk::die, &stop);
    }
}

/// The node is stopped in order then, and nothing that the disk lacks may be forgotten by that.
#[test]
fn a_disk_that_failed_once_lacks_what_was_under_way_and_that_is_known_after_a_clean_stop() {
    let name = "a_disk_that_failed_once_lacks_what_was_under_way_and_that_is_known_after_a_clean_stop";
    if need::have_nodes(name, &[]) {
        let stop = |pair: &Pair| {
            pair.node("alpha").run(&["twinfs", "down"]);
        };
        disk_fails("disk-stumbles", &PowerDisk::stumble, &stop);
    }
}

fn disk_fails(test: &str, fail: &dyn Fn(&PowerDisk), stop: &dyn Fn(&Pair)) {
    let plan = Plan { power_disks: Some(DISK), size: "128MiB", ..Plan::default() };
    let mut pair = Pair::start(test, &plan);
    let large = format!("head -c 20000000 /dev/urandom > {MOUNT}/large && sync {MOUNT}/large");
    pair.node("alpha").sh(&large).ok();
    let sum = pair.node("alpha").sh(&format!("sha256sum < {MOUNT}/large")).ok().out;
    let dir = pair.world.dir.clone();
    install(&pair, &dir);
    let volume = "services = [\"exec:/usr/local/sbin/ledger\"]\nservice_timeout = \"20s\"\n".to_string();
    pair.restart_with(&Plan { volume, ..plan });
    pair.wait_in_sync("alpha");
    let began = harness::wait_for(Duration::from_secs(20), || notes(&pair, "alpha").len() > 100);
    assert!(began, "nothing is written");

    let died = now();
    fail(&pair.world.disks[0]);
    pair.wait_serving("beta");
    let end = pair.node("alpha").sh("cat /run/ledger.end").ok().out;
    let told = pair.node("alpha").sh("tail -1 /var/lib/ledger.notes").ok().out;
    let all = notes(&pair, "alpha");
    let after: Vec<f64> = all.iter().map(|(_, at)| *at).filter(|at| *at > died).collect();
    let gap = all.windows(2).map(|two| two[1].1 - two[0].1).fold(0.0, f64::max);
    harness::say(&format!(
        "{} records, {} of them after the disk had died, over {:.1} s; the longest wait {:.0} ms",
        all.len(),
        after.len(),
        after.last().map_or(0.0, |last| last - died),
        gap * 1e3
    ));
    assert_eq!(
        (end.trim(), told.trim()),
        ("0", "stopped"),
        "the service met an error: {}",
        pair.node("alpha").log("twinfsd.log")
    );
    assert!(after.last().is_some_and(|last| last - died > STOP - 0.5), "it stopped at once");
    let alpha = pair.volume("alpha");
    assert_eq!(alpha["role"], "failed", "{alpha}");

    let ledger = pair.node("beta").sh(&format!("head -{} {MOUNT}/ledger", all.len() + 1)).ok().out;
    let kept: Vec<&str> = ledger.lines().collect();
    for (n, _) in &all {
        let at = usize::try_from(*n).expect("a line");
        assert_eq!(kept.get(at).copied(), Some(format!("{n:08}").as_str()), "record {n} is missing");
    }
    assert_eq!(kept.last().copied(), Some(format!("stopped {}", sum.trim_end()).as_str()));
    let log = pair.node("alpha").log("twinfsd.log");
    assert!(log.contains("programs go on with the copy of beta"), "{log}");

    // Another disk, here the same one that works again: it is brought up to date.
    stop(&pair);
    pair.world.disks[0].revive();
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    pair.compare_images();
}
