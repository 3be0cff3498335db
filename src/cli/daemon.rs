//! `twinfs daemon`: keeps this node's volumes until it is told to stop.
//!
//! Decides where the log goes. Does not know what a daemon does.
#![allow(clippy::disallowed_methods, reason = "a shell: reads the environment")]

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::place::{Place, failure, need_root_and_fuse};
use super::{Exit, Output};
use crate::daemon::{self, Options};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Go on with what a predecessor left
    #[arg(long, value_name = "FD", hide = true)]
    kept: Option<u32>,
}

pub fn run(args: &Args, _: &Output) -> anyhow::Result<Exit> {
    need_root_and_fuse()?;
    log();
    let options = Options { dirs: args.place.dirs(), node: args.place.node.clone(), kept: args.kept };
    daemon::run(&options).map_err(failure)?;
    Ok(Exit::DONE)
}

/// To the journal where systemd gave us one, else to standard error.
pub(super) fn log() {
    match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log_without_terminal(),
        None => log_to_stderr(),
    }
}

/// To standard error.
pub(super) fn log_to_stderr() {
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false);
    // Only a second subscriber in one process can fail: a test.
    let _ = tracing_subscriber::registry().with(layer.with_writer(std::io::stderr)).try_init();
}

/// To the journal, for a process without a terminal; where there is none, to standard error.
pub(super) fn log_without_terminal() {
    match tracing_journald::layer() {
        Ok(layer) => _ = tracing_subscriber::registry().with(layer).try_init(),
        Err(_) => log_to_stderr(),
    }
}
