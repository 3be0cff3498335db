//! Works that stream one large file, or read it in no order.
//!
//! Decides what counts as cold.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::work::MIB;

/// Data that neither compresses nor repeats from one block to the next.
fn fill(buffer: &mut [u8], seed: u64) {
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in buffer.chunks_exact_mut(8) {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        word.copy_from_slice(&dice.to_le_bytes());
    }
}

/// One file written in 1 MiB pieces, then fsync; MiB per second.
pub fn write(path: &Path, bytes: usize) -> anyhow::Result<f64> {
    let _ = std::fs::remove_file(path);
    let mut buffers = [vec![0; MIB], vec![0; MIB], vec![0; MIB], vec![0; MIB]];
    for (seed, buffer) in buffers.iter_mut().enumerate() {
        fill(buffer, seed as u64 + 1);
    }
    let start = Instant::now();
    let mut file = File::create(path)?;
    for number in 0..bytes / MIB {
        file.write_all(&buffers[number % buffers.len()])?;
    }
    file.sync_all()?;
    Ok((bytes / MIB) as f64 / start.elapsed().as_secs_f64())
}

fn have_stream(path: &Path, bytes: usize) -> anyhow::Result<()> {
    if std::fs::metadata(path).map_or(0, |meta| meta.len()) != bytes as u64 {
        write(path, bytes)?;
    }
    Ok(())
}

/// Cold for all alike: nothing in the page cache, neither of the file nor of the image below it.
fn forget_caches() -> anyhow::Result<()> {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot empty the page cache")
}

/// The streamed file read once in 1 MiB pieces, nothing cached; MiB per second.
pub fn read_cold(path: &Path, bytes: usize) -> anyhow::Result<f64> {
    have_stream(path, bytes)?;
    forget_caches()?;
    read_through(path, bytes)
}

/// The same, everything cached: the second of two passes.
pub fn read_warm(path: &Path, bytes: usize) -> anyhow::Result<f64> {
    have_stream(path, bytes)?;
    read_through(path, bytes)?;
    read_through(path, bytes)
}

fn read_through(path: &Path, bytes: usize) -> anyhow::Result<f64> {
    let mut buffer = vec![0; MIB];
    let start = Instant::now();
    let mut file = File::open(path)?;
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => total += count,
        }
    }
    anyhow::ensure!(total == bytes, "read {total} bytes of {bytes}");
    Ok((bytes / MIB) as f64 / start.elapsed().as_secs_f64())
}

/// Callers that read at once.
const QUEUE: usize = 16;

/// Blocks of the streamed file in no order, each once, nothing cached, 16 at a time; reads per second.
pub fn random_cold(path: &Path, bytes: usize, reads: usize) -> anyhow::Result<f64> {
    have_stream(path, bytes)?;
    forget_caches()?;
    let file = File::open(path)?;
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    let blocks = bytes / BLOCK;
    let reads = reads.min(blocks) / QUEUE * QUEUE;
    let start = Instant::now();
    let done: Vec<std::io::Result<()>> = std::thread::scope(|scope| {
        let file = &file;
        let spawned: Vec<_> = (0..QUEUE)
            .map(|first| scope.spawn(move || read_some(file, blocks, (first..reads).step_by(QUEUE))))
            .collect();
        let died = || Err(std::io::Error::other("a reader died"));
        spawned.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    });
    let time = start.elapsed().as_secs_f64();
    done.into_iter().collect::<std::io::Result<Vec<()>>>()?;
    Ok(reads as f64 / time)
}

const BLOCK: usize = 4096;

/// The factor is odd and the number of blocks a power of two, so that no block comes twice.
fn read_some(file: &File, blocks: usize, numbers: impl Iterator<Item = usize>) -> std::io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    for number in numbers {
        let at = number.wrapping_mul(0x9e37_79b1) % blocks;
        file.read_exact_at(&mut buffer, (at * BLOCK) as u64)?;
    }
    Ok(())
}
