//! The longest time that a write waits when the peer is no longer heard, although nobody says that it is gone.
//!
//! Decides the cut: every packet between the two nodes is dropped silently, both ways, while the third one hears both.

use std::time::{Duration, Instant};

use super::Figure;
use super::bed;
use crate::harness::pair::Pair;
use crate::latency::{Writer, percentile, within};
use crate::report::Aim;

/// As in the plan of the bed.
const SLOW_PEER: f64 = 1.0;
const GRACE: f64 = 0.5;

pub fn measure(_quick: bool, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let pair = Pair::start("stall", &bed::plan("1GiB"));
    let mut stall = Figure::new("longest write", "s").beside("slow_peer + 0.5 s", Some(Aim::AtMost(1.0)));
    for round in 1..=rounds {
        let writer = Writer::start(&bed::mounted(&pair, "alpha").join("writer"))?;
        bed::pass(Duration::from_secs(2))?;
        let cut = Instant::now();
        pair.world.part("alpha", "beta");
        // Past deadtime: what happens when the peer is taken for dead counts as well.
        bed::pass(Duration::from_secs(13))?;
        let samples = writer.finish()?;
        let to = Instant::now();
        let times = within(&samples, cut, to);
        anyhow::ensure!(times.len() > 100, "only {} writes after the cut: it never went on", times.len());
        let longest = percentile(&times, 100) / 1e6;
        bed::say("stall", round, rounds, &format!("longest write {longest:.2} s"));
        stall.add(longest, &[SLOW_PEER + GRACE]);
        pair.world.heal();
        bed::wait(&pair, "alpha", Duration::from_secs(60), bed::is_in_sync)?;
    }
    Ok(vec![stall])
}
