//! `twinfs upgrade`: another program goes on with what is served; applications wait for a moment and see no error.
//!
//! Decides what is asked (a mount by its directory, else the daemon) and when it counts as done. Does not know how a
//! mount is handed on. Invariant: a refusal is told before anything was stopped.
#![allow(clippy::disallowed_methods, reason = "a shell: files, time")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::place::{RunDir, exit_of};
use super::{Exit, Failure, Output};
use crate::daemon::protocol::{Reply, Request, Verdict, call};
use crate::daemon::upgrade::Upgraded;
use crate::daemon::{read_config, successor};
use crate::sys::mount as sys;

/// For the successor to serve.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The directory of a mount without a daemon; the daemon with all its volumes if not given
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program that goes on; this one if not given
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Answer whether this program goes on from a handover of this version
    #[arg(long, value_name = "VERSION", hide = true)]
    accepts: Option<u16>,
    /// And whether it reads this configuration
    #[arg(long, value_name = "FILE", hide = true)]
    reads: Option<PathBuf>,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    if let Some(version) = args.accepts {
        return accept(version, args.reads.as_deref());
    }
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("finding this program")?,
    };
    let program = program.canonicalize().with_context(|| program.display().to_string())?;
    match &args.dir {
        Some(dir) => upgrade_mount(dir, &program, output),
        None => upgrade_daemon(&args.run, &program, output),
    }
}

fn accept(version: u16, config: Option<&Path>) -> anyhow::Result<Exit> {
    successor::accepts(version).map_err(|text| Failure::new(Exit::FAILED, text))?;
    if let Some(config) = config {
        read_config(config).map_err(super::place::failure)?;
    }
    Ok(Exit::DONE)
}

fn upgrade_mount(dir: &Path, program: &Path, output: &Output) -> anyhow::Result<Exit> {
    let failed = |text: String| Failure::new(Exit::FAILED, format!("{}: {text}", dir.display()));
    let place = sys::absolute(dir).map_err(|error| failed(error.to_string()))?;
    let line = sys::mounted_at(&place).map_err(|error| failed(error.to_string()))?;
    if line.is_none_or(|line| line.fs_type != sys::FS_TYPE) {
        return Err(failed("no twinfs is mounted there; give the mount point itself".to_string()).into());
    }
    let root = std::fs::File::open(&place).map_err(|error| failed(error.to_string()))?;
    let ask = |program| sys::hand_on(&root, program).map_err(|error| failed(error.to_string()));
    let refused = |state: sys::HandedOn| failed(state.refusal);
    let before = ask(None)?.map_err(refused)?;
    ask(Some(program))?.map_err(refused)?;
    let began = Instant::now();
    loop {
        let now = ask(None)?.map_err(refused)?;
        if now.count != before.count {
            output.line(format_args!(
                "{} is served by twinfs {} now; requests waited for {} ms",
                dir.display(),
                now.version,
                now.pause_ms
            ));
            output.object(serde_json::json!({
                "upgraded": place, "version": now.version, "from": before.version, "pause_ms": now.pause_ms,
            }));
            return Ok(Exit::DONE);
        }
        if !now.refusal.is_empty() {
            return Err(failed(format!("{}; it is served as before", now.refusal)).into());
        }
        if began.elapsed() > LIMIT {
            return Err(Failure::new(Exit::TRY_AGAIN, "the successor does not serve yet").into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn upgrade_daemon(run: &RunDir, program: &Path, output: &Output) -> anyhow::Result<Exit> {
    let state = |reply: Reply| match reply.upgraded {
        Some(state) => Ok(state),
        None => Err(Failure::new(exit_of(reply.verdict), reply.text)),
    };
    let before = state(run.ask(&Request::Upgrade { program: None })?)?;
    let pid = std::fs::read_to_string(run.run_dir.join("daemon.pid")).unwrap_or_default();
    let reply = run.ask(&Request::Upgrade { program: Some(program.to_path_buf()) })?;
    if reply.verdict != Verdict::Done {
        return Err(Failure::new(exit_of(reply.verdict), reply.text).into());
    }
    let began = Instant::now();
    loop {
        std::thread::sleep(LOOK_EVERY);
        let now = call(&run.run_dir, &Request::Upgrade { program: None }, LIMIT).ok();
        match now.and_then(|reply| reply.upgraded).filter(|now| now.count != before.count) {
            Some(now) if !now.lost.is_empty() => {
                let text =
                    format!("the mount of {} could not be kept; see \"twinfs events\"", now.lost.join(", "));
                return Err(Failure::new(Exit::FAILED, text).into());
            }
            Some(now) if now.waiting.is_empty() => return Ok(done(&before, &now, output)),
            _ => {}
        }
        if !Path::new("/proc").join(pid.trim()).exists() {
            let text = "the successor did not start, and its mounts are gone; see its log";
            return Err(Failure::new(Exit::FAILED, text).into());
        }
        if began.elapsed() > LIMIT {
            return Err(Failure::new(Exit::TRY_AGAIN, "the successor does not serve yet").into());
        }
    }
}

fn done(before: &Upgraded, now: &Upgraded, output: &Output) -> Exit {
    output.line(format_args!(
        "the daemon is twinfs {} now; requests waited for {} ms",
        now.version, now.pause_ms
    ));
    output.object(serde_json::json!({
        "upgraded": "daemon", "version": now.version, "from": before.version, "pause_ms": now.pause_ms,
    }));
    Exit::DONE
}
