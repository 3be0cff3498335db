//! `twinfs completions bash|zsh|fish`: the completion script of a shell, made from the command tree.
//!
//! Decides nothing. Invariant: what it prints comes from `command()` alone, so it can never lag behind the parser.

use clap_complete::Shell;

use super::{Exit, Output};

/// Shells that twinfs is installed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Bash,
    Zsh,
    Fish,
}

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Which shell will read it
    #[arg(value_enum)]
    shell: Kind,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let text = script(args.shell)?;
    output.line(text.trim_end());
    output.object(serde_json::json!({ "completions": text }));
    Ok(Exit::DONE)
}

/// The script for `shell`.
pub fn script(shell: Kind) -> anyhow::Result<String> {
    let shell = match shell {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "twinfs", &mut bytes);
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_every_visible_verb() {
        for shell in [Kind::Bash, Kind::Zsh, Kind::Fish] {
            let text = script(shell).unwrap();
            let tree = super::super::command();
            let verbs: Vec<&str> =
                tree.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name).collect();
            assert!(!verbs.is_empty());
            for verb in verbs {
                assert!(text.contains(verb), "{shell:?} does not complete {verb}");
            }
        }
    }
}
