//! `twinfs sync`: what sync(2) does for other file systems.
//!
//! Decides whether a volume of the daemon is meant or a mount by its directory, which may be one without a daemon.
#![allow(clippy::disallowed_methods, reason = "a shell: opens a directory")]

use std::path::Path;

use super::place::RunDir;
use super::{Exit, Failure, Output};
use crate::daemon::protocol::Request;
use crate::sys::mount as sys;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The volume, or the directory of any twinfs mount with a slash in it; all volumes if not given
    volume: Option<String>,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    match &args.volume {
        Some(dir) if dir.contains('/') => sync_mount(Path::new(dir), output),
        volume => {
            // `all` as for the other orders.
            let volume = volume.clone().filter(|name| name != "all");
            args.run.order(&Request::Sync { volume }, output)
        }
    }
}

/// An fsync of the root directory would be about names only.
fn sync_mount(dir: &Path, output: &Output) -> anyhow::Result<Exit> {
    let failed = |error: String| Failure::new(Exit::FAILED, format!("{}: {error}", dir.display()));
    let dir = sys::absolute(dir).map_err(|error| failed(error.to_string()))?;
    let line = sys::mounted_at(&dir).map_err(|error| failed(error.to_string()))?;
    if line.is_none_or(|line| line.fs_type != sys::FS_TYPE) {
        return Err(failed("no twinfs is mounted there; give the mount point itself".to_string()).into());
    }
    let root = std::fs::File::open(&dir).map_err(|error| failed(error.to_string()))?;
    sys::sync(&root).map_err(|error| failed(error.to_string()))?;
    output.object(serde_json::json!({ "synced": dir }));
    Ok(Exit::DONE)
}
