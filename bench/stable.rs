//! Works that wait for the disk at every step: overwrites, appends, mail delivery, a database.
//!
//! Decides what a step is and that it counts only when it is stable.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::work::MIB;

/// Bytes of the file of an overwriting writer.
const OVERWRITTEN: usize = 16 * MIB;

/// `writers` threads, each with a file of its own, write 4 KiB and fdatasync for `time`; writes per second of all.
pub fn fsync_rate(dir: &Path, writers: usize, time: Duration, overwrite: bool) -> anyhow::Result<f64> {
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
    let rate =
        rate_of(writers, time, |number, end| write_until(&files[number], number as u64, end, overwrite))?;
    for number in 0..writers {
        std::fs::remove_file(dir.join(format!("writer{number}")))?;
    }
    Ok(rate)
}

/// Runs `act` on that many threads until the time is over; what they did a second, together.
fn rate_of(
    threads: usize,
    time: Duration,
    act: impl Fn(usize, Instant) -> std::io::Result<u64> + Sync,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    let act = &act;
    let counts: Vec<std::io::Result<u64>> = std::thread::scope(|scope| {
        let spawned: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || act(number, start + time))).collect();
        let died = || Err(std::io::Error::other("a thread of the work died"));
        spawned.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let mut total = 0;
    for count in counts {
        total += count?;
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

/// `writers` threads deliver mail for `time`, as a mail server does: 4 KiB into a new file, fsync, rename from `tmp`
/// into `new`; mails per second of all.
pub fn mail(dir: &Path, writers: usize, time: Duration) -> anyhow::Result<f64> {
    let _ = std::fs::remove_dir_all(dir);
    for name in ["tmp", "new"] {
        std::fs::create_dir_all(dir.join(name))?;
    }
    File::open(dir)?.sync_all()?;
    let rate = rate_of(writers, time, |number, end| deliver(dir, number, end))?;
    std::fs::remove_dir_all(dir)?;
    Ok(rate)
}

fn deliver(dir: &Path, writer: usize, end: Instant) -> std::io::Result<u64> {
    let body = vec![b'm'; 4096];
    let mut count = 0;
    while Instant::now() < end {
        let name = format!("{writer}.{count}");
        let tmp = dir.join("tmp").join(&name);
        let mut file = File::create_new(&tmp)?;
        file.write_all(&body)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&tmp, dir.join("new").join(&name))?;
        count += 1;
    }
    Ok(count)
}

/// One row a transaction through sqlite3(1), `synchronous=full`; commits per second.
pub fn sqlite(dir: &Path, journal: &str, transactions: usize) -> anyhow::Result<f64> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir)?;
    let database = dir.join("bench.db");
    let set_up = format!(
        "PRAGMA journal_mode={journal};\nCREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, body BLOB);\n\
         CREATE INDEX by_name ON t (name);\n"
    );
    run_sqlite(&database, &set_up)?;
    let mut script = format!("PRAGMA journal_mode={journal};\nPRAGMA synchronous=FULL;\n");
    for number in 0..transactions {
        let name = number.wrapping_mul(2_654_435_761) % 1_000_003;
        script.push_str(&format!("INSERT INTO t VALUES ({number}, 'name {name}', randomblob(300));\n"));
    }
    let start = Instant::now();
    run_sqlite(&database, &script)?;
    let time = start.elapsed().as_secs_f64();
    let output = Command::new("sqlite3").arg(&database).arg("SELECT count(*) FROM t").output()?;
    let rows = String::from_utf8_lossy(&output.stdout).trim().to_string();
    anyhow::ensure!(rows == transactions.to_string(), "{rows} rows of {transactions} in the database");
    std::fs::remove_dir_all(dir)?;
    Ok(transactions as f64 / time)
}

fn run_sqlite(database: &Path, script: &str) -> anyhow::Result<()> {
    let mut command = Command::new("sqlite3");
    command.args(["-bail", "-batch"]).arg(database);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("sqlite3 is needed (Debian package sqlite3)")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "sqlite3 ended with {status}");
    Ok(())
}
