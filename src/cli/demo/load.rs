//! What the demo writes and checks: real files with their digests, and records that were acknowledged.
//!
//! Decides which files are taken and what a record looks like. Does not know nodes. Invariant: a record counts as
//! acknowledged only after fdatasync returned success for it; nothing is created again after the start, so a record
//! can only go to the file on the replicated directory.
#![allow(clippy::disallowed_methods, reason = "a shell: files, threads, time")]

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::sys::random;

/// Files that go in, at least.
const FILES_MIN: usize = 5_000;
const FILES_MAX: usize = 6_000;
const FILE_BYTES_MAX: u64 = 256 << 10;
const TOTAL_BYTES_MAX: u64 = 150 << 20;
const COPIERS: usize = 3;
const WRITERS: usize = 4;
/// Folders that a machine may have.
const PLACES: &[&str] = &[
    "/usr/share/doc",
    "/usr/include",
    "/usr/lib/python3",
    "/usr/share/perl",
    "/usr/share",
    "/usr/lib",
    "/etc",
];

/// Ordinary files of this machine, enough of them where it has them.
pub fn find_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut total = 0;
    let toolchain = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    for place in PLACES.iter().map(PathBuf::from).chain(toolchain) {
        walk(&place, &mut |path, len| {
            if len <= FILE_BYTES_MAX && total + len <= TOTAL_BYTES_MAX && seen.insert(path.to_path_buf()) {
                total += len;
                found.push(path.to_path_buf());
            }
            found.len() < FILES_MAX
        });
    }
    found
}

/// Calls `take` for every regular file below `dir`, in order, until it answers `false`.
fn walk(dir: &Path, take: &mut dyn FnMut(&Path, u64) -> bool) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return true };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        let go_on =
            if meta.is_dir() { walk(&path, take) } else { !meta.is_file() || take(&path, meta.len()) };
        if !go_on {
            return false;
        }
    }
    true
}

/// Files on the replicated directory, with what they must hold.
pub struct Files {
    all: Vec<(PathBuf, blake3::Hash)>,
    bytes: u64,
}

impl Files {
    /// Copies `sources` below `target`; makes up what is missing to `FILES_MIN`.
    pub fn copy(
        sources: &[PathBuf],
        target: &Path,
        progress: &(dyn Fn(u64) + Sync),
    ) -> anyhow::Result<Files> {
        std::fs::create_dir(target).with_context(|| target.display().to_string())?;
        let next = AtomicUsize::new(0);
        let count = sources.len().max(FILES_MIN);
        let worker = || -> anyhow::Result<(Vec<(PathBuf, blake3::Hash)>, u64)> {
            let (mut made, mut bytes) = (Vec::new(), 0);
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok((made, bytes));
                }
                let (path, content) = match sources.get(n) {
                    Some(source) => {
                        // A file that goes away or may not be read is nobody's business here.
                        let Ok(content) = std::fs::read(source) else { continue };
                        (target.join(source.strip_prefix("/").unwrap_or(source)), content)
                    }
                    None => (target.join(format!("made-up/{n}")), made_up(n)),
                };
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
                }
                std::fs::write(&path, &content).with_context(|| path.display().to_string())?;
                bytes += content.len() as u64;
                made.push((path, blake3::hash(&content)));
                progress(n as u64);
            }
        };
        let mut files = Files { all: Vec::new(), bytes: 0 };
        let parts: Vec<anyhow::Result<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..COPIERS).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a copier died"))).collect()
        });
        for part in parts {
            let (made, bytes) = part?;
            files.all.extend(made);
            files.bytes += bytes;
        }
        if files.all.len() < FILES_MIN {
            bail!("only {} files could be read on this machine", files.all.len());
        }
        files.all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(files)
    }

    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files that do not hold what was copied.
    pub fn wrong(&self, progress: &dyn Fn(u64)) -> Vec<PathBuf> {
        let mut wrong = Vec::new();
        for (n, (path, hash)) in self.all.iter().enumerate() {
            if !std::fs::read(path).is_ok_and(|content| blake3::hash(&content) == *hash) {
                wrong.push(path.clone());
            }
            progress(n as u64);
        }
        wrong
    }

    /// For the test of the check itself.
    pub fn alter_one_byte(&self) -> anyhow::Result<()> {
        for (path, _) in &self.all {
            let content = std::fs::read(path)?;
            if let Some(byte) = content.first() {
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(&[!byte], 0)?;
                return Ok(());
            }
        }
        bail!("every file is empty")
    }
}

fn made_up(n: usize) -> Vec<u8> {
    let line = format!("file {n}: {}\n", blake3::hash(&n.to_le_bytes()).to_hex());
    line.repeat(1 + n % 200).into_bytes()
}

/// Writes `len` bytes that nothing compresses or deduplicates.
pub fn write_later(path: &Path, len: usize) -> anyhow::Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut block = vec![0_u8; 1 << 20];
    let mut left = len;
    let mut reader = blake3::Hasher::new_keyed(&random::bytes()).finalize_xof();
    while left > 0 {
        reader.fill(&mut block);
        let part = left.min(block.len());
        file.write_all(&block[..part])?;
        left -= part;
    }
    file.sync_all().with_context(|| path.display().to_string())
}

/// A record: who, which, and a digest over both.
fn record(writer: usize, number: u64) -> String {
    let hash = blake3::hash(format!("{writer} {number}").as_bytes()).to_hex();
    format!("writer {writer} record {number:>8} {hash}\n")
}

fn parse(line: &str) -> Option<(usize, u64)> {
    let mut words = line.split_whitespace().skip(1);
    let writer = words.next()?.parse().ok()?;
    let number = words.nth(1)?.parse().ok()?;
    (record(writer, number).trim_end() == line).then_some((writer, number))
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Acknowledged records of each writer are 0..this.
    acknowledged: [AtomicU64; WRITERS],
    /// Moments of the first acknowledgement after an error.
    resumed: Mutex<Vec<Instant>>,
}

/// Writers that append records, each stable before the next.
pub struct Writers {
    dir: PathBuf,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writers {
    pub fn start(dir: &Path) -> anyhow::Result<Writers> {
        std::fs::create_dir(dir).with_context(|| dir.display().to_string())?;
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for writer in 0..WRITERS {
            let path = log_path(dir, writer);
            File::create(&path)?.sync_all().with_context(|| path.display().to_string())?;
            // The name itself must be stable, too.
            File::open(dir)?.sync_all()?;
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || write_records(writer, &path, &shared)));
        }
        Ok(Writers { dir: dir.to_path_buf(), shared, threads: Mutex::new(threads) })
    }

    pub fn count(&self) -> usize {
        WRITERS
    }

    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    /// When the first record was acknowledged after `moment`, by a writer that had met an error.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        let resumed = self.shared.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        resumed.iter().filter(|at| **at > moment).min().copied()
    }

    /// Ends the writers; what is acknowledged stays.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // A writer that died acknowledges nothing more.
            let _ = thread.join();
        }
    }

    /// Acknowledged records that are not in the files: (writer, number).
    pub fn lost(&self) -> anyhow::Result<Vec<(usize, u64)>> {
        let mut lost = Vec::new();
        for writer in 0..WRITERS {
            let path = log_path(&self.dir, writer);
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let text = String::from_utf8_lossy(&text);
            let there: BTreeSet<u64> =
                text.lines().filter_map(parse).filter(|(w, _)| *w == writer).map(|(_, n)| n).collect();
            let count = self.shared.acknowledged[writer].load(Ordering::SeqCst);
            lost.extend((0..count).filter(|n| !there.contains(n)).map(|n| (writer, n)));
        }
        Ok(lost)
    }

    /// For the test of the check itself.
    pub fn lose_one_record(&self) -> anyhow::Result<()> {
        let path = log_path(&self.dir, 1);
        let text = std::fs::read_to_string(&path)?;
        let middle = self.shared.acknowledged[1].load(Ordering::SeqCst) / 2;
        let without: String = text
            .lines()
            .filter(|line| parse(line) != Some((1, middle)))
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::write(&path, without)?;
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn log_path(dir: &Path, writer: usize) -> PathBuf {
    dir.join(format!("writer-{writer}"))
}

/// Appends record after record; after an error it opens the file again, which never makes one, and repeats the record.
fn write_records(writer: usize, path: &Path, shared: &Shared) {
    let mut file = None;
    let mut number = 0;
    let mut failed = false;
    while !shared.stop.load(Ordering::SeqCst) {
        let opened = match file.take() {
            Some(open) => Ok(open),
            None => OpenOptions::new().append(true).open(path),
        };
        let written = opened.and_then(|mut open: File| {
            open.write_all(record(writer, number).as_bytes())?;
            open.sync_data()?;
            Ok(open)
        });
        match written {
            Ok(open) => {
                number += 1;
                shared.acknowledged[writer].store(number, Ordering::SeqCst);
                if std::mem::take(&mut failed) {
                    shared.resumed.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                file = Some(open);
            }
            Err(_) => {
                failed = true;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_recognised_whole_or_not_at_all() {
        let line = record(3, 71);
        assert_eq!(parse(line.trim_end()), Some((3, 71)));
        assert_eq!(parse(&line[..line.len() - 2]), None);
        assert_eq!(parse(&line.trim_end().replace("71", "72")), None);
    }

    #[test]
    fn a_deleted_record_and_an_altered_byte_are_found() {
        let dir = std::env::temp_dir().join(format!("twinfs-load-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        let files = Files::copy(&[], &dir.join("files"), &|_| {}).unwrap();
        assert_eq!(files.count(), FILES_MIN as u64);
        assert!(files.wrong(&|_| {}).is_empty());
        files.alter_one_byte().unwrap();
        assert_eq!(files.wrong(&|_| {}).len(), 1);
        let writers = Writers::start(&dir.join("log")).unwrap();
        while writers.shared.acknowledged.iter().any(|count| count.load(Ordering::SeqCst) < 3) {
            std::thread::sleep(Duration::from_millis(1));
        }
        writers.stop();
        assert!(writers.lost().unwrap().is_empty());
        writers.lose_one_record().unwrap();
        assert_eq!(writers.lost().unwrap().len(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
