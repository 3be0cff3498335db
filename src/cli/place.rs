//! Options that several verbs share: where the configuration, the run directory and the state lie; and asking the
//! daemon.
//!
//! Decides defaults and exit codes of failures. Does not know any request's meaning.

use std::path::PathBuf;
use std::time::Duration;

use super::{Exit, Failure, Output};
use crate::daemon::protocol::{self, CallError, Reply, Request, Verdict};
use crate::daemon::{DaemonError, Dirs};

/// A daemon answers orders within its own limits; this is longer than all of them.
const PATIENCE: Duration = Duration::from_secs(900);

/// Where the daemon is.
#[derive(clap::Args, Debug, Clone)]
pub struct RunDir {
    /// Directory of the daemon's control socket
    #[arg(long, value_name = "DIR", default_value = "/run/twinfs")]
    pub run_dir: PathBuf,
}

/// Everything a daemon is started with.
#[derive(clap::Args, Debug, Clone)]
pub struct Place {
    /// Configuration, the same on both nodes
    #[arg(long, value_name = "FILE", default_value = "/etc/twinfs/twinfs.toml")]
    pub config: PathBuf,
    /// Which node this is; found out by host name or address if not given
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    #[command(flatten)]
    pub run: RunDir,
    /// Directory of the node's state and history
    #[arg(long, value_name = "DIR", default_value = "/var/lib/twinfs")]
    pub state_dir: PathBuf,
}

impl Place {
    pub fn dirs(&self) -> Dirs {
        Dirs { config: self.config.clone(), run: self.run.run_dir.clone(), state: self.state_dir.clone() }
    }
}

impl RunDir {
    /// Asks the daemon.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        Ok(protocol::call(&self.run_dir, request, PATIENCE).map_err(|error| {
            let exit = match error {
                CallError::NotRunning(_) => Exit::NOT_RUNNING,
                CallError::NotPermitted(_) => Exit::NOT_PERMITTED,
                CallError::Silent => Exit::TRY_AGAIN,
                CallError::Broken { .. } => Exit::FAILED,
            };
            Failure::new(exit, error.to_string())
        })?)
    }

    /// Asks the daemon, prints its words, and turns its verdict into an exit code.
    pub fn order(&self, request: &Request, output: &Output) -> anyhow::Result<Exit> {
        let reply = self.ask(request)?;
        let exit = exit_of(reply.verdict);
        if exit != Exit::DONE {
            return Err(Failure::new(exit, reply.text).into());
        }
        output.line(&reply.text);
        output.object(serde_json::json!({ "done": true, "text": reply.text }));
        Ok(exit)
    }
}

/// The exit code for how a request ended.
pub fn exit_of(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Done => Exit::DONE,
        Verdict::Failed => Exit::FAILED,
        Verdict::Usage => Exit::USAGE,
        Verdict::NoRight => Exit::NO_RIGHT,
        Verdict::PeerUnreachable => Exit::PEER_UNREACHABLE,
        Verdict::TryAgain => Exit::TRY_AGAIN,
    }
}

/// The failure of a daemon, or of what it would do, as the command line reports it.
pub fn failure(error: DaemonError) -> Failure {
    let exit = match error {
        DaemonError::Config(_) | DaemonError::Image { .. } => Exit::CONFIG,
        DaemonError::Running(_) | DaemonError::State(_) => Exit::FAILED,
        DaemonError::Denied(_) => Exit::NOT_PERMITTED,
        DaemonError::Peer(_) => Exit::PEER_UNREACHABLE,
        DaemonError::OnlyCopy(_) => Exit::WOULD_LOSE_DATA,
    };
    Failure::new(exit, error.to_string().replace('\n', "; "))
}

/// Refuses to go on where root or FUSE is missing.
pub fn need_root_and_fuse() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(Exit::NOT_PERMITTED, "this needs root (it mounts a filesystem): use sudo"));
    }
    if !std::path::Path::new("/dev/fuse").exists() {
        return Err(Failure::new(
            Exit::NOT_PERMITTED,
            "/dev/fuse is missing: load the module with \"modprobe fuse\"",
        ));
    }
    Ok(())
}
