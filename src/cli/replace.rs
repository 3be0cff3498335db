//! `twinfs replace`: a machine that is gone for good is struck off, and a token for the new one given out.
//!
//! Decides where the token goes. Does not decide whether it may be given: the daemon does, and says why not. Invariant:
//! a file that is there is not overwritten, and is looked for before anything happens.
#![allow(clippy::disallowed_methods, reason = "a shell: makes a file")]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::place::{RunDir, exit_of};
use super::{Exit, Failure, Output};
use crate::base::Span;
use crate::config::units::parse_span;
use crate::daemon::protocol::Request;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The node whose machine is gone
    node: String,
    /// How long the token lets a machine in, at most 30d
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "24h")]
    expires: Span,
    /// Write the token to FILE, which must not exist, instead of printing it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Although the node was heard just now, wrote on its own, or was never met: what only it has is given up
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let file =
        args.token_file.as_deref().map(|path| Ok::<_, anyhow::Error>((path, new_file(path)?))).transpose()?;
    let request =
        Request::Replace { node: args.node.clone(), force: args.force, ms: args.expires.as_millis() };
    let asked = args.run.ask(&request).and_then(|reply| {
        let exit = exit_of(reply.verdict);
        let token = reply.token.clone().filter(|_| exit == Exit::DONE);
        token.map(|token| (reply.text.clone(), token)).ok_or_else(|| Failure::new(exit, reply.text).into())
    });
    let (text, token) = match asked {
        Ok(answer) => answer,
        Err(error) => {
            if let Some((path, _)) = file {
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
    };
    output.line(&text);
    match file {
        Some((path, mut file)) => {
            writeln!(file, "{token}")
                .and_then(|()| file.sync_all())
                .with_context(|| path.display().to_string())?;
            output.line(format_args!("token: in {}", path.display()));
            output.object(serde_json::json!({ "done": true, "text": text, "token_file": path }));
        }
        None => {
            output.line(format_args!("token: {token}"));
            output.object(serde_json::json!({ "done": true, "text": text, "token": token }));
        }
    }
    Ok(Exit::DONE)
}

fn new_file(path: &Path) -> anyhow::Result<std::fs::File> {
    let made = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| {
        Failure::new(Exit::FAILED, format!("{}: {error}; nothing done", path.display())).into()
    })
}

/// The token that `given` is, or that stands in the file of this name.
pub fn token_of(given: &str) -> anyhow::Result<String> {
    if given.starts_with(crate::daemon::TOKEN_TAG) {
        return Ok(given.to_string());
    }
    let text = std::fs::read_to_string(given).map_err(|error| {
        let text = format!(
            "{given}: {error}; give the token that \"twinfs replace\" printed, or the file that it is in"
        );
        Failure::new(Exit::USAGE, text)
    })?;
    Ok(text.trim().to_string())
}
