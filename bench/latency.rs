//! One writer that overwrites 4 KiB at random places of a file and waits for each to be stable, with the time of each.
//!
//! Decides what a write is and how a percentile is taken. Does not know what happens beside it. Invariant: the file
//! has its full length before the first write that counts.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const FILE: usize = 16 << 20;

/// One write with its fdatasync.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Instant,
    pub took: Duration,
}

impl Sample {
    fn end(&self) -> Instant {
        self.at + self.took
    }
}

/// Writes until it is told to finish, or dropped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<Vec<Sample>>>>,
}

impl Writer {
    /// Makes the file anew, then writes for ever.
    pub fn start(path: &Path) -> anyhow::Result<Writer> {
        let file = prepared(path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || write_until(&file, || told.load(Ordering::Relaxed)));
        Ok(Writer { stop, thread: Some(thread) })
    }

    /// Everything that was written.
    pub fn finish(mut self) -> anyhow::Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        let samples = thread.and_then(Result::ok);
        Ok(samples.ok_or_else(|| anyhow::anyhow!("the writer died"))??)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A file of full length, stable.
pub fn prepared(path: &Path) -> std::io::Result<File> {
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    file.write_all(&vec![0x5a; FILE])?;
    file.sync_all()?;
    Ok(file)
}

/// Writes until `ended`.
pub fn write_until(file: &File, ended: impl Fn() -> bool) -> std::io::Result<Vec<Sample>> {
    let (mut dice, mut block) = (1_u64, vec![0; BLOCK]);
    let mut samples = Vec::new();
    while !ended() {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        block[..8].copy_from_slice(&dice.to_le_bytes());
        let place = (dice >> 33) % (FILE / BLOCK) as u64;
        let at = Instant::now();
        file.write_all_at(&block, place * BLOCK as u64)?;
        file.sync_data()?;
        samples.push(Sample { at, took: at.elapsed() });
    }
    Ok(samples)
}

/// Times of the writes that ran within the two moments, shortest first.
pub fn within(samples: &[Sample], from: Instant, to: Instant) -> Vec<Duration> {
    let inside = samples.iter().filter(|sample| sample.end() >= from && sample.at <= to);
    let mut times: Vec<Duration> = inside.map(|sample| sample.took).collect();
    times.sort_unstable();
    times
}

/// The time that so many of a hundred stay within, in microseconds.
pub fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_time_that_so_many_stay_within() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert!((percentile(&times, 50) - 100.0).abs() < 1e-6);
        assert!((percentile(&times, 99) - 198.0).abs() < 1e-6);
        assert!((percentile(&times, 100) - 200.0).abs() < 1e-6);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn a_write_that_was_under_way_counts_on_both_sides() {
        let from = Instant::now();
        let at = |ms: u64, took: u64| Sample {
            at: from + Duration::from_millis(ms),
            took: Duration::from_millis(took),
        };
        let samples = [at(0, 5), at(5, 10), at(15, 1)];
        let found = within(&samples, from + Duration::from_millis(8), from + Duration::from_millis(14));
        assert_eq!(found, [Duration::from_millis(10)]);
    }
}
