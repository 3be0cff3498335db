//! `twinfs up` and `twinfs down`: the daemon in the background, and its orderly end.
//!
//! Decides how a daemon is put into the background where no systemd does it. Does not know what it does there.
//! Invariant: `up` comes back only when the daemon answers, or with the reason why it does not.
#![allow(clippy::disallowed_methods, reason = "a shell: processes, files, time")]

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::place::{Place, RunDir, need_root_and_fuse};
use super::{Exit, Failure, Output};
use crate::daemon::protocol::{Request, call};

/// For a start: leftovers of a predecessor go first, services included.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(30);

#[derive(clap::Args, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args, Debug)]
pub struct DownArgs {
    /// Stop serving without letting the peer take over
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    run: RunDir,
}

pub fn up(args: &UpArgs, output: &Output) -> anyhow::Result<Exit> {
    need_root_and_fuse()?;
    let run = &args.place.run.run_dir;
    if answers(run) {
        output.line("the daemon is running already");
        output.object(serde_json::json!({ "running": true, "started": false }));
        return Ok(Exit::DONE);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(run).with_context(|| run.display().to_string())?;
    let log = run.join("daemon.log");
    let mut child = command(&args.place, &log)?.spawn().context("starting the daemon")?;
    let began = Instant::now();
    while !answers(run) {
        if let Some(status) = child.try_wait()? {
            let text = last_line(&log).unwrap_or_else(|| format!("the daemon ended ({status})"));
            let exit = status.code().and_then(|code| u8::try_from(code).ok()).map_or(Exit::FAILED, Exit);
            return Err(Failure::new(exit, text).into());
        }
        if began.elapsed() > START_LIMIT {
            let text = format!("the daemon (pid {}) does not answer yet; see {}", child.id(), log.display());
            return Err(Failure::new(Exit::TRY_AGAIN, text).into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    output.line(format_args!("the daemon runs (pid {}), its log is {}", child.id(), log.display()));
    output.object(serde_json::json!({ "running": true, "started": true, "pid": child.id(), "log": log }));
    Ok(Exit::DONE)
}

/// The daemon as a program of its own: no terminal, its own session, standard error to `log`.
fn command(place: &Place, log: &Path) -> anyhow::Result<Command> {
    let log = File::create(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("daemon").arg("--config").arg(absolute(&place.config)?);
    command.arg("--run-dir").arg(absolute(&place.run.run_dir)?);
    command.arg("--state-dir").arg(absolute(&place.state_dir)?);
    if let Some(node) = &place.node {
        command.arg("--node").arg(node);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    Ok(command)
}

fn absolute(path: &Path) -> anyhow::Result<std::path::PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}

fn answers(run: &Path) -> bool {
    call(run, &Request::Status, Duration::from_secs(5)).is_ok()
}

fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.strip_prefix("twinfs: ").unwrap_or(line).to_string())
}

pub fn down(args: &DownArgs, output: &Output) -> anyhow::Result<Exit> {
    let reply = args.run.ask(&Request::Stop { hand_over: !args.stay })?;
    if !reply.text.is_empty() {
        output.note(&reply.text);
    }
    let began = Instant::now();
    let lock = args.run.run_dir.join("daemon.pid");
    let pid = std::fs::read_to_string(&lock).unwrap_or_default();
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    // One of which only the exit code is left holds nothing any more.
    let lives = || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    // Until the process is gone it may hold an image.
    while File::open(&lock).is_ok_and(|file| file.try_lock().is_err() && lives()) || lives() {
        if began.elapsed() > STOP_LIMIT {
            return Err(Failure::new(Exit::TRY_AGAIN, "the daemon is still stopping").into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    output.line("the daemon has stopped");
    output.object(serde_json::json!({ "running": false }));
    Ok(Exit::DONE)
}
