//! `twinfs grow`: more room on a volume that is in use, on both nodes.
//!
//! Decides nothing: the daemon does, and says why not.

use super::place::RunDir;
use super::{Exit, Output};
use crate::config::units::parse_size;
use crate::daemon::protocol::Request;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The volume
    volume: String,
    /// Size that the image on each node shall have, such as 200G; larger than it is
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    size: u64,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    args.run.order(&Request::Grow { volume: args.volume.clone(), bytes: args.size }, output)
}
