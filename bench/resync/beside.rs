//! How much longer a 4 KiB write waits to be stable while a resync runs beside it.
//!
//! Decides when both are measured: in sync, with the same looks at the status beside them, and from the moment that the
//! resync is under way to its end. Invariant: what the writer itself does is the same in both.

use std::time::{Duration, Instant};

use super::Figure;
use super::bed::{self, MIB};
use crate::harness::pair::Pair;
use crate::latency::{Writer, percentile, within};
use crate::report::Aim;

/// At the least pace, 4 MiB a second, what is to be copied takes so long.
const LIMIT: Duration = Duration::from_secs(600);

pub fn measure(quick: bool, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let (dirty, window) = if quick { (64 * MIB, 5) } else { (256 * MIB, 30) };
    let window = Duration::from_secs(window);
    let mut pair = Pair::start("latency", &bed::plan("4GiB"));
    let mut p99 = Figure::new("fsync p99 beside", "us").beside("without", Some(Aim::AtMost(2.0)));
    let mut p50 = Figure::new("fsync p50 beside", "us").beside("without", None);
    let mut alone = Figure::new("fsync p99 without", "us");
    let mut speed = Figure::new("resync beside", "MiB/s");
    for round in 1..=rounds {
        let without = in_sync(&pair, window)?;
        let (with, seconds) = beside_resync(&mut pair, dirty)?;
        let at = |times: &[Duration], percent| percentile(times, percent);
        let pace = (dirty / MIB) as f64 / seconds;
        let text = format!(
            "p99 {:.0} us of {} writes beside a resync of {pace:.0} MiB/s, {:.0} us of {} without",
            at(&with, 99),
            with.len(),
            at(&without, 99),
            without.len()
        );
        bed::say("latency", round, rounds, &text);
        p99.add(at(&with, 99), &[at(&without, 99)]);
        p50.add(at(&with, 50), &[at(&without, 50)]);
        alone.add(at(&without, 99), &[]);
        speed.add(pace, &[]);
    }
    Ok(vec![p99, p50, alone, speed])
}

/// Times of the writes of one window while both copies are current.
fn in_sync(pair: &Pair, window: Duration) -> anyhow::Result<Vec<Duration>> {
    let writer = Writer::start(&bed::mounted(pair, "alpha").join("writer"))?;
    // The pace is learnt from what operations take undisturbed.
    bed::pass(Duration::from_secs(2))?;
    let from = Instant::now();
    bed::wait(pair, "alpha", LIMIT, |_| from.elapsed() > window)?;
    let to = Instant::now();
    Ok(within(&writer.finish()?, from, to))
}

/// Times of the writes from when `dirty` bytes began to be copied until they were, and how many seconds that took.
fn beside_resync(pair: &mut Pair, dirty: u64) -> anyhow::Result<(Vec<Duration>, f64)> {
    bed::stop_beta(pair)?;
    let dir = bed::mounted(pair, "alpha");
    bed::fill(&dir.join("dirty"), dirty)?;
    let writer = Writer::start(&dir.join("writer"))?;
    pair.start_daemon("beta");
    let copies = |volume: &serde_json::Value| {
        volume["state"] == "catching-up" && volume["resync_total_blocks"].as_u64() > Some(0)
    };
    bed::wait(pair, "alpha", LIMIT, copies)?;
    let from = Instant::now();
    bed::wait(pair, "alpha", LIMIT, bed::is_in_sync)?;
    let to = Instant::now();
    Ok((within(&writer.finish()?, from, to), (to - from).as_secs_f64()))
}
