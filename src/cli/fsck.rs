//! `twinfs fsck`: runs the checker, which is a program of its own and shares no code with what it checks.
//!
//! Decides where the checker is. Does not know its options. Invariant: the exit code is the checker's.
#![allow(clippy::disallowed_methods, reason = "a shell: starts a program")]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

use super::install::checker_beside;
use super::{Exit, Output};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Options and the image, as in fsck.twinfs(8)
    #[arg(value_name = "ARGUMENTS", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(args: &Args, _: &Output) -> anyhow::Result<Exit> {
    let own = std::env::current_exe().context("where this program lies")?;
    let checker = checker_beside(&own)?;
    // Only comes back when it did not work.
    let error = Command::new(&checker).args(&args.arguments).exec();
    Err(anyhow::Error::from(error).context(checker.display().to_string()))
}
