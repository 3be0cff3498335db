//! The command line: one file per verb, each with its clap `Args` and `run(args, &Output) -> anyhow::Result<Exit>`.
//!
//! Decides which verb runs and turns its result into an exit code. Does not know how a daemon works: verbs that need
//! one talk to its control socket. Invariant: an error is one line on standard error; no verb prompts.

pub mod completions;
pub mod dump;
pub mod install;
pub mod key;
pub mod mkfs;
pub mod mount;
pub mod output;
pub mod progress;
pub mod sim;
mod standalone;
pub mod umount;
pub mod witness;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use output::{Exit, Failure, Output};

/// One directory that survives the loss of either of two machines.
#[derive(Parser, Debug)]
#[command(name = "twinfs", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb. No short forms: the helpers of mount(8), mkfs(8) and fsck(8) need the letters.
#[derive(clap::Args, Debug)]
pub struct Global {
    /// Answer with JSON objects, one per line, each with a schema number
    #[arg(long, global = true)]
    pub json: bool,
    /// No colours (also: the environment variable NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The verbs. `Verb::run` is the only place that names them again.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Print a completion script
    Completions(completions::Args),
    /// Show the structures of an image that is not in use
    Dump(dump::Args),
    /// Put the program, its helper names, manual pages and units in place
    Install(install::Args),
    /// Make the shared key of a pair
    Key(key::Args),
    /// Run two simulated nodes and a witness under faults
    #[command(hide = true)]
    Sim(sim::Args),
    /// Make an image with an empty file system
    Mkfs(mkfs::Args),
    /// Serve an image without a peer
    Mount(mount::Args),
    /// End a mount
    Umount(umount::Args),
    /// Keep one record per volume for two nodes elsewhere; needs no root and no data
    Witness(witness::Args),
}

impl Verb {
    fn run(&self, output: &Output) -> anyhow::Result<Exit> {
        match self {
            Verb::Completions(args) => completions::run(args, output),
            Verb::Dump(args) => dump::run(args, output),
            Verb::Install(args) => install::run(args, output),
            Verb::Key(args) => key::run(args, output),
            Verb::Sim(args) => sim::run(args, output),
            Verb::Mkfs(args) => mkfs::run(args, output),
            Verb::Mount(args) => mount::run(args, output),
            Verb::Umount(args) => umount::run(args, output),
            Verb::Witness(args) => witness::run(args, output),
        }
    }
}

/// Names under which the program may be called, and the verb each stands for.
const HELPERS: &[(&str, &str)] = &[
    ("mkfs.twinfs", "mkfs"),
    ("mount.twinfs", "mount"),
    ("mount.fuse.twinfs", "mount"),
    ("fsck.twinfs", "fsck"),
];

/// The command tree, for completions and for the test of the manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with these arguments (the first is its own name) and answers with its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(with_helper_verb(args.into_iter().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::USAGE.0 } else { Exit::DONE.0 });
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
