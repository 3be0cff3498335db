//! Two simulated nodes under faults: no promise is broken, every fault occurs, and a broken protocol is caught.

use std::collections::BTreeMap;

use twinfs::node::Mutations;
use twinfs::sim::{FAULTS, Options, Outcome, run, run_many};

/// Things that must be reached, or the run proves nothing about them.
const REACHED: [&str; 10] = [
    "server-changed",
    "went-solo",
    "in-sync",
    "resync-started",
    "resync-finished",
    "resync-interrupted",
    "peer-lost",
    "handed-over",
    "ghost",
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

/// The first seed below 500 that catches the mutation.
fn caught_at(mutations: Mutations) -> Option<(u64, String)> {
    let mut caught: Option<(u64, String)> = None;
    let make = |seed| Options { seed, mutations, ..Options::default() };
    run_many(0, 500, workers(), make, |outcome| {
        if let Some(violation) = outcome.violations.first() {
            caught.get_or_insert((outcome.seed, violation.clone()));
        }
        caught.is_none()
    });
    caught
}

fn is_caught(name: &str, mutations: Mutations) {
    let caught = caught_at(mutations);
    assert!(caught.is_some(), "{name}: 500 seeds saw nothing");
    println!("{name}: {caught:?}");
}

#[test]
fn acknowledging_before_the_peer_is_caught() {
    is_caught("ack before the peer", Mutations { ack_before_peer: true, ..Mutations::default() });
}

#[test]
fn evicting_an_extent_early_is_caught() {
    is_caught("evict early", Mutations { evict_early: true, ..Mutations::default() });
}

#[test]
fn marking_only_unacknowledged_writes_is_caught() {
    is_caught("mark only unacknowledged", Mutations { mark_only_unacked: true, ..Mutations::default() });
}

#[test]
fn counting_the_lease_from_the_echos_arrival_is_caught() {
    is_caught("lease from echo arrival", Mutations { lease_from_echo_arrival: true, ..Mutations::default() });
}

#[test]
fn not_checking_the_session_is_caught() {
    is_caught("no session check", Mutations { no_session_check: true, ..Mutations::default() });
}
