//! Orders to the daemon about one volume or all of them: promote, demote, switchover, connect, disconnect.
//!
//! Decides nothing: the daemon's machine does, and says why not.

use super::place::RunDir;
use super::{Exit, Output};
use crate::daemon::protocol::Request;

/// An order about a volume.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The volume; all of them if not given
    volume: Option<String>,
    #[command(flatten)]
    run: RunDir,
}

impl Args {
    /// `all` is what administrators of DRBD type; a volume of this name is among them.
    fn volume(&self) -> Option<String> {
        self.volume.clone().filter(|name| name != "all")
    }
}

#[derive(clap::Args, Debug)]
pub struct PromoteArgs {
    #[command(flatten)]
    common: Args,
    /// Your word that the peer is down: nothing on it serves or will serve without a new agreement
    #[arg(long)]
    peer_is_down: bool,
    /// Serve this copy although it is out of date or half overwritten: what only the peer has is given up
    #[arg(long, requires = "peer_is_down")]
    force: bool,
}

#[derive(clap::Args, Debug)]
pub struct ConnectArgs {
    #[command(flatten)]
    common: Args,
    /// Have a witness that forgot this volume enrol this node's record; only where the peer is down for good
    #[arg(long)]
    enrol_witness: bool,
}

pub fn promote(args: &PromoteArgs, output: &Output) -> anyhow::Result<Exit> {
    let volume = args.common.volume();
    let request = Request::Promote { volume, peer_is_down: args.peer_is_down, old: args.force };
    args.common.run.order(&request, output)
}

pub fn demote(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    args.run.order(&Request::Demote { volume: args.volume() }, output)
}

pub fn switchover(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    args.run.order(&Request::Switchover { volume: args.volume() }, output)
}

pub fn connect(args: &ConnectArgs, output: &Output) -> anyhow::Result<Exit> {
    let volume = args.common.volume();
    let request =
        if args.enrol_witness { Request::EnrolWitness { volume } } else { Request::Connect { volume } };
    args.common.run.order(&request, output)
}

pub fn disconnect(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    args.run.order(&Request::Disconnect { volume: args.volume() }, output)
}
