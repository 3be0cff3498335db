//! How long the first sync of an empty volume takes, and what crosses the wire: as little as there is.
//!
//! Decides what belongs to it: everything from the start of the second node's daemon until both copies are current.

use std::time::{Duration, Instant};

use super::Figure;
use super::bed::{self, MIB};
use crate::harness::pair::Pair;
use crate::report::Aim;

const LIMIT: Duration = Duration::from_secs(120);

pub fn measure(_quick: bool, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let mut time = Figure::new("from start to in sync", "s").beside("2 s", Some(Aim::AtMost(1.0)));
    let mut wire = Figure::new("on the wire", "KiB").beside("1 MiB", Some(Aim::AtMost(1.0)));
    for round in 1..=rounds {
        let mut pair = Pair::prepare("first", &bed::plan("1TiB"));
        pair.start_witness();
        pair.start_daemon("alpha");
        bed::wait(&pair, "alpha", LIMIT, |volume| volume["serving"] == true && volume["mounted"] == true)?;
        let before = bed::wire_bytes(&pair, "beta")?;
        let from = Instant::now();
        pair.start_daemon("beta");
        bed::wait(&pair, "alpha", LIMIT, bed::is_in_sync)?;
        let took = from.elapsed().as_secs_f64();
        let moved = (bed::wire_bytes(&pair, "beta")? - before) as f64 / 1024.0;
        bed::say("first", round, rounds, &format!("{took:.2} s, {moved:.0} KiB on the wire"));
        time.add(took, &[2.0]);
        wire.add(moved, &[MIB as f64 / 1024.0]);
    }
    Ok(vec![time, wire])
}
