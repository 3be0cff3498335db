//! `twinfs supervise`: started by the daemon, to tell the peer if the daemon dies.
//!
//! Decides nothing.

use super::place::{Place, failure};
use super::{Exit, Output};
use crate::daemon::{Options, supervisor};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// The daemon, which is the parent of this process; it has ended already if not given
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
}

pub fn run(args: &Args, _: &Output) -> anyhow::Result<Exit> {
    super::daemon::log();
    let options = Options { dirs: args.place.dirs(), node: args.place.node.clone(), kept: None };
    supervisor::run(&options, args.pid).map_err(failure)?;
    Ok(Exit::DONE)
}
