//! `twinfs key generate`: makes the shared key, or the witness's key from it.
//!
//! Decides nothing about what a key is good for (`config` derives from it). Invariant: never overwrites a file, and the
//! file is 0600 from its first byte.

use std::path::{Path, PathBuf};

use super::{Exit, Failure, Output};
use crate::config::{ClusterKey, Config};
use crate::sys::{random, secret};

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
        /// Write the witness's key instead, made from the key of the configuration's cluster
        #[arg(long)]
        witness: bool,
        /// Configuration that names the cluster and its key, for --witness
        #[arg(long, value_name = "FILE", default_value = "/etc/twinfs/twinfs.toml", requires = "witness")]
        config: PathBuf,
    },
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let Action::Generate { file, witness, config } = &args.action;
    if *witness {
        generate_witness(file, config)?;
        output.line(format_args!("{} written; move it to the witness, mode 0600", file.display()));
    } else {
        generate(file)?;
        output.line(format_args!("{} written; copy it to the other node, mode 0600", file.display()));
    }
    output.object(serde_json::json!({ "key": file, "witness": witness }));
    Ok(Exit::DONE)
}

/// Makes `file` with a fresh key as 64 hexadecimal digits.
pub fn generate(file: &Path) -> anyhow::Result<()> {
    create(file, &ClusterKey::from_bytes(random::bytes()).render())
}

/// Makes `file` with the keys that the witness of the cluster in `config` needs.
pub fn generate_witness(file: &Path, config: &Path) -> anyhow::Result<()> {
    let wrong = |path: &Path, why: &dyn std::fmt::Display| {
        Failure::new(Exit::CONFIG, format!("{}: {why}", path.display()).replace('\n', "; "))
    };
    let text = std::fs::read_to_string(config).map_err(|error| wrong(config, &error))?;
    let cluster = Config::parse(&text).map_err(|error| wrong(config, &error))?.cluster;
    let secret =
        secret::read(&cluster.key_file).map_err(|error| Failure::new(Exit::CONFIG, error.to_string()))?;
    let key = ClusterKey::parse(&secret).map_err(|error| wrong(&cluster.key_file, &error))?;
    create(file, &key.witness(&cluster.name).render())
}

fn create(file: &Path, text: &str) -> anyhow::Result<()> {
    secret::create(file, text).map_err(|error| Failure::new(Exit::FAILED, error.to_string()))?;
    Ok(())
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
        assert_eq!(text.trim().len(), 64);
        assert_ne!(text, std::fs::read_to_string(&two).unwrap());
        let error = generate(&one).unwrap_err();
        assert!(error.to_string().contains("left alone"), "{error}");
        assert_eq!(std::fs::read_to_string(&one).unwrap(), text);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
