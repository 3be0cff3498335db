//! What crosses the wire when two copies that are alike are compared by their digests.
//!
//! Decides how that comes about: the second node's image is made anew from its own copy, which a new disk takes for
//! something that must be compared whole.

use std::time::{Duration, Instant};

use super::Figure;
use super::bed::{self, MIB};
use crate::harness::pair::Pair;
use crate::report::Aim;

const IMAGE: &str = "/var/lib/twinfs/data.img";
const LIMIT: Duration = Duration::from_secs(900);

pub fn measure(quick: bool, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let (bytes, size) = if quick { (512 * MIB, "768MiB") } else { (4096 * MIB, "5GiB") };
    let mut pair = Pair::start("compare", &bed::plan(size));
    bed::fill(&bed::mounted(&pair, "alpha").join("file"), bytes)?;
    let mut wire = Figure::new("on the wire", "MiB").beside("content", Some(Aim::AtMost(0.006)));
    let mut time = Figure::new("from start to in sync", "s");
    for round in 1..=rounds {
        bed::pass(Duration::from_secs(5))?;
        bed::stop_beta(&pair)?;
        let carried = pair.world.dir.join("carried.img").display().to_string();
        let beta = pair.node("beta");
        let aside = ["mv", IMAGE, &carried];
        let join = ["twinfs", "join", "--seed", &carried];
        for words in [&aside[..], &join, &["rm", &carried]] {
            beta.run_within(LIMIT, words).ok();
        }
        let before = bed::wire_bytes(&pair, "beta")?;
        let from = Instant::now();
        pair.start_daemon("beta");
        bed::wait(&pair, "alpha", LIMIT, bed::is_in_sync)?;
        let took = from.elapsed().as_secs_f64();
        let moved = (bed::wire_bytes(&pair, "beta")? - before) as f64 / MIB as f64;
        bed::say("compare", round, rounds, &format!("{moved:.2} MiB on the wire in {took:.1} s"));
        wire.add(moved, &[bytes as f64 / MIB as f64]);
        time.add(took, &[]);
    }
    Ok(vec![wire, time])
}
