//! `twinfs salvage`: what to do with a copy that was put aside, such as the losing side of a split.
//!
//! Decides which copies a verb is for and when one may be deleted. Does not know how a copy came to be put aside.
//! Invariants: a kept copy is never written; it is deleted only by its name, said twice, and while the volume is in
//! sync or by force; a copy that is mounted is not deleted.
#![allow(clippy::disallowed_methods, reason = "a shell: files, a mount, a program that copies")]

mod compare;
mod packs;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::events::utc;
use super::place::{Place, failure, need_root_and_fuse};
use super::standalone::{self, Access};
use super::{Exit, Failure, Output};
use crate::base::limits::MEMORY_DEFAULT;
use crate::config::Config;
use crate::config::units::format_size;
use crate::daemon;
use crate::daemon::protocol::Request;
use crate::fs::{Atime, Fs};
use crate::mount::{MountOptions, Mounted};
use crate::sys::lock::ImageLock;
use crate::sys::mount as sys;

use compare::{Change, differences};
use packs::{Pack, about, find};

/// Names given to one run of the program that copies.
const AT_ONCE: usize = 200;
const UNMOUNT_WAIT: Duration = Duration::from_secs(10);

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// The copies of this node that were put aside, and what each is
    List {
        /// Only this volume's
        volume: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Show the files of a kept copy, read-only
    Mount {
        /// Its name in the list
        pack: String,
        /// An empty directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Copy out the files of a kept copy that the volume does not have as they are there
    Export(Export),
    /// Delete a kept copy
    Drop {
        /// Its name in the list
        pack: String,
        /// The name once more: what only this copy has is gone for good
        #[arg(long, value_name = "PACK")]
        confirm: String,
        /// Also while the volume is not in sync
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args, Debug)]
struct Export {
    /// Its name in the list
    pack: String,
    /// Where the files go; made if missing, must be empty
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Compare with the files in TREE instead of the volume's mount point
    #[arg(long, value_name = "TREE", conflicts_with = "all")]
    against: Option<PathBuf>,
    /// Copy everything, compare with nothing
    #[arg(long)]
    all: bool,
    /// Only say which files it would be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    match &args.what {
        What::List { volume, place } => list(volume.as_deref(), place, output),
        What::Mount { pack, dir, place } => {
            let (_, pack) = named(place, pack)?;
            super::mount::read_only(&pack.path, dir, output)
        }
        What::Export(args) => export(args, output),
        What::Drop { pack, confirm, force, place } => drop_pack(pack, confirm, *force, place, output),
    }
}

fn kept(place: &Place) -> anyhow::Result<(Config, Vec<Pack>)> {
    let config = daemon::read_config(&place.config).map_err(failure)?;
    let me = daemon::node_of(&config, place.node.as_deref()).map_err(failure)?;
    let packs = find(&config, me);
    Ok((config, packs))
}

/// The kept copy of this name.
fn named(place: &Place, name: &str) -> anyhow::Result<(Config, Pack)> {
    let (config, packs) = kept(place)?;
    if let Some(pack) = packs.iter().find(|pack| pack.name == name) {
        return Ok((config, pack.clone()));
    }
    let names: Vec<&str> = packs.iter().map(|pack| pack.name.as_str()).collect();
    let there = if names.is_empty() { "nothing".to_string() } else { names.join(", ") };
    Err(Failure::new(Exit::USAGE, format!("no copy called {name} is kept on this node; there is {there}"))
        .into())
}

fn list(volume: Option<&str>, place: &Place, output: &Output) -> anyhow::Result<Exit> {
    let (config, mut packs) = kept(place)?;
    if let Some(volume) = volume {
        if config.volumes.iter().all(|known| known.name != volume) {
            let names: Vec<&str> = config.volumes.iter().map(|volume| volume.name.as_str()).collect();
            let text = format!("no volume {volume}; {} has {}", place.config.display(), names.join(", "));
            return Err(Failure::new(Exit::USAGE, text).into());
        }
        packs.retain(|pack| pack.volume == volume);
    }
    if packs.is_empty() {
        output.line("no copy is kept on this node");
    }
    for pack in packs {
        let kept = utc(pack.kept_at * 1000);
        let found = about(&pack.path, &config);
        let what = match &found {
            Ok(about) => about.what.clone(),
            Err(why) => format!("cannot be read: {why}"),
        };
        output.line(output.bold(&pack.name));
        output.line(format_args!("  {what}"));
        output.line(format_args!("  kept since {kept}, {} in {}", mebibytes(pack.uses), pack.path.display()));
        output.object(json!({
            "pack": pack.name,
            "volume": pack.volume,
            "path": pack.path,
            "kept": kept,
            "bytes": pack.uses,
            "what": what,
            "readable": found.is_ok(),
            "v": found.as_ref().ok().and_then(|about| about.v),
            "generation": found.as_ref().ok().map(|about| about.generation.clone()),
        }));
    }
    Ok(Exit::DONE)
}

fn mebibytes(bytes: u64) -> String {
    format_size(bytes.next_multiple_of(1 << 20)).replace('M', " MiB").replace('G', " GiB")
}

fn drop_pack(name: &str, confirm: &str, force: bool, place: &Place, output: &Output) -> anyhow::Result<Exit> {
    let (_, pack) = named(place, name)?;
    if confirm != pack.name {
        let text = format!("--confirm says {confirm}, not {}: nothing is deleted", pack.name);
        return Err(Failure::new(Exit::USAGE, text).into());
    }
    if !force {
        in_sync(&pack.volume, place)?;
    }
    // Who has it mounted, or copies from it, holds it.
    let lock = ImageLock::take(&pack.path, Duration::ZERO)
        .map_err(|error| Failure::new(Exit::CONFIG, error.to_string()))?;
    std::fs::remove_file(&pack.path).with_context(|| pack.path.display().to_string())?;
    drop(lock);
    output.line(format_args!("{} is deleted", pack.path.display()));
    output.object(json!({ "dropped": pack.name, "path": pack.path, "bytes": pack.uses }));
    Ok(Exit::DONE)
}

/// Without two good copies a kept one may still be needed.
fn in_sync(volume: &str, place: &Place) -> anyhow::Result<()> {
    let refuse = |why: String| {
        let text =
            format!("{volume}: {why}: the kept copy may still be needed; --force deletes it all the same");
        Failure::new(Exit::WOULD_LOSE_DATA, text)
    };
    let reply = place.run.ask(&Request::Status).map_err(|error| refuse(format!("{error:#}")))?;
    let volumes = reply.status.map(|status| status.volumes).unwrap_or_default();
    match volumes.into_iter().find(|status| status.name == volume) {
        Some(status) if status.state == "in-sync" => Ok(()),
        Some(status) => Err(refuse(format!("is {}", status.state)).into()),
        None => Err(refuse("the daemon does not know it".to_string()).into()),
    }
}

fn export(args: &Export, output: &Output) -> anyhow::Result<Exit> {
    need_root_and_fuse()?;
    let (config, pack) = named(&args.place, &args.pack)?;
    let against = against(args, &config, &pack)?;
    let target = empty(&args.dir, args.dry_run)?;
    // Nobody else sees this mount, and it goes with this process.
    sys::private_namespace().context("a mount namespace of its own")?;
    let shown = std::env::temp_dir().join(format!("twinfs-salvage-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&shown).with_context(|| shown.display().to_string())?;
    let exported =
        with_mounted(&pack, &shown, |tree| copy_out(tree, against.as_deref(), &target, args, output));
    let removed = std::fs::remove_dir(&shown);
    let (files, failed) = exported?;
    removed.with_context(|| shown.display().to_string())?;
    let done = if args.dry_run { "would be copied" } else { "copied" };
    output.line(format_args!("{files} of {} {done} to {}", pack.name, args.dir.display()));
    output.object(json!({ "pack": pack.name, "files": files, "failed": failed, "dir": args.dir }));
    if failed {
        let text =
            format!("{}: not everything could be copied; what could is in {}", pack.name, args.dir.display());
        return Err(Failure::new(Exit::FAILED, text).into());
    }
    Ok(Exit::DONE)
}

/// The tree to compare with; `None`: everything is copied.
fn against(args: &Export, config: &Config, pack: &Pack) -> anyhow::Result<Option<PathBuf>> {
    if args.all {
        return Ok(None);
    }
    if let Some(tree) = &args.against {
        let tree = std::fs::canonicalize(tree)
            .map_err(|error| Failure::new(Exit::USAGE, format!("{}: {error}", tree.display())))?;
        return Ok(Some(tree));
    }
    let volume = config.volumes.iter().find(|volume| volume.name == pack.volume);
    let mount = volume.map(|volume| volume.mount.clone()).unwrap_or_default();
    let served = sys::mounted_at(&mount)?.is_some_and(|line| line.fs_type == sys::FS_TYPE);
    if !served {
        let text = format!(
            "{} is not mounted on this node: run this on the primary with {} copied there, give --against TREE, or \
             copy everything with --all",
            pack.volume,
            pack.path.display()
        );
        return Err(Failure::new(Exit::FAILED, text).into());
    }
    Ok(Some(mount))
}

/// The folder that the files go to, empty; only its name when nothing is copied.
fn empty(dir: &Path, dry: bool) -> anyhow::Result<PathBuf> {
    if dry {
        return Ok(dir.to_path_buf());
    }
    let context = || dir.display().to_string();
    std::fs::create_dir_all(dir).with_context(context)?;
    if std::fs::read_dir(dir).with_context(context)?.next().is_some() {
        return Err(Failure::new(Exit::FAILED, format!("{} is not empty", dir.display())).into());
    }
    std::fs::canonicalize(dir).with_context(context)
}

/// Runs `work` while the files of `pack` are at `dir`.
fn with_mounted<T>(
    pack: &Pack,
    dir: &Path,
    work: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (store, rest) = standalone::open(&pack.path, Access::ReadOnly, MEMORY_DEFAULT)?.split();
    let fs = Arc::new(Fs::new(store, Atime::Never));
    fs.make_read_only();
    let mut options = MountOptions { source: pack.name.clone(), ..MountOptions::default() };
    options.flags.read_only = true;
    let mounted = Mounted::mount(Arc::clone(&fs), dir, &options)?;
    let done = work(dir);
    mounted.unmount(UNMOUNT_WAIT).context("ending the mount of the kept copy")?;
    fs.store().close().context("closing the kept copy")?;
    drop(fs);
    rest.close()?;
    done
}

/// Tells what differs and copies it; how much that is, and whether something could not be copied.
fn copy_out(
    tree: &Path,
    against: Option<&Path>,
    target: &Path,
    args: &Export,
    output: &Output,
) -> anyhow::Result<(u64, bool)> {
    let mut found: Vec<PathBuf> = Vec::new();
    differences(tree, against, &mut |path, change: Change| {
        output.line(format_args!("{:<11} {}", change.word(), path.display()));
        output.object(json!({ "path": path.to_string_lossy(), "change": change.word() }));
        found.push(path.to_path_buf());
    })
    .context("reading the kept copy")?;
    let mut failed = false;
    if !args.dry_run {
        for names in found.chunks(AT_ONCE) {
            failed |= !copy(tree, names, target)?;
        }
    }
    Ok((found.len() as u64, failed))
}

/// Copies `names` with everything below them, folders above included, as cp(1) does; false if it says that something
/// could not be copied.
fn copy(tree: &Path, names: &[PathBuf], target: &Path) -> anyhow::Result<bool> {
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--sparse=always", "--parents", "--"]).args(names).arg(target);
    let status = cp.current_dir(tree).stdin(Stdio::null()).status().context("starting cp")?;
    Ok(status.success())
}
