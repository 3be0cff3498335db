//! The command line: one file per verb, each with its clap `Args` and `run(args, &Output) -> anyhow::Result<Exit>`.
//!
//! Decides which verb runs and turns its result into an exit code. Does not know how a daemon works: verbs that need
//! one talk to its control socket. Invariant: an error is one line on standard error; no verb prompts.

pub mod adopt;
mod advise;
pub mod completions;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod dump;
pub mod events;
mod explain;
mod fence;
pub mod fsck;
mod grow;
mod history;
pub mod init;
pub mod install;
pub mod key;
mod links;
pub mod mkfs;
pub mod mount;
pub mod output;
pub mod place;
pub mod progress;
mod replace;
mod resolve;
mod resync;
pub mod roles;
mod salvage;
pub mod sim;
pub(crate) mod standalone;
pub mod status;
mod supervise;
mod sync;
pub mod umount;
pub mod updown;
mod upgrade;
mod usage;
mod verify;
pub mod witness;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use output::{Exit, Failure, Output};

/// One directory that survives the loss of either of two machines.
#[derive(Parser, Debug)]
#[command(name = "twinfs", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

const EVERYWHERE: &str = "Options of every command";

/// Options of every verb. No short forms: the helpers of mount(8), mkfs(8) and fsck(8) need the letters.
#[derive(clap::Args, Debug)]
pub struct Global {
    /// Answer with JSON objects, one per line, each with a schema number
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    /// No colours (also: the environment variable NO_COLOR)
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub no_color: bool,
}

/// The verbs. `Verb::run` is the only place that names them again.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Move directories onto a volume and leave symlinks, on both nodes
    Adopt(adopt::Args),
    /// Say which deadtime the network would have allowed so far
    Advise(advise::Args),
    /// Print a completion script
    Completions(completions::Args),
    /// Look at the configuration
    Config(config::Args),
    /// Use the link to the peer again
    Connect(roles::ConnectArgs),
    /// Keep this node's volumes until told to stop
    Daemon(daemon::Args),
    /// Two nodes and a witness on this machine: write, kill, take over, check; no set-up
    Demo(demo::Args),
    /// Stop serving here, and stay stopped until told otherwise
    #[command(alias = "secondary")]
    Demote(roles::Args),
    /// Leave the peer alone
    Disconnect(roles::Args),
    /// Stop the daemon; the peer takes over where it can
    Down(updown::DownArgs),
    /// Show the structures of an image that is not in use
    Dump(dump::Args),
    /// Show what happened
    Events(events::Args),
    /// Say why this node is in its state, and what would change it
    Explain(explain::Args),
    /// State that the peer has stopped, where no fence agent could say so
    FenceConfirm(fence::ConfirmArgs),
    /// Check an image that is not in use
    #[command(disable_version_flag = true)]
    Fsck(fsck::Args),
    /// Give a volume more room while it is in use, on both nodes
    Grow(grow::Args),
    /// Show what happened on both nodes, in one order
    History(history::Args),
    /// Take no step without the peer, over restarts, until told otherwise
    Hold(fence::HoldArgs),
    /// Make configuration, key and image on the first node
    Init(init::InitArgs),
    /// Put the program, its helper names, manual pages and units in place
    Install(install::Args),
    /// Make the image of the second node, or a new one after a disk was replaced
    Join(init::JoinArgs),
    /// Make the shared key of a pair
    Key(key::Args),
    /// Make an image with an empty file system
    Mkfs(mkfs::Args),
    /// Serve an image without a peer
    Mount(mount::Args),
    /// Become primary here
    #[command(alias = "primary")]
    Promote(roles::PromoteArgs),
    /// Move adopted directories back to this node
    Release(adopt::Args),
    /// Strike off a machine that is gone for good, and let a new one take its place
    Replace(replace::Args),
    /// After a split brain: show what each side changed, keep one and put the other one aside
    Resolve(resolve::Args),
    /// Pause, resume and pace what this node copies to the peer
    Resync(resync::Args),
    /// Look at, copy from and delete copies that were put aside
    Salvage(salvage::Args),
    /// Run two simulated nodes and a witness under faults
    #[command(hide = true)]
    Sim(sim::Args),
    /// Show how this node and its volumes are
    Status(status::Args),
    /// Tell the peer if the daemon dies
    #[command(hide = true)]
    Supervise(supervise::Args),
    /// The primary hands over to the other node
    Switchover(roles::Args),
    /// Make everything written so far stable on both nodes
    Sync(sync::Args),
    /// End a mount
    Umount(umount::Args),
    /// Start the daemon in the background
    Up(updown::UpArgs),
    /// Go on in another version of the program; applications wait for a moment
    Upgrade(upgrade::Args),
    /// Look whether both copies are as they should be, while they are in use
    Verify(verify::Args),
    /// Keep one record per volume for two nodes elsewhere; needs no root and no data
    Witness(witness::Args),
}

impl Verb {
    fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        match self {
            Verb::Adopt(args) => adopt::adopt(args, output),
            Verb::Advise(args) => advise::run(args, output),
            Verb::Completions(args) => completions::run(args, output),
            Verb::Config(args) => config::run(args, output),
            Verb::Connect(args) => roles::connect(args, output),
            Verb::Daemon(args) => daemon::run(args, output),
            Verb::Demote(args) => roles::demote(args, output),
            Verb::Demo(args) => demo::run(args, output),
            Verb::Disconnect(args) => roles::disconnect(args, output),
            Verb::Down(args) => updown::down(args, output),
            Verb::Dump(args) => dump::run(args, output),
            Verb::Events(args) => events::run(args, output),
            Verb::Explain(args) => explain::run(args, output),
            Verb::FenceConfirm(args) => fence::confirm(args, output),
            Verb::History(args) => history::run(args, output),
            Verb::Hold(args) => fence::hold(args, output),
            Verb::Fsck(args) => fsck::run(args, output),
            Verb::Grow(args) => grow::run(args, output),
            Verb::Init(args) => init::init(args, output),
            Verb::Install(args) => install::run(args, output),
            Verb::Join(args) => init::join(args, output),
            Verb::Key(args) => key::run(args, output),
            Verb::Promote(args) => roles::promote(args, output),
            Verb::Release(args) => adopt::release(args, output),
            Verb::Replace(args) => replace::run(args, output),
            Verb::Resolve(args) => resolve::run(args, output),
            Verb::Resync(args) => resync::run(args, output),
            Verb::Salvage(args) => salvage::run(args, output),
            Verb::Sim(args) => sim::run(args, output),
            Verb::Mkfs(args) => mkfs::run(args, output),
            Verb::Mount(args) => mount::run(args, output),
            Verb::Umount(args) => umount::run(args, output),
            Verb::Status(args) => status::run(args, output),
            Verb::Supervise(args) => supervise::run(args, output),
            Verb::Switchover(args) => roles::switchover(args, output),
            Verb::Sync(args) => sync::run(args, output),
            Verb::Up(args) => updown::up(args, output),
            Verb::Upgrade(args) => upgrade::run(args, output),
            Verb::Verify(args) => verify::run(args, output),
            Verb::Witness(args) => witness::run(args, output),
        }
    }
}

/// Names under which the program may be called, and the verb each stands for.
const HELPERS: &[(&str, &str)] =
    &[("mkfs.twinfs", "mkfs"), ("mount.twinfs", "mount"), ("mount.fuse.twinfs", "mount")];

/// The command tree, for completions and for the test of the manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with these arguments (the first is its own name) and answers with its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::base::hush_foreign();
    crate::base::advise_slabs_with(crate::sys::memory::prefer_huge_pages);
    let args = with_helper_verb(args.into_iter().collect());
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let word = |word: &&str| !word.starts_with('-');
            let verb = args.iter().skip(1).filter_map(|arg| arg.to_str()).find(word);
            return ExitCode::from(usage::report(&error, verb, args.iter().any(|arg| arg == "--json")).0);
        }
    };
    let output = Output::new(cli.global.json, !cli.global.no_color);
    let exit = cli.verb.run(&output).unwrap_or_else(|error| output.error(&error));
    ExitCode::from(exit.0)
}

/// `mkfs.twinfs X` becomes `twinfs mkfs X`.
fn with_helper_verb(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(std::path::PathBuf::from);
    let called = name.as_ref().and_then(|p| p.file_name()).and_then(|n| n.to_str()).unwrap_or("twinfs");
    if let Some((_, verb)) = HELPERS.iter().find(|(helper, _)| *helper == called) {
        args.insert(1, (*verb).into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_name_of_the_program_chooses_the_verb() {
        let call = |args: &[&str]| with_helper_verb(args.iter().map(OsString::from).collect());
        assert_eq!(call(&["/sbin/mkfs.twinfs", "img"]), ["/sbin/mkfs.twinfs", "mkfs", "img"]);
        assert_eq!(call(&["mount.fuse.twinfs", "a", "b"])[1], "mount");
        assert_eq!(call(&["twinfs", "status"]), ["twinfs", "status"]);
    }
}
