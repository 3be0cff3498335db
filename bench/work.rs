//! What is measured: each work runs in a folder of a mounted filesystem and answers with one figure.
//!
//! Decides sizes and what counts as cold. Does not know which filesystem it runs on: the calls are the same for all.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

const MIB: usize = 1 << 20;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Bytes of the streamed file.
    pub stream: usize,
    /// Files made, looked at and removed.
    pub files: usize,
    /// How long writers with fsync run.
    pub fsync: Duration,
    /// Bytes of the archive at most.
    pub archive: u64,
    /// Bytes of an image.
    pub image: u64,
}

impl Scale {
    pub const QUICK: Scale = Scale {
        stream: 128 * MIB,
        files: 10_000,
        fsync: Duration::from_secs(2),
        archive: 48 << 20,
        image: 1 << 30,
    };
    pub const FULL: Scale = Scale {
        stream: 512 * MIB,
        files: 10_000,
        fsync: Duration::from_secs(10),
        archive: 256 << 20,
        image: 4 << 30,
    };
}

/// One work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    OverwriteFsync(usize),
    AppendFsync(usize),
    SeqWrite,
    SeqReadCold,
    Create,
    StatWarm,
    Unlink,
    Untar,
}

impl Work {
    /// In this order: some use what an earlier one left.
    pub const ALL: &[Work] = &[
        Work::OverwriteFsync(1),
        Work::OverwriteFsync(4),
        Work::AppendFsync(1),
        Work::AppendFsync(4),
        Work::SeqWrite,
        Work::SeqReadCold,
        Work::Create,
        Work::StatWarm,
        Work::Unlink,
        Work::Untar,
    ];

    pub fn names() -> String {
        Work::ALL.iter().map(|work| work.name()).collect::<Vec<_>>().join(" ")
    }

    pub fn name(self) -> &'static str {
        match self {
            Work::OverwriteFsync(1) => "overwrite_fsync_1",
            Work::OverwriteFsync(_) => "overwrite_fsync_4",
            Work::AppendFsync(1) => "append_fsync_1",
            Work::AppendFsync(_) => "append_fsync_4",
            Work::SeqWrite => "seqwrite",
            Work::SeqReadCold => "seqread_cold",
            Work::Create => "create",
            Work::StatWarm => "stat_warm",
            Work::Unlink => "unlink",
            Work::Untar => "untar",
        }
    }

    pub fn metric(self) -> &'static str {
        match self {
            Work::SeqWrite | Work::SeqReadCold => "throughput",
            Work::Untar => "time",
            _ => "rate",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Work::SeqWrite | Work::SeqReadCold => "MiB/s",
            Work::Untar => "s",
            Work::OverwriteFsync(_) | Work::AppendFsync(_) => "writes/s",
            Work::Create | Work::StatWarm | Work::Unlink => "files/s",
        }
    }

    pub fn less_is_faster(self) -> bool {
        self == Work::Untar
    }

    /// Runs once in `dir` and answers in `unit`.
    pub fn run(self, dir: &Path, scale: Scale, archive: &Path) -> anyhow::Result<f64> {
        match self {
            Work::OverwriteFsync(writers) => fsync_rate(dir, writers, scale.fsync, true),
            Work::AppendFsync(writers) => fsync_rate(dir, writers, scale.fsync, false),
            Work::SeqWrite => seqwrite(&dir.join("stream"), scale.stream),
            Work::SeqReadCold => seqread(&dir.join("stream"), scale.stream),
            Work::Create => create(&dir.join("many"), scale.files),
            Work::StatWarm => stat(&dir.join("many"), scale.files),
            Work::Unlink => unlink(&dir.join("many"), scale.files),
            Work::Untar => untar(&dir.join("tree"), archive),
        }
    }
}

/// Bytes of the file of an overwriting writer.
const OVERWRITTEN: usize = 16 * MIB;

/// `writers` threads, each with a file of its own, write 4 KiB and fdatasync for `time`; writes per second of all.
fn fsync_rate(dir: &Path, writers: usize, time: Duration, overwrite: bool) -> anyhow::Result<f64> {
    let mut files = Vec::new();
    for number in 0..writers {
        let path = dir.join(format!("writer{number}"));
        let _ = std::fs::remove_file(&path);
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if overwrite {
            file.write_all(&vec![0x5a; OVERWRITTEN])?;
        }
        file.sync_all()?;
        files.push(file);
    }
    File::open(dir)?.sync_all()?;
    let start = Instant::now();
    let counts: Vec<std::io::Result<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(number, file)| {
                scope.spawn(move || write_until(file, number as u64, start + time, overwrite))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a writer died"))))
            .collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let mut total = 0;
    for count in counts {
        total += count?;
    }
    for number in 0..writers {
        std::fs::remove_file(dir.join(format!("writer{number}")))?;
    }
    Ok(total as f64 / elapsed)
}

fn write_until(file: &File, seed: u64, end: Instant, overwrite: bool) -> std::io::Result<u64> {
    let blocks = (OVERWRITTEN / 4096) as u64;
    let (mut count, mut dice) = (0_u64, seed + 1);
    let mut block = vec![0_u8; 4096];
    while Instant::now() < end {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        block[..8].copy_from_slice(&dice.to_le_bytes());
        let at = if overwrite { (dice >> 33) % blocks } else { count };
        file.write_all_at(&block, at * 4096)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count)
}

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

fn seqwrite(path: &Path, bytes: usize) -> anyhow::Result<f64> {
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

fn seqread(path: &Path, bytes: usize) -> anyhow::Result<f64> {
    if std::fs::metadata(path).map_or(0, |meta| meta.len()) != bytes as u64 {
        seqwrite(path, bytes)?;
    }
    // Cold for all alike: nothing in the page cache, neither of the file nor of the image below it.
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot empty the page cache")?;
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

/// Files in one folder of the many.
const PER_DIR: usize = 1_000;

fn each_file(
    dir: &Path,
    files: usize,
    mut act: impl FnMut(&Path) -> std::io::Result<()>,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    for number in 0..files {
        let path = dir.join(format!("{}/file-{number}", number / PER_DIR));
        act(&path).with_context(|| path.display().to_string())?;
    }
    Ok(files as f64 / start.elapsed().as_secs_f64())
}

fn create(dir: &Path, files: usize) -> anyhow::Result<f64> {
    let _ = std::fs::remove_dir_all(dir);
    for number in 0..files.div_ceil(PER_DIR) {
        std::fs::create_dir_all(dir.join(number.to_string()))?;
    }
    each_file(dir, files, |path| File::create_new(path).map(drop))
}

fn have_files(dir: &Path, files: usize) -> anyhow::Result<()> {
    if !dir.join(format!("{}/file-{}", (files - 1) / PER_DIR, files - 1)).exists() {
        create(dir, files)?;
    }
    Ok(())
}

fn stat(dir: &Path, files: usize) -> anyhow::Result<f64> {
    have_files(dir, files)?;
    each_file(dir, files, |path| std::fs::symlink_metadata(path).map(drop))?;
    each_file(dir, files, |path| std::fs::symlink_metadata(path).map(drop))
}

fn unlink(dir: &Path, files: usize) -> anyhow::Result<f64> {
    have_files(dir, files)?;
    let rate = each_file(dir, files, |path| std::fs::remove_file(path))?;
    std::fs::remove_dir_all(dir)?;
    Ok(rate)
}

fn untar(dir: &Path, archive: &Path) -> anyhow::Result<f64> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir)?;
    let start = Instant::now();
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir).status().context("tar")?;
    anyhow::ensure!(status.success(), "tar ended with {status}");
    File::open(dir)?.sync_all()?;
    let time = start.elapsed().as_secs_f64();
    std::fs::remove_dir_all(dir)?;
    Ok(time)
}

/// An archive of files that every machine has.
pub fn make_archive(archive: &Path, scale: Scale) -> anyhow::Result<()> {
    let mut list = Vec::new();
    let mut left = scale.archive;
    for root in
        ["/usr/include", "/usr/share/doc", "/usr/lib/python3", "/usr/share/perl", "/usr/lib/x86_64-linux-gnu"]
    {
        gather(Path::new(root), &mut list, &mut left);
    }
    anyhow::ensure!(list.len() >= 100, "only {} files for the archive below /usr", list.len());
    let names = archive.with_extension("list");
    std::fs::write(&names, list.join("\n"))?;
    let status = Command::new("tar")
        .args(["-C", "/", "-cf"])
        .arg(archive)
        .arg("-T")
        .arg(&names)
        .status()
        .context("tar is needed")?;
    anyhow::ensure!(status.success(), "tar ended with {status}");
    Ok(())
}

fn gather(dir: &Path, list: &mut Vec<String>, left: &mut u64) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        if meta.is_dir() {
            gather(&path, list, left);
        } else if meta.is_file() && meta.len() < 1 << 20 {
            let Some(next) = left.checked_sub(meta.len() + 4096) else { return };
            let Some(name) = path.to_str().map(|name| name.trim_start_matches('/')) else { continue };
            if !name.contains('\n') {
                *left = next;
                list.push(name.to_string());
            }
        }
    }
}
