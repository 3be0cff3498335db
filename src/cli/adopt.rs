//! `twinfs adopt` and `twinfs release`: move a directory onto a volume, and back.
//!
//! Decides which volume is meant and what is printed. The moving itself is `services::adopt`. Invariant: works only on
//! the primary, and tells the peer afterwards; a peer that is away follows by itself.
#![allow(clippy::disallowed_methods, reason = "a shell: asks the daemon")]

use std::path::{Path, PathBuf};

use super::place::{Place, failure};
use super::progress::Progress;
use super::{Exit, Failure, Output};
use crate::daemon;
use crate::daemon::protocol::{Request, Verdict};
use crate::daemon::status::{VolumeStatus, bytes};
use crate::services::adopt::{self, AdoptError, Places, Report};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Directories, by absolute path
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// The volume; may be left out where there is one
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
    #[command(flatten)]
    place: Place,
}

pub fn adopt(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    move_each(args, output, "adopted", |dir, places, bar| {
        let need = adopt::plan(dir, places)?;
        let users = adopt::users_of(dir);
        if !users.is_empty() {
            output.note(format_args!(
                "warning: {} is used by {}; what they hold open stays in {}.twinfs-adopted",
                dir.display(),
                users.join(", "),
                dir.display()
            ));
        }
        bar.of(need.entries);
        adopt::adopt(dir, places, &mut |_| Ok(()), &mut |tally| shown(bar, tally))
    })
}

pub fn release(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    move_each(args, output, "released", |dir, places, bar| {
        adopt::release(dir, places, &mut |_| Ok(()), &mut |tally| shown(bar, tally))
    })
}

fn shown(bar: &Progress, tally: adopt::Tally) -> bool {
    bar.at(tally.entries);
    true
}

/// Moves one directory after the other and tells the peer of those that were moved, also when a later one fails.
fn move_each(
    args: &Args,
    output: &Output,
    done: &str,
    one: impl Fn(&Path, &Places, &Progress) -> Result<Report, AdoptError>,
) -> anyhow::Result<Exit> {
    let (volume, places) = primary_here(args)?;
    let (mut moved, mut failed) = (0, None);
    for dir in &args.dirs {
        let bar = Progress::items(&dir.display().to_string(), 0);
        let result = one(dir, &places, &bar);
        bar.clear();
        match result {
            Ok(report) => print(&report, done, output),
            Err(error) => {
                failed = Some(refused(error));
                break;
            }
        }
        moved += 1;
    }
    let exit = if moved > 0 { tell_peer(args, &volume, output) } else { Ok(Exit::DONE) };
    match failed {
        Some(failure) => Err(failure.into()),
        None => exit,
    }
}

fn refused(error: AdoptError) -> Failure {
    Failure::new(Exit::FAILED, error.to_string())
}

fn print(report: &Report, what: &str, output: &Output) {
    let left =
        report.left.as_ref().map(|path| format!("; {} may be deleted", path.display())).unwrap_or_default();
    output.line(format_args!(
        "{}: {what} ({} entries, {}), its place on the volume is {}{left}",
        report.dir.display(),
        report.tally.entries,
        bytes(report.tally.bytes),
        report.target.display()
    ));
    output.object(serde_json::json!({
        "dir": report.dir, "target": report.target, "done": what, "left": report.left,
        "entries": report.tally.entries, "bytes": report.tally.bytes,
    }));
}

/// The peer makes the same symlinks. That it is away is a remark, not a failure.
fn tell_peer(args: &Args, volume: &str, output: &Output) -> anyhow::Result<Exit> {
    let reply = args.place.run.ask(&Request::AdoptedChanged { volume: volume.to_string() })?;
    match reply.verdict {
        Verdict::Done => output.line(&reply.text),
        Verdict::PeerUnreachable => output.note(&reply.text),
        _ => return Err(Failure::new(Exit::FAILED, reply.text).into()),
    }
    Ok(Exit::DONE)
}

/// The volume that is meant, if this node is its primary, and where its things lie.
fn primary_here(args: &Args) -> anyhow::Result<(String, Places)> {
    let reply = args.place.run.ask(&Request::Status)?;
    let status = reply.status.ok_or_else(|| Failure::new(Exit::FAILED, reply.text))?;
    let chosen: Vec<&VolumeStatus> =
        status.volumes.iter().filter(|v| args.volume.as_ref().is_none_or(|name| v.name == *name)).collect();
    let [volume] = chosen.as_slice() else {
        let names: Vec<&str> = status.volumes.iter().map(|v| v.name.as_str()).collect();
        return Err(Failure::new(Exit::USAGE, format!("say which: --volume {}", names.join(" or "))).into());
    };
    if !volume.mounted || !volume.serving {
        let text = format!("{} is not mounted here; do this on {}", volume.name, status.peer);
        return Err(Failure::new(Exit::NO_RIGHT, text).into());
    }
    let config = daemon::read_config(&args.place.config).map_err(failure)?;
    let mut needed: Vec<PathBuf> =
        vec![args.place.config.clone(), config.cluster.key_file.clone(), args.place.run.run_dir.clone()];
    needed.extend(config.volumes.iter().flat_map(|v| v.image.iter().cloned()));
    needed.extend(std::env::current_exe());
    let places = Places {
        mount: Path::new(&volume.mount).to_path_buf(),
        state_dir: args.place.state_dir.clone(),
        needed,
    };
    Ok((volume.name.clone(), places))
}
