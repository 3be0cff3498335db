//! `twinfs key generate`: makes the shared key.
//!
//! Decides nothing about what a key is good for (`config` reads it, `link` derives from it). Invariant: never
//! overwrites a file, and the file is 0600 from its first byte.
#![allow(clippy::disallowed_methods, reason = "a shell: makes a file")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Exit, Failure, Output};

/// Bytes of randomness in a key.
const KEY_BYTES: usize = 32;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Write a new random key; both nodes need the same file
    Generate {
        /// Where; must not exist
        #[arg(default_value = "/etc/twinfs/key")]
        file: PathBuf,
    },
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let Action::Generate { file } = &args.action;
    generate(file)?;
    output.line(format_args!("{} written; copy it to the other node, mode 0600", file.display()));
    output.object(serde_json::json!({ "key": file }));
    Ok(Exit::DONE)
}

/// Makes `file` with a fresh key as 64 hexadecimal digits.
pub fn generate(file: &Path) -> anyhow::Result<()> {
    let mut bytes = [0_u8; KEY_BYTES];
    getrandom::fill(&mut bytes).context("the kernel gives no random bytes")?;
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    let mut made =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(|e| {
            let why = match e.kind() {
                std::io::ErrorKind::AlreadyExists => "exists already and is left alone".to_string(),
                _ => format!("cannot be made: {e}"),
            };
            Failure::new(Exit::FAILED, format!("{}: {why}", file.display()))
        })?;
    made.write_all(text.as_bytes()).and_then(|()| made.sync_all()).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_private_random_and_never_overwritten() {
        let dir = std::env::temp_dir().join(format!("twinfs-key-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (one, two) = (dir.join("one"), dir.join("two"));
        generate(&one).unwrap();
        generate(&two).unwrap();
        assert_eq!(std::fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&one).unwrap();
        assert_eq!(text.trim().len(), 2 * KEY_BYTES);
        assert_ne!(text, std::fs::read_to_string(&two).unwrap());
        let error = generate(&one).unwrap_err();
        assert!(error.to_string().contains("left alone"), "{error}");
        assert_eq!(std::fs::read_to_string(&one).unwrap(), text);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
