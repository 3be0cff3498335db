//! Another program that goes on with what this process serves: whether it can, and how it is told.
//!
//! The process stays (its number, its place under systemd, what it may lock) and becomes the other program with
//! execve(2), so that nobody has to keep descriptors in between. Decides what a successor is asked before anything is
//! stopped, and the command line that it gets. Does not know what is served. Invariant: whoever cannot read what this
//! program leaves is refused while everything still runs.
#![allow(clippy::disallowed_methods, reason = "a shell: the command line of this process, another program")]

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::format::{HANDOVER_BYTES_MAX, HANDOVER_VERSION, Handover};
use crate::sys::exec::{self, Program};
use crate::sys::handover as sys;

/// The option that names the descriptor of what was left.
const KEPT: &str = "--kept";
/// For a program to say whether it can go on.
const JUDGE_LIMIT: Duration = Duration::from_secs(10);

/// Asks `program` whether it reads what this one leaves, and `config`, if it needs one.
pub fn judge(program: &Path, config: Option<&Path>) -> Result<(), String> {
    let mut args = vec!["upgrade".to_string(), "--accepts".to_string(), HANDOVER_VERSION.to_string()];
    if let Some(config) = config {
        args.extend(["--reads".to_string(), config.display().to_string()]);
    }
    let asked = Program { path: program.to_path_buf(), args, env: Vec::new(), timeout: JUDGE_LIMIT };
    let ran = exec::run(&asked).map_err(|e| e.to_string())?;
    if ran.succeeded() {
        return Ok(());
    }
    let shown = program.display();
    Err(format!("{shown} cannot go on with these mounts ({}): nothing was changed", ran.describe()))
}

/// The answer of this program to `judge`.
pub fn accepts(version: u16) -> Result<(), String> {
    match version == HANDOVER_VERSION {
        true => Ok(()),
        false => Err(format!("it reads handovers of version {HANDOVER_VERSION}, not {version}")),
    }
}

/// What a predecessor left under descriptor `number`.
pub fn read(number: u32) -> Result<Handover, String> {
    let failed = |e: &dyn std::fmt::Display| format!("what the predecessor left cannot be used: {e}");
    let file = sys::adopt(number).map_err(|e| failed(&e))?;
    let bytes = sys::read_sealed(file, HANDOVER_BYTES_MAX).map_err(|e| failed(&e))?;
    Handover::decode(&bytes).map_err(|e| failed(&e))
}

/// A successor that was found able, with its state written down.
pub struct Successor {
    program: PathBuf,
    state: OwnedFd,
    descriptors: Vec<u32>,
}

impl Successor {
    /// Writes down what `program` needs to know.
    pub fn prepare(program: PathBuf, handover: &Handover) -> Result<Successor, String> {
        let bytes = handover.encode().map_err(|e| e.to_string())?;
        let state = sys::sealed_file(&bytes).map_err(|e| e.to_string())?;
        Ok(Successor { program, state, descriptors: handover.descriptors() })
    }

    /// Becomes the successor, which gets the descriptors that it was told of; comes back with the reason why not. Their
    /// owners keep them open until then.
    pub fn start(&self) -> std::io::Error {
        let state = sys::number(&self.state);
        let keep: Vec<u32> = self.descriptors.iter().copied().chain([state]).collect();
        sys::become_program(&self.program, next_args(std::env::args_os(), state), &keep)
    }
}

/// The command line of a successor: this one's, with what it was left.
fn next_args(args: impl Iterator<Item = OsString>, state: u32) -> Vec<OsString> {
    let mut next = Vec::new();
    let mut args = args.peekable();
    while let Some(word) = args.next() {
        match word == KEPT {
            true => drop(args.next()),
            false => next.push(word),
        }
    }
    next.extend([KEPT.into(), state.to_string().into()]);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_gets_the_same_command_line_with_its_own_state() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let first = next_args(words("mount.twinfs img /mnt -o ro").into_iter(), 7);
        assert_eq!(first, words("mount.twinfs img /mnt -o ro --kept 7"));
        assert_eq!(next_args(first.into_iter(), 12), words("mount.twinfs img /mnt -o ro --kept 12"));
    }

    #[test]
    fn only_this_version_is_accepted() {
        assert!(accepts(HANDOVER_VERSION).is_ok());
        assert!(accepts(HANDOVER_VERSION + 1).unwrap_err().contains("version"));
    }

    #[test]
    fn what_was_not_left_is_not_read() {
        assert!(read(1 << 20).unwrap_err().contains("predecessor"));
    }
}
