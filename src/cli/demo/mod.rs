//! `twinfs demo`: two nodes and a witness on this machine; write, kill, take over, check, resync, compare.
//!
//! Decides the story and what counts as a failure. Does not know how a node works: it starts the same programs that
//! an administrator would, and looks at files. Invariants: nothing outside its own folder and ports is touched; with
//! `--json` exactly one object is printed; what it started ends with it, unless `--keep`.
#![allow(clippy::disallowed_methods, reason = "a shell: processes, files, time")]

mod compare;
mod load;
mod pair;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::place::need_root_and_fuse;
use super::progress::Progress;
use super::{Exit, Output};
use crate::daemon::protocol::Request;
use crate::daemon::status::bytes;
use load::{Files, Writers};
use pair::{Name, Pair};

/// Acknowledged records before the kill, and after it.
const RECORDS_BEFORE: u64 = 1_500;
const RECORDS_AFTER: u64 = 500;
/// For anything that should take seconds.
const LIMIT: Duration = Duration::from_secs(60);
/// Written by the survivor while the other node is dead, so that there is something to resync.
const LATER_BYTES: usize = 48 << 20;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Leave both nodes running at the end and say how to look around
    #[arg(long)]
    keep: bool,
    /// Two nodes only, with arbitration "yield"
    #[arg(long)]
    no_witness: bool,
    /// Where to work; a new folder in it is used, on a real disk if that is to mean something
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Delete one acknowledged record and alter one byte before the check: both must be found
    #[arg(long, hide = true)]
    sabotage: bool,
}

/// The last line of `--json`.
#[derive(Debug, Default, Serialize)]
struct Summary {
    records_acknowledged: u64,
    records_lost: u64,
    files_checked: u64,
    files_wrong: u64,
    takeover_ms: u64,
    resync_bytes: u64,
    resync_ms: u64,
    images_equal: bool,
    blocks_compared: u64,
    arbitration: &'static str,
    seconds: u64,
}

impl Summary {
    fn is_good(&self) -> bool {
        self.records_lost == 0 && self.files_wrong == 0 && self.images_equal
    }
}

/// Prints the story with its times.
struct Story<'a> {
    began: Instant,
    output: &'a Output,
}

impl Story<'_> {
    fn tell(&self, text: impl std::fmt::Display) {
        self.output.line(format_args!("[{:>5.1} s] {text}", self.began.elapsed().as_secs_f32()));
    }
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    need_root_and_fuse()?;
    let story = Story { began: Instant::now(), output };
    let mut pair = Pair::make(&args.dir, !args.no_witness)?;
    story.tell(format_args!(
        "two nodes{} in {}",
        if args.no_witness { "" } else { " and a witness" },
        pair.dir.display()
    ));
    let outcome = play(args, &story, &mut pair);
    match &outcome {
        Ok(summary) => {
            let summary = summary_object(summary);
            if args.keep {
                keep(&mut pair, output)?;
            } else {
                pair.end();
                let _ = std::fs::remove_dir_all(&pair.dir);
            }
            output.object(summary);
        }
        Err(_) => {
            pair.end();
            output.note(format_args!("the logs of both nodes are in {}", pair.dir.display()));
        }
    }
    let summary = outcome?;
    Ok(if summary.is_good() { Exit::DONE } else { Exit::FAILED })
}

fn summary_object(summary: &Summary) -> serde_json::Value {
    serde_json::to_value(summary).unwrap_or_default()
}

fn play(args: &Args, story: &Story<'_>, pair: &mut Pair) -> anyhow::Result<Summary> {
    let mut summary =
        Summary { arbitration: if args.no_witness { "yield" } else { "witness" }, ..Summary::default() };
    pair.start_all()?;
    pair.wait_in_sync(Name::Alpha, LIMIT)?;
    story.tell("both nodes are up and in sync; alpha is primary and has mounted the directory");
    let files = fill(story, pair)?;
    let writers = Writers::start(&pair.mount.join("log"))?;
    kill_in_mid_write(story, pair, &writers, &mut summary)?;
    if args.sabotage {
        writers.lose_one_record()?;
        files.alter_one_byte()?;
        story.tell("sabotage: one acknowledged record deleted, one byte of a file altered");
    }
    check(story, &files, &writers, &mut summary)?;
    bring_back(story, pair, &mut summary)?;
    pair.stop_both(LIMIT)?;
    let found = compare::images(&pair.image(Name::Alpha), &pair.image(Name::Beta))?;
    summary.images_equal = found.different.is_none();
    summary.blocks_compared = found.blocks;
    match found.different {
        None => {
            story.tell(format_args!("both images are equal in all {} blocks of the data area", found.blocks))
        }
        Some(block) => story.tell(format_args!("THE IMAGES DIFFER, first in block {block}")),
    }
    summary.seconds = story.began.elapsed().as_secs();
    tell_summary(story, &summary);
    Ok(summary)
}

/// Real files go in, and are stable on both nodes.
fn fill(story: &Story<'_>, pair: &Pair) -> anyhow::Result<Files> {
    let plan = load::find_files();
    let bar = Progress::items("copying files", plan.len() as u64);
    let files = Files::copy(&plan, &pair.mount.join("files"), &|done| bar.at(done))?;
    bar.clear();
    pair.order(Name::Alpha, &Request::Sync { volume: None })?;
    story.tell(format_args!(
        "{} files, {}, copied in and stable on both nodes",
        files.count(),
        bytes(files.bytes())
    ));
    Ok(files)
}

fn kill_in_mid_write(
    story: &Story<'_>,
    pair: &mut Pair,
    writers: &Writers,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    wait(LIMIT, "the writers", || writers.acknowledged() >= RECORDS_BEFORE)?;
    pair.wait_in_sync(Name::Alpha, LIMIT)?;
    let before = writers.acknowledged();
    let killed = Instant::now();
    pair.kill(Name::Alpha)?;
    story.tell(format_args!(
        "{before} records acknowledged by {} writers: alpha is killed with SIGKILL",
        writers.count()
    ));
    wait(LIMIT, "beta to serve", || writers.first_after(killed).is_some())?;
    let first = writers.first_after(killed).unwrap_or(killed);
    summary.takeover_ms = u64::try_from(first.duration_since(killed).as_millis()).unwrap_or(u64::MAX);
    story.tell(format_args!(
        "beta serves the directory; first write stable {} ms after the kill (it waited {} of silence: deadtime)",
        summary.takeover_ms,
        pair::DEADTIME
    ));
    let now = writers.acknowledged();
    wait(LIMIT, "records on beta", || writers.acknowledged() >= now + RECORDS_AFTER)?;
    writers.stop();
    summary.records_acknowledged = writers.acknowledged();
    Ok(())
}

fn check(story: &Story<'_>, files: &Files, writers: &Writers, summary: &mut Summary) -> anyhow::Result<()> {
    let lost = writers.lost()?;
    summary.records_lost = lost.len() as u64;
    for record in lost.iter().take(5) {
        story.tell(format_args!("LOST: record {} of writer {}", record.1, record.0));
    }
    let bar = Progress::items("checking files", files.count());
    let wrong = files.wrong(&|done| bar.at(done));
    bar.clear();
    summary.files_checked = files.count();
    summary.files_wrong = wrong.len() as u64;
    for path in wrong.iter().take(5) {
        story.tell(format_args!("WRONG: {}", path.display()));
    }
    story.tell(format_args!(
        "checked on beta: {} acknowledged records, {} lost; {} files, {} wrong",
        summary.records_acknowledged, summary.records_lost, summary.files_checked, summary.files_wrong
    ));
    Ok(())
}

/// Beta changes something alone, then alpha comes back and is brought up to date.
fn bring_back(story: &Story<'_>, pair: &mut Pair, summary: &mut Summary) -> anyhow::Result<()> {
    load::write_later(&pair.mount.join("later"), LATER_BYTES)?;
    story
        .tell(format_args!("beta wrote another {} alone; alpha is started again", bytes(LATER_BYTES as u64)));
    let began = Instant::now();
    pair.start(Name::Alpha)?;
    let bar = Progress::bytes("resync beta -> alpha", 0);
    wait(LIMIT, "the resync", || {
        let Some(volume) = pair.volume(Name::Beta) else { return false };
        if let (Some(done), Some(total)) = (volume.resync_done_blocks, volume.resync_total_blocks) {
            bar.of(total * 4096);
            bar.at(done * 4096);
        }
        volume.state == "in-sync" && volume.connected
    })?;
    bar.clear();
    pair.wait_in_sync(Name::Beta, LIMIT)?;
    summary.resync_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    summary.resync_bytes = pair.resync_bytes(Name::Beta)?;
    story.tell(format_args!(
        "in sync again: {} copied, {} ms from the start of alpha",
        bytes(summary.resync_bytes),
        summary.resync_ms
    ));
    Ok(())
}

fn tell_summary(story: &Story<'_>, summary: &Summary) {
    let verdict = if summary.is_good() { "nothing lost" } else { "FAILED" };
    story.output.line("");
    story.output.line(format_args!(
        "{verdict}: {} records and {} files survived the death of the primary, checked one by one",
        summary.records_acknowledged - summary.records_lost,
        summary.files_checked - summary.files_wrong,
    ));
    story.output.line(format_args!(
        "  takeover {} ms: {} of silence (deadtime; 10 s unless set), then decision, mount and replay of the log",
        summary.takeover_ms,
        pair::DEADTIME
    ));
    story.output.line(format_args!(
        "  resync {} in {} ms: what beta wrote alone, and what alpha had in flight when it died",
        bytes(summary.resync_bytes),
        summary.resync_ms
    ));
    story.output.line(format_args!(
        "  {} blocks compared between the images, {} s in all",
        summary.blocks_compared, summary.seconds
    ));
}

/// Starts everything once more, to stay.
fn keep(pair: &mut Pair, output: &Output) -> anyhow::Result<()> {
    pair.start_to_stay()?;
    pair.wait_in_sync(Name::Beta, LIMIT)?;
    output.line("");
    output.line("both nodes run; look around:");
    output.line(format_args!("  ls {}", pair.mount.display()));
    for name in [Name::Alpha, Name::Beta] {
        output.line(format_args!("  twinfs status --run-dir {}", pair.run_dir(name).display()));
    }
    output.line(format_args!("  twinfs switchover --run-dir {}", pair.run_dir(Name::Alpha).display()));
    output.line(format_args!(
        "  kill -9 {}            # what happens to {}?",
        pair.pid(Name::Beta),
        pair.mount.display()
    ));
    output.line("and end it with:");
    for name in [Name::Alpha, Name::Beta] {
        output.line(format_args!("  twinfs down --stay --run-dir {}", pair.run_dir(name).display()));
    }
    if let Some(pid) = pair.witness_pid() {
        output.line(format_args!("  kill {pid}"));
    }
    output.line(format_args!("  rm -r {}", pair.dir.display()));
    pair.leave();
    Ok(())
}

/// Waits for something, at most `limit`.
fn wait(limit: Duration, what: &str, mut reached: impl FnMut() -> bool) -> anyhow::Result<()> {
    let began = Instant::now();
    while !reached() {
        if began.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A folder of our own.
fn scratch(parent: &std::path::Path) -> anyhow::Result<PathBuf> {
    let dir =
        parent.join(format!("twinfs-demo-{}-{:08x}", std::process::id(), crate::sys::random::id64() as u32));
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
