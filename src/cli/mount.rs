//! `twinfs mount`, also `mount.twinfs` and `mount.fuse.twinfs`: serves an image without a peer.
//!
//! Decides the calling convention of mount(8)'s helpers and when the command returns: when the mount answers. Does not
//! know FUSE. Invariants: nothing is printed on success; the daemon keeps no stream, folder or descriptor of its
//! caller.
#![allow(clippy::disallowed_methods, reason = "a shell: paths, signals, processes")]

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::standalone::{self, Access};
use super::{Exit, Failure, Output};
use crate::base::Moment;
use crate::base::limits::{MEMORY_DEFAULT, MEMORY_MAX, MEMORY_MIN};
use crate::config::units;
use crate::daemon::successor::{self, Successor};
use crate::format::{Handover, KeptMount};
use crate::fs::Fs;
use crate::mount::{Desk, Kept, MountOptions, Mounted, Ways};
use crate::sys::background::{self, Answer, Side};
use crate::sys::lock::ImageLock;
use crate::sys::mount as sys;
use crate::sys::signals::{Signals, Woken};
use crate::sys::{clock, handover};

/// The option that bounds the memory, before its value.
const MEMORY: &str = "memory=";
/// mount(8): the mount failed.
const MOUNT_FAILED: Exit = Exit(32);
/// For requests under way to end, and to be stable, before a successor goes on.
const PAUSE_LIMIT: Duration = Duration::from_secs(20);
/// How long users of the mount may take to leave after SIGTERM.
const UNMOUNT_WAIT: Duration = Duration::from_secs(10);

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Serve an image file or device without a peer
    #[arg(long)]
    standalone: bool,
    /// Write to the image of a pair: it leaves the pair and goes on alone
    #[arg(long)]
    force: bool,
    /// Stay in the foreground and report to standard error
    #[arg(long, short = 'F')]
    foreground: bool,
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,
    /// Check everything, mount nothing (mount -f)
    #[arg(short = 'f')]
    fake: bool,
    /// Let unknown options pass (mount -s)
    #[arg(short = 's')]
    sloppy: bool,
    /// Accepted for mount(8)
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    /// Accepted for mount(8)
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    /// Accepted for mount(8)
    #[arg(short = 'N', value_name = "NAMESPACE", hide = true)]
    namespace: Option<String>,
    /// Accepted for mount(8)
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    fs_type: Option<String>,
    /// Go on with the mount that a predecessor left
    #[arg(long, value_name = "FD", hide = true)]
    kept: Option<u32>,
    /// Image file or device
    #[arg(value_name = "IMAGE")]
    spec: String,
    /// An empty directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    options: MountOptions,
    force: bool,
    foreground: bool,
    /// Change the options of a mount that is there.
    remount: bool,
    /// Bytes of memory that serving may take.
    memory: u64,
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let mut options = MountOptions { source: args.spec.clone(), ..MountOptions::default() };
    let (mut force, mut foreground, mut remount) = (args.force, args.foreground, false);
    let mut memory = MEMORY_DEFAULT;
    for list in &args.options {
        let own = |word: &str| {
            matches!(word, "force" | "foreground" | "standalone" | "remount") || word.starts_with(MEMORY)
        };
        let (ours, theirs): (Vec<&str>, Vec<&str>) = list.split(',').map(str::trim).partition(|w| own(w));
        force |= ours.contains(&"force");
        foreground |= ours.contains(&"foreground");
        remount |= ours.contains(&"remount");
        if let Some(text) = ours.iter().rev().find_map(|word| word.strip_prefix(MEMORY)) {
            memory = memory_of(text)?;
        }
        options
            .apply(&theirs.join(","), args.sloppy)
            .map_err(|error| Failure::new(Exit(1), error.to_string()))?;
    }
    Ok(Plan { options, force, foreground, remount, memory })
}

fn memory_of(text: &str) -> anyhow::Result<u64> {
    let refuse = |why: String| Failure::new(Exit(1), format!("option memory: {why}"));
    let bytes = units::parse_size(text).map_err(refuse)?;
    if !(MEMORY_MIN..=MEMORY_MAX).contains(&bytes) {
        let [min, max] = [MEMORY_MIN, MEMORY_MAX].map(units::format_size);
        return Err(refuse(format!("\"{text}\" is not between {min} and {max}")).into());
    }
    Ok(bytes)
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let plan = plan(args)?;
    if let Some(kept) = args.kept {
        return go_on(kept, &plan);
    }
    if plan.remount {
        return remount(args, &plan);
    }
    let image = std::fs::canonicalize(&args.spec).map_err(|error| {
        let text = format!("{}: {error}; give an image, or `twinfs up` to start a volume", args.spec);
        Failure::new(MOUNT_FAILED, text)
    })?;
    let dir = sys::absolute(&args.dir)
        .map_err(|error| Failure::new(MOUNT_FAILED, format!("{}: {error}", args.dir.display())))?;
    if args.fake {
        return Ok(Exit::DONE);
    }
    mount_at(&image, &dir, &plan, output)
}

/// Shows the files of `image` at `dir` in the background; nothing is written to the image.
pub(super) fn read_only(image: &Path, dir: &Path, output: &Output) -> anyhow::Result<Exit> {
    let mut options = MountOptions { source: image.display().to_string(), ..MountOptions::default() };
    options.flags.read_only = true;
    let plan = Plan { options, force: false, foreground: false, remount: false, memory: MEMORY_DEFAULT };
    let dir = sys::absolute(dir)
        .map_err(|error| Failure::new(MOUNT_FAILED, format!("{}: {error}", dir.display())))?;
    mount_at(image, &dir, &plan, output)
}

fn mount_at(image: &Path, dir: &Path, plan: &Plan, output: &Output) -> anyhow::Result<Exit> {
    if plan.foreground {
        serve(image, dir, plan, None).map_err(failed)?;
        return Ok(Exit::DONE);
    }
    match background::split().context("starting the serving process")? {
        Side::Parent(Ok(())) => {
            output.object(serde_json::json!({ "mounted": dir, "image": image }));
            Ok(Exit::DONE)
        }
        Side::Parent(Err(text)) => Err(Failure::new(MOUNT_FAILED, text).into()),
        Side::Child(answer) => {
            // The parent tells the user what went wrong before the mount; afterwards nobody listens.
            let _ = serve(image, dir, plan, Some(answer));
            Ok(Exit::DONE)
        }
    }
}

/// `mount -o remount,...`: the image and its daemon stay; the kernel and the daemon are told what changed.
fn remount(args: &Args, plan: &Plan) -> anyhow::Result<Exit> {
    let refuse = |text: String| Failure::new(MOUNT_FAILED, format!("{}: {text}", args.dir.display()));
    let dir = sys::absolute(&args.dir).map_err(|error| refuse(error.to_string()))?;
    let line = sys::mounted_at(&dir).map_err(|error| refuse(error.to_string()))?;
    if line.is_none_or(|line| line.fs_type != sys::FS_TYPE) {
        return Err(
            refuse("no twinfs is mounted there; remount changes a mount that exists".to_string()).into()
        );
    }
    if args.fake {
        return Ok(Exit::DONE);
    }
    sys::remount(&dir, plan.options.flags).map_err(|error| match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => refuse(
            "it was mounted read-only, or a failure made it so; unmount it and mount it read-write"
                .to_string(),
        ),
        std::io::ErrorKind::ResourceBusy => {
            refuse("files are open for writing; close them first".to_string())
        }
        _ => refuse(error.to_string()),
    })?;
    Ok(Exit::DONE)
}

fn failed(error: anyhow::Error) -> anyhow::Error {
    Failure::new(MOUNT_FAILED, format!("{error:#}")).into()
}

/// What a predecessor left of a mount.
struct Left {
    kept: Kept,
    lock: ImageLock,
    count: u32,
    paused_at: Moment,
}

impl Left {
    fn read(number: u32) -> anyhow::Result<(PathBuf, Left)> {
        let all = successor::read(number).map_err(anyhow::Error::msg)?;
        let (count, paused_at) = (all.count, Moment(all.paused_at));
        let [state]: [KeptMount; 1] = all
            .mounts
            .try_into()
            .map_err(|_| anyhow::anyhow!("the predecessor had another number of mounts"))?;
        let lock = handover::adopt(state.lock).context("the lock on the image")?;
        let image = PathBuf::from(OsStr::from_bytes(&state.image));
        let kept = Kept::adopt(state).context("the mount")?;
        let lock = ImageLock::adopt(&image, lock)?;
        Ok((image, Left { kept, lock, count, paused_at }))
    }
}

/// Serves on what a predecessor left. Whatever goes wrong ends the mount, as a crash would.
fn go_on(number: u32, plan: &Plan) -> anyhow::Result<Exit> {
    let (image, left) = Left::read(number)?;
    let dir = left.kept.dir().to_path_buf();
    match plan.foreground {
        true => super::daemon::log_to_stderr(),
        false => super::daemon::log_without_terminal(),
    }
    let signals = Signals::block()?;
    let count = left.count;
    serve_started(start(&image, &dir, plan, Some(left))?, &signals, (image, count))?;
    Ok(Exit::DONE)
}

/// Opens, mounts and serves until a signal or an unmount ends it.
fn serve(image: &Path, dir: &Path, plan: &Plan, answer: Option<Answer>) -> anyhow::Result<()> {
    match answer {
        Some(_) => super::daemon::log_without_terminal(),
        None => super::daemon::log_to_stderr(),
    }
    let signals = Signals::block()?;
    let started = match start(image, dir, plan, None) {
        Ok(started) => started,
        Err(error) => {
            if let Some(answer) = answer {
                answer.failed(&format!("{error:#}"));
            }
            return Err(error);
        }
    };
    if let Some(answer) = answer {
        answer.ready()?;
    }
    serve_started(started, &signals, (image.to_path_buf(), 0))
}

fn serve_started(
    mut started: Started,
    signals: &Signals,
    (image, count): (PathBuf, u32),
) -> anyhow::Result<()> {
    let mut ended = started.mounted.end_stream()?;
    while signals.wait_or_bell(&mut ended, &mut started.bell)? == Woken::Asked {
        if let Some(program) = started.desk.asked()
            && let Err(why) = hand_on(&started, &image, count, program)
        {
            tracing::warn!("{} goes on as before: {why}", started.mounted.dir().display());
            started.desk.refused(&why);
        }
    }
    let Started { mounted, fs, rest, .. } = started;
    let last = mounted.unmount(UNMOUNT_WAIT);
    if fs.is_down() {
        return Ok(());
    }
    last.context("the last commit")?;
    fs.store().close().context("closing the file system")?;
    drop(fs);
    rest.close()
}

/// Becomes `program`, which goes on with the mount; comes back if everything is as it was. What fails later ends the
/// process, and with it the mount.
fn hand_on(started: &Started, image: &Path, count: u32, program: PathBuf) -> Result<(), String> {
    let paused_at = clock::now().0;
    started.mounted.pause(PAUSE_LIMIT).map_err(|e| e.to_string())?;
    let mut state = started.mounted.describe();
    state.image = image.as_os_str().as_bytes().to_vec();
    state.lock = handover::number(&started.rest.lock().as_fd());
    let all = Handover {
        from: env!("CARGO_PKG_VERSION").to_string(),
        count: count + 1,
        paused_at,
        run_lock: None,
        mounts: vec![state],
    };
    let successor = Successor::prepare(program, &all).inspect_err(|_| started.mounted.resume())?;
    started.mounted.retire();
    let closed = started.rest.close();
    let error = match closed {
        Ok(()) => successor.start().to_string(),
        Err(error) => format!("{error:#}"),
    };
    tracing::error!("no successor goes on with {}: {error}", started.mounted.dir().display());
    started.mounted.abort();
    Ok(())
}

/// A mount that is served.
struct Started {
    mounted: Mounted,
    fs: Arc<Fs>,
    rest: standalone::Rest,
    desk: Arc<Desk>,
    bell: UnixStream,
}

fn start(image: &Path, dir: &Path, plan: &Plan, left: Option<Left>) -> anyhow::Result<Started> {
    let access = match plan.options.flags.read_only {
        true => Access::ReadOnly,
        false => Access::ReadWrite { force: plan.force },
    };
    let (kept, lock, count, paused_at) = match left {
        Some(left) => (Some(left.kept), Some(left.lock), left.count, left.paused_at),
        None => (None, None, 0, Moment(0)),
    };
    // A dead mount of a predecessor goes first: its daemon may be what holds the lock.
    let opened = match lock {
        Some(lock) => standalone::open_locked(image, lock, access, plan.memory)?,
        None => standalone::open(image, access, plan.memory)?,
    };
    let (store, rest) = opened.split();
    let fs = Arc::new(Fs::new(store, plan.options.atime));
    if access == Access::ReadOnly {
        // Changes would go to memory and be lost: even a remount behind our back must not accept any.
        fs.make_read_only();
    }
    let pause_ms = if kept.is_some() { clock::now().since(paused_at).as_millis() } else { 0 };
    let (desk, bell) = Desk::new(count, pause_ms, Box::new(|program| successor::judge(program, None)))?;
    let desk = Arc::new(desk);
    let ways = Ways { gate: None, desk: Some(Arc::clone(&desk)) };
    let mounted = match kept {
        Some(kept) => Mounted::take_over(Arc::clone(&fs), kept, &plan.options, ways)?,
        None => Mounted::mount_with(Arc::clone(&fs), dir, &plan.options, ways)?,
    };
    if count > 0 {
        tracing::info!("goes on with {}; requests waited for {pause_ms} ms", dir.display());
    }
    Ok(Started { mounted, fs, rest, desk, bell })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Call {
        #[command(flatten)]
        args: Args,
    }

    fn call(words: &[&str]) -> Plan {
        plan(&Call::try_parse_from([&["mount"], words].concat()).unwrap().args).unwrap()
    }

    #[test]
    fn the_helper_convention_of_mount_8_is_understood_in_any_order() {
        let one = call(&["img", "/mnt", "-o", "ro,noatime,_netdev", "-n", "-s", "-v", "-t", "fuse.twinfs"]);
        let other = call(&["-n", "-v", "-s", "-o", "noatime,ro", "-t", "fuse.twinfs", "img", "/mnt"]);
        assert_eq!(one, other);
        assert!(one.options.flags.read_only && one.options.flags.no_atime);
        assert_eq!(one.options.source, "img", "letter by letter");
    }

    #[test]
    fn our_own_words_may_stand_among_the_options() {
        let plan = call(&["img", "/mnt", "-o", "force,nodev", "-o", "foreground"]);
        assert!(plan.force && plan.foreground && !plan.remount && plan.options.flags.no_dev);
        // As mount(8) asks, with what /proc/mounts shows.
        let shown = "rw,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other,remount,ro";
        let plan = call(&["img", "/mnt", "-o", shown]);
        assert!(plan.remount && plan.options.flags.read_only && plan.options.flags.no_suid);
    }

    #[test]
    fn the_memory_that_a_mount_may_take_is_a_size_within_bounds() {
        assert_eq!(call(&["img", "/mnt"]).memory, MEMORY_DEFAULT);
        assert_eq!(
            call(&["img", "/mnt", "-o", "noatime,memory=64M,memory=2G"]).memory,
            2 << 30,
            "the last counts"
        );
        for (value, said) in [("63M", "between 64M and 1T"), ("2T", "between"), ("lots", "write a size")] {
            let words = ["mount", "img", "/mnt", "-s", "-o", &format!("memory={value}")];
            let error = plan(&Call::try_parse_from(words).unwrap().args).unwrap_err().to_string();
            assert!(error.contains("memory") && error.contains(value) && error.contains(said), "{error}");
        }
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        let args = Call::try_parse_from(["mount", "img", "/mnt", "-o", "quux"]).unwrap().args;
        assert!(plan(&args).unwrap_err().to_string().contains("quux"));
    }
}
