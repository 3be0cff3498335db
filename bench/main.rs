//! Times of twinfs beside ext4, as ratios taken in one run on one machine, all images on the same disk.
//!
//! Decides the order of measuring: rounds, in each round every work, in each work every setup in turn, so that what
//! disturbs the machine disturbs all setups alike. The median of the rounds counts. Does not know what a setup is
//! made of (`setup`) or what a work does (`work`).
#![allow(clippy::disallowed_methods, reason = "a shell: clock, files, processes")]

mod pair;
mod report;
mod setup;
mod stable;
mod stream;
mod tree;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use report::Row;
use setup::Setup;
use work::{Scale, Work};

/// Times of twinfs beside ext4 on a loop image, as ratios.
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
    /// Only these works
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    work: Vec<String>,
    /// Only these setups; ext4 is always measured
    #[arg(long, value_name = "SETUP", value_delimiter = ',')]
    setup: Vec<String>,
    /// Folder for the images; its disk is what is measured
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
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
    let works: Vec<Work> = Work::ALL
        .iter()
        .copied()
        .filter(|work| args.work.is_empty() || args.work.iter().any(|name| name == work.name()))
        .collect();
    anyhow::ensure!(!works.is_empty(), "no such work; there are: {}", Work::names());
    let scratch = Scratch::make(&args.dir)?;
    let scale = if args.quick { Scale::QUICK } else { Scale::FULL };
    let archive = scratch.0.join("tree.tar");
    tree::make_archive(&archive, scale)?;
    let setups = setup::start(&scratch.0, &args.setup, scale)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 7 });

    let mut figures: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for (w, work) in works.iter().enumerate() {
            for (s, setup) in setups.iter().enumerate() {
                let figure = measure(*work, setup, scale, &archive)?;
                eprintln!(
                    "round {round}/{rounds}  {:18} {:11} {figure:12.1} {}",
                    work.name(),
                    setup.name(),
                    work.unit()
                );
                figures.entry((w, s)).or_default().push(figure);
            }
        }
    }
    let names: Vec<&'static str> = setups.iter().map(Setup::name).collect();
    drop(setups);
    let rows = rows(&works, &names, &figures);
    report::table(&rows);
    if let Some(path) = &args.json {
        report::json(&rows, path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn measure(work: Work, setup: &Setup, scale: Scale, archive: &Path) -> anyhow::Result<f64> {
    work.run(setup.dir(), scale, archive).with_context(|| format!("{} on {}", work.name(), setup.name()))
}

/// Medians, and their ratio to ext4 so that more than 1 is faster.
fn rows(works: &[Work], setups: &[&'static str], figures: &BTreeMap<(usize, usize), Vec<f64>>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (w, work) in works.iter().enumerate() {
        let ext4 = figures.get(&(w, 0)).map_or(f64::NAN, |values| report::median(values));
        for ((_, s), values) in figures.range((w, 0)..(w + 1, 0)) {
            let value = report::median(values);
            rows.push(Row {
                work: work.name(),
                setup: setups[*s],
                metric: work.metric(),
                value,
                unit: work.unit(),
                ratio: if work.less_is_faster() { ext4 / value } else { value / ext4 },
            });
        }
    }
    rows
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
