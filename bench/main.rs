//! Times of twinfs beside ext4, as ratios taken in one run on one machine, all images on the same disk; what a resync
//! costs; and where the time of a replicated fsync goes.
//!
//! Decides which parts run. Does not know how anything is measured. Whatever ends a run, an error, a panic or a
//! signal, takes down what it made.
#![allow(clippy::disallowed_methods, reason = "a shell: clock, files, processes")]

mod aims;
mod breakdown;
mod gluster;
#[path = "../integration/harness/mod.rs"]
mod harness;
mod latency;
mod pair;
mod programs;
mod report;
mod resync;
mod setup;
mod stable;
mod stop;
mod stream;
mod tree;
mod work;
mod works;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use report::Row;
use work::Scale;

/// Times of twinfs beside ext4 on a loop image, as ratios, what a resync costs, and where the time of an fsync
/// goes. All figures:
/// twinfs-bench --only all --setup standalone,pair,gluster --rounds 5 --json FILE
#[derive(Parser, Debug)]
#[command(name = "twinfs-bench")]
struct Args {
    /// Small files and three rounds: a few minutes
    #[arg(long)]
    quick: bool,
    /// Write JSON Lines there, one object a row
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds (default: 3 with --quick, else 7)
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these parts: works, resync, one of resync (latency stall outage compare first), breakdown, all
    #[arg(long, value_name = "PART", value_delimiter = ',', default_value = "works")]
    only: Vec<String>,
    /// Only these works
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    work: Vec<String>,
    /// Only these setups: standalone, pair, gluster (only if named: Debian's package is installed for it); ext4 always
    #[arg(long, value_name = "SETUP", value_delimiter = ',')]
    setup: Vec<String>,
    /// Folder for the images; its disk is what is measured
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
}

impl Args {
    /// A part was asked for, by its name or by one of these.
    fn wants(&self, names: &[&str]) -> bool {
        self.only.iter().any(|only| only == "all" || names.contains(&only.as_str()))
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinfs-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "needs root (loop devices, mounts)");
    let known = |name: &String| {
        ["all", "works", "resync", "breakdown"].contains(&name.as_str()) || resync::is_part(name)
    };
    if let Some(wrong) = args.only.iter().find(|name| !known(name)) {
        anyhow::bail!("no such part: {wrong}; see --help");
    }
    stop::watch()?;
    let scratch = Scratch::make(&args.dir)?;
    harness::world::keep_in(scratch.0.clone());
    let scale = if args.quick { Scale::QUICK } else { Scale::FULL };
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 7 });
    let twinfs = setup::twinfs_program()?;
    let mut rows = Vec::new();
    let done = measure(args, (scale, rounds), &scratch.0, &twinfs, &mut rows);
    report::table(&rows);
    save(args, &rows)?;
    done
}

/// Every part that was asked for; what was measured is in `rows` also if a later part fails, and in the file as well.
fn measure(
    args: &Args,
    (scale, rounds): (Scale, usize),
    scratch: &Path,
    twinfs: &Path,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    if args.wants(&["works"]) {
        works::run(scratch, &args.work, &args.setup, twinfs, (scale, rounds), rows)?;
        save(args, rows)?;
    }
    for part in resync::PARTS {
        if args.wants(&["resync", part.name]) {
            rows.extend(part.run(args.quick, rounds)?);
            save(args, rows)?;
        }
    }
    if args.wants(&["breakdown"]) {
        rows.extend(breakdown::run(scratch, twinfs, args.quick, rounds)?);
    }
    Ok(())
}

fn save(args: &Args, rows: &[Row]) -> anyhow::Result<()> {
    match &args.json {
        Some(path) => report::json(rows, path).with_context(|| path.display().to_string()),
        None => Ok(()),
    }
}

/// The folder of this run; removed at the end, however it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn make(dir: &Path) -> anyhow::Result<Scratch> {
        let path = dir.join(format!("twinfs-bench-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("twinfs-bench: {} is left: {error}", self.0.display());
        }
    }
}
