//! What an administrator says about steps that a node takes without its peer: that the peer has stopped, and that none
//! shall be taken.
//!
//! Decides nothing: the daemon does, and names the consequence first.

use super::place::RunDir;
use super::{Exit, Output};
use crate::daemon::protocol::Request;

#[derive(clap::Args, Debug)]
pub struct ConfirmArgs {
    /// The volume; all of them if not given
    volume: Option<String>,
    /// The code that the same command without it prints, together with what you state by it
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    #[command(flatten)]
    run: RunDir,
}

#[derive(clap::Args, Debug)]
pub struct HoldArgs {
    /// This node
    node: Option<String>,
    /// Let it go again
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    run: RunDir,
}

pub fn confirm(args: &ConfirmArgs, output: &Output) -> anyhow::Result<Exit> {
    let request = Request::FenceConfirm { volume: args.volume.clone(), code: args.code.clone() };
    args.run.order(&request, output)
}

pub fn hold(args: &HoldArgs, output: &Output) -> anyhow::Result<Exit> {
    args.run.order(&Request::Hold { node: args.node.clone(), on: !args.off }, output)
}
