//! `twinfs verify`: both copies read, checked and compared while they are in use; `--local`: this node's alone.
//!
//! Decides what is shown and the exit code (0 nothing wrong, 4 wrong and repaired, 5 wrong and left). The daemon does
//! the work, whether or not anybody watches: an interrupted command leaves it running.
#![allow(clippy::disallowed_methods, reason = "a shell: waits between two looks")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::events::utc;
use super::place::RunDir;
use super::progress::Progress;
use super::{Exit, Failure, Output};
use crate::daemon::protocol::{Request, Verdict};
use crate::daemon::status::{VerifyStatus, VolumeStatus};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);
/// What was found is told by another thread of the daemon, which looks up names.
const NAMES_LIMIT: Duration = Duration::from_secs(5);
/// Findings shown.
const SHOWN_MAX: usize = 256;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The volume; all of them if not given
    volume: Option<String>,
    /// Repair what is rotten from the copy that is not; where both match their digests and differ, the primary's counts
    #[arg(long)]
    repair: bool,
    /// Only this node's copy, against its own digests: a scrub
    #[arg(long)]
    local: bool,
    /// Begin and do not wait: "twinfs status" shows how far it is
    #[arg(long, conflicts_with = "stop")]
    background: bool,
    /// End the run that is under way
    #[arg(long, conflicts_with_all = ["repair", "local"])]
    stop: bool,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let volume = args.volume.clone().filter(|name| name != "all");
    if args.stop {
        return args.run.order(&Request::StopVerify { volume }, output);
    }
    let before = ended(&volumes(args)?);
    let request = Request::Verify { volume, local: args.local, repair: args.repair };
    if args.background {
        return args.run.order(&request, output);
    }
    let reply = args.run.ask(&request)?;
    if reply.verdict != Verdict::Done {
        return Err(Failure::new(super::place::exit_of(reply.verdict), reply.text).into());
    }
    let since = reply.unix_ms;
    let done = wait(args, &before)?;
    let mut exit = Exit::DONE;
    for volume in &done {
        let Some(last) = &volume.verified else { continue };
        for event in findings(args, &volume.name, since, last)? {
            let (at, text) =
                (event["unix_ms"].as_u64().unwrap_or(0), event["text"].as_str().unwrap_or_default());
            output.line(format_args!("{} {}: {text}", utc(at), volume.name));
            output.object(event);
        }
        output.line(format_args!("{}: {}", volume.name, last.line()));
        let mut object = serde_json::to_value(last).unwrap_or_default();
        object["volume"] = json!(volume.name);
        output.object(object);
        exit = Exit(exit.0.max(exit_of(last).0));
    }
    Ok(exit)
}

fn exit_of(last: &VerifyStatus) -> Exit {
    match (last.state.as_str(), last.wrong(), last.left()) {
        ("finished", 0, _) => Exit::DONE,
        ("finished", _, 0) => Exit::DEGRADED,
        ("finished", ..) => Exit::BROKEN,
        _ => Exit::TRY_AGAIN,
    }
}

fn volumes(args: &Args) -> anyhow::Result<Vec<VolumeStatus>> {
    let reply = args.run.ask(&Request::Status)?;
    let status = reply.status.ok_or_else(|| Failure::new(Exit::FAILED, reply.text))?;
    let wanted = |volume: &VolumeStatus| match args.volume.as_deref() {
        None | Some("all") => true,
        Some(name) => volume.name == name,
    };
    Ok(status.volumes.into_iter().filter(wanted).collect())
}

/// When each volume's last run ended.
fn ended(volumes: &[VolumeStatus]) -> BTreeMap<String, Option<u64>> {
    let when = |volume: &VolumeStatus| volume.verified.as_ref().and_then(|last| last.ended_unix_ms);
    volumes.iter().map(|volume| (volume.name.clone(), when(volume))).collect()
}

/// Until every volume's run has ended.
fn wait(args: &Args, before: &BTreeMap<String, Option<u64>>) -> anyhow::Result<Vec<VolumeStatus>> {
    let bar = Progress::items("verify (4 MiB each)", 0);
    loop {
        std::thread::sleep(EVERY);
        let now = volumes(args)?;
        let runs = now.iter().filter_map(|volume| volume.verify.as_ref());
        let (done, total) =
            runs.fold((0, 0), |sum, run| (sum.0 + run.done_extents, sum.1 + run.total_extents));
        bar.of(total);
        bar.at(done);
        let after = ended(&now);
        if before.iter().all(|(name, was)| after.get(name).is_none_or(|is| is != was)) {
            bar.clear();
            return Ok(now);
        }
    }
}

/// What was told of this run, with the files' names: as many as were found, once they are there.
fn findings(args: &Args, volume: &str, since: u64, last: &VerifyStatus) -> anyhow::Result<Vec<Value>> {
    let expected = usize::try_from(last.wrong()).unwrap_or(SHOWN_MAX).min(SHOWN_MAX);
    let began = Instant::now();
    loop {
        let request = Request::Events { volume: Some(volume.to_string()), count: SHOWN_MAX * 2 };
        let mut events = args.run.ask(&request)?.events;
        events.retain(|event| {
            event["unix_ms"].as_u64().is_some_and(|at| at >= since)
                && event["event"].as_str().is_some_and(|name| name.starts_with("block-"))
        });
        if events.len() >= expected || began.elapsed() > NAMES_LIMIT {
            return Ok(events);
        }
        std::thread::sleep(EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_something_was_wrong_and_whether_it_still_is() {
        let run = |rotten, lost, repaired, state: &str| {
            let last =
                VerifyStatus { rotten, lost, repaired, state: state.into(), ..VerifyStatus::default() };
            exit_of(&last)
        };
        assert_eq!(run(0, 0, 0, "finished"), Exit::DONE);
        assert_eq!(run(2, 0, 2, "finished"), Exit::DEGRADED);
        assert_eq!(run(2, 1, 2, "finished"), Exit::BROKEN);
        assert_eq!(run(0, 0, 0, "stopped"), Exit::TRY_AGAIN);
    }
}
