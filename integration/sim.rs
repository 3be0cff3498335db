//! Two simulated nodes under faults: no promise is broken, every fault occurs, and a broken protocol is caught.

use std::collections::BTreeMap;

use twinfs::sim::{BOTH_LOGS, FAULTS, MUTATIONS, Mutation, Options, Outcome, RECEIVER_LOG, run, run_many};

/// Things that must be reached, or the run proves nothing about them.
const REACHED: [&str; 34] = [
    "copy-kept",
    "failback",
    "split-settled",
    "fenced",
    "fence-settled",
    "shot",
    "shot-late",
    "split",
    "lost-source",
    "went-back",
    "struck-off",
    "told-replaced",
    "server-changed",
    "took-over",
    "paused-primary",
    "disk-failed",
    "repaired-hot",
    "repaired-cold",
    "repaired-unreadable",
    "went-solo",
    "in-sync",
    "resync-started",
    "resync-finished",
    "resync-interrupted",
    "resync-resumed",
    "grown",
    "peer-lost",
    "handed-over",
    "ghost",
    "found-rotten",
    "repaired-at-peer",
    "verified",
    "peer-detached",
    "repaired",
];

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn seeds() -> u64 {
    if std::env::var_os("TWINFS_LONG").is_some() { 5_000 } else { 500 }
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers[numbers.len() / 2]
}

#[test]
fn no_seed_breaks_a_promise_and_no_seed_is_idle() {
    let (mut ops, mut faults, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let make = |seed| Options { seed, ..Options::default() };
    run_many(0, seeds(), workers(), make, |outcome: Outcome| {
        ops.push(outcome.fs_ops);
        faults.push(outcome.faults);
        for (what, count) in outcome.counts {
            *counts.entry(what).or_insert(0) += count;
        }
        if !outcome.violations.is_empty() {
            failed.push((outcome.seed, outcome.violations));
        }
        failed.len() < 5
    });
    if let Some((seed, violations)) = failed.first() {
        let again = run(&Options { seed: *seed, shown: 300, ..Options::default() });
        panic!("{}seed {seed}: {violations:?} (all: {failed:?})", again.trace);
    }
    let idle: Vec<_> = FAULTS.iter().chain(&REACHED).filter(|what| !counts.contains_key(**what)).collect();
    assert!(idle.is_empty(), "never happened: {idle:?} in {counts:?}");
    let (ops, faults) = (median(ops), median(faults));
    assert!(ops >= 200 && faults >= 10, "the median seed has {ops} operations and {faults} faults");
}

#[test]
fn a_seed_is_repeated_exactly() {
    for seed in [3, 77, 1_000_003] {
        let one = run(&Options { seed, ..Options::default() });
        let two = run(&Options { seed, shown: 300, ..Options::default() });
        assert_eq!((one.hash, one.events, one.fs_ops), (two.hash, two.events, two.fs_ops), "seed {seed}");
        assert!(one.trace.is_empty() && !two.trace.is_empty());
    }
    assert_ne!(run(&Options { seed: 4, ..Options::default() }).hash, run(&Options::default()).hash);
}

/// Hashes that every build of this source must give: the dev profile here, the release profile through
/// `cargo test --release --test sim every_build` or by hand, `cargo run --release -- sim --seeds 4 --jobs 1 --trace
/// --events 0`. Whoever changes what a node does changes them: `UPDATE_EXPECT=1 cargo test --test sim every_build`.
#[test]
fn every_build_runs_a_seed_the_same_way() {
    let line =
        |seed| format!("seed {seed} hash {:016x}\n", run(&Options { seed, ..Options::default() }).hash);
    let found: String = (0..4).map(line).collect();
    expect_test::expect_file!["golden/sim_hashes.txt"].assert_eq(&found);
}

/// The first seed that sees the bug, of the first `within`.
fn caught_at(mutation: &Mutation, within: u64, effects_only: bool) -> Option<(u64, String)> {
    let mut caught: Option<(u64, String)> = None;
    let make = |seed| Options { seed, mutations: mutation.on, effects_only, ..Options::default() };
    run_many(0, within, workers(), make, |outcome| {
        if let Some(violation) = outcome.violations.first() {
            caught.get_or_insert((outcome.seed, violation.clone()));
        }
        caught.is_none()
    });
    caught
}

#[test]
fn every_deliberate_bug_is_seen_within_its_seeds() {
    let mut missed = Vec::new();
    for mutation in MUTATIONS {
        let caught = caught_at(mutation, mutation.within, false);
        println!("{}: {caught:?}", mutation.name);
        if caught.is_none() {
            missed.push(mutation.name);
        }
    }
    assert!(MUTATIONS.len() >= 20 && missed.is_empty(), "not seen: {missed:?}");
}

/// W3: a flush waits for the disks of both. Else the other one may keep the head of the tables and lose the pages that
/// it names, and that is what the survivor serves.
#[test]
fn peer_keeps_header_loses_pages() {
    let local = MUTATIONS.iter().find(|mutation| mutation.name == "flush-local-only").expect("a known bug");
    let (seed, text) = caught_at(local, 400, true).expect("nothing notices that the rule is off");
    println!("seed {seed}: {text}");
    let kept = run(&Options { seed, effects_only: true, ..Options::default() });
    assert!(kept.violations.is_empty(), "{:?}", kept.violations);
}

/// Evicting an extent early breaks a rule, and the rule is looked at. It harms nobody as long as the follower's own log
/// has what that one may lose, and the other way round; without both logs data is lost, and seen without any rule.
#[test]
fn either_log_alone_keeps_what_a_follower_may_lose_and_none_does_not() {
    let seeds = 25;
    let evict = MUTATIONS.iter().find(|mutation| mutation.name == "evict-early").expect("a known bug");
    assert!(caught_at(evict, seeds, false).is_some_and(|(_, text)| text.contains("evicted its extent")));
    assert_eq!(caught_at(evict, seeds, true), None);
    assert_eq!(caught_at(&RECEIVER_LOG, seeds, true), None);
    let lost = caught_at(&BOTH_LOGS, BOTH_LOGS.within, true);
    assert!(lost.is_some(), "{} seeds without any log saw nothing", BOTH_LOGS.within);
}
