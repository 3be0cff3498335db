//! `twinfs umount [--force] DIR`: ends a mount of twinfs.
//!
//! Decides nothing: the polite way is umount(2); `--force` aborts the connection, so that calls that hang return, and
//! detaches.

use std::path::PathBuf;

use super::{Exit, Failure, Output};
use crate::mount::unmount_path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Abort the connection of a daemon that does not answer: running calls fail, the mount goes at once
    #[arg(long)]
    force: bool,
    /// The mount point
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    unmount_path(&args.dir, args.force).map_err(|error| {
        let busy = error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32);
        let hint = if busy { "; a process uses it (`fuser -vm DIR` names it), or use --force" } else { "" };
        Failure::new(Exit::FAILED, format!("{}: {error}{hint}", args.dir.display()))
    })?;
    output.object(serde_json::json!({ "unmounted": args.dir }));
    Ok(Exit::DONE)
}
