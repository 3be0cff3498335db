//! What crosses the wire after an outage in which 64 MiB were written, 4 KiB at random places.
//!
//! Decides the load: of a file that both copies hold, each block at most once, stable before the peer comes back. The
//! count of the wire is that of the network device: frames, heartbeats and witness included.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::Figure;
use super::bed::{self, MIB};
use crate::harness::pair::Pair;
use crate::report::Aim;

const BLOCK: u64 = 4096;
const WRITTEN: u64 = 64 * MIB;
const LIMIT: Duration = Duration::from_secs(300);

pub fn measure(quick: bool, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let file = if quick { 256 * MIB } else { 2048 * MIB };
    let mut pair = Pair::start("outage", &bed::plan("4GiB"));
    bed::fill(&bed::mounted(&pair, "alpha").join("file"), file)?;
    let mut wire = Figure::new("on the wire", "MiB")
        .beside("bits set", Some(Aim::AtMost(1.1)))
        .beside("written", Some(Aim::AtMost(1.3)));
    let mut copied = Figure::new("blocks to copy", "MiB").beside("bits set", None);
    let mut bits = Figure::new("bits set", "MiB").beside("written", None);
    let mut time = Figure::new("from start to in sync", "s");
    for round in 1..=rounds {
        // Both logs are empty and every block lies where it belongs.
        bed::pass(Duration::from_secs(5))?;
        bed::stop_beta(&pair)?;
        overwrite(&pair, file, round as u64)?;
        bed::pass(Duration::from_secs(5))?;
        let dirty = pair.volume("alpha")["dirty_blocks"].as_u64().unwrap_or_default() * BLOCK;
        let before = bed::wire_bytes(&pair, "beta")?;
        let from = Instant::now();
        pair.start_daemon("beta");
        let mut total = 0;
        bed::wait(&pair, "alpha", LIMIT, |volume| {
            total = total.max(volume["resync_total_blocks"].as_u64().unwrap_or_default() * BLOCK);
            bed::is_in_sync(volume)
        })?;
        let took = from.elapsed().as_secs_f64();
        let moved = bed::wire_bytes(&pair, "beta")? - before;
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let (moved, dirty, total, written) = (mib(moved), mib(dirty), mib(total), mib(WRITTEN));
        let text = format!("{moved:.1} MiB on the wire, {dirty:.1} MiB of bits set, {total:.1} MiB to copy");
        bed::say("outage", round, rounds, &text);
        wire.add(moved, &[dirty, written]);
        // A copy that ended between two looks was not seen.
        if total > 0.0 {
            copied.add(total, &[dirty]);
        }
        bits.add(dirty, &[written]);
        time.add(took, &[]);
    }
    Ok(vec![wire, copied, bits, time])
}

/// Blocks of the file, each once, in no order; all stable at the end.
fn overwrite(pair: &Pair, bytes: u64, seed: u64) -> anyhow::Result<()> {
    let path = bed::mounted(pair, "alpha").join("file");
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    let mut block = vec![0; BLOCK as usize];
    for place in places(bytes / BLOCK, WRITTEN / BLOCK, seed) {
        for (number, word) in block.chunks_exact_mut(8).enumerate() {
            let content = (place ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(number as u32);
            word.copy_from_slice(&content.to_le_bytes());
        }
        file.write_all_at(&block, place * BLOCK)?;
    }
    file.sync_all()?;
    Ok(())
}

/// `count` different numbers below `of`, a power of two, in no order: a full period of a linear congruence.
fn places(of: u64, count: u64, seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) % of;
        // The low bits of a congruence repeat early: the highest ones come first.
        state.reverse_bits() >> (64 - of.trailing_zeros())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_different_and_below_the_limit() {
        for seed in 1..4 {
            let all: std::collections::BTreeSet<u64> = places(1 << 12, 1 << 11, seed).collect();
            assert!(all.len() == 1 << 11 && all.iter().all(|place| *place < 1 << 12));
            let first: Vec<u64> = places(1 << 12, 64, seed).collect();
            let neighbours = first.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 4).count();
            assert!(neighbours < 8, "they follow each other: {first:?}");
        }
    }
}
