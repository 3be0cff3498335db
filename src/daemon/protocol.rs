//! What is said on the control socket: one JSON object a line, a request and a reply.
//!
//! Decides the words. Does not know who carries them out. Invariant: a line longer than `LINE_BYTES_MAX` is refused
//! before it is parsed, in both directions.
#![allow(clippy::disallowed_methods, reason = "a shell: a socket")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::measured::Measured;
use super::merged::Merged;
use super::resolve::SplitReport;
use super::situation::Recorded;
use super::status::NodeStatus;
use super::upgrade::Upgraded;
use crate::sys::clock;

/// Longest request or reply.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "control.sock";

/// A question or an order of the administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Why this node is in its state.
    Explain {
        volume: Option<String>,
    },
    /// Which deadtime the network would have allowed.
    Advise,
    /// `volume: None`: every volume, here and below.
    Promote {
        volume: Option<String>,
        peer_is_down: bool,
        /// Although this copy is out of date or half overwritten.
        #[serde(default)]
        old: bool,
    },
    Demote {
        volume: Option<String>,
    },
    Switchover {
        volume: Option<String>,
    },
    Connect {
        volume: Option<String>,
    },
    Disconnect {
        volume: Option<String>,
    },
    EnrolWitness {
        volume: Option<String>,
    },
    /// The newest entries of the history.
    Events {
        volume: Option<String>,
        count: usize,
    },
    /// The same of both nodes, in one order.
    History {
        volume: Option<String>,
        count: usize,
    },
    /// Makes everything written so far stable on every member.
    Sync {
        volume: Option<String>,
    },
    /// The peer has stopped, by the word of whoever asks; `code`: the one that this request is known by.
    FenceConfirm {
        volume: Option<String>,
        code: Option<String>,
    },
    /// Takes no step without the peer, over restarts, until told otherwise; `node`: this one.
    Hold {
        node: Option<String>,
        on: bool,
    },
    /// Looks through the copies, or goes on with a run of the same kind.
    Verify {
        volume: Option<String>,
        local: bool,
        repair: bool,
    },
    StopVerify {
        volume: Option<String>,
    },
    /// Copies nothing to the peer for so long.
    PauseResync {
        volume: Option<String>,
        ms: u64,
    },
    ResumeResync {
        volume: Option<String>,
    },
    /// Another pace until the daemon stops, in bytes a second; `None`: as it is.
    LimitResync {
        volume: Option<String>,
        max: Option<u64>,
        min: Option<u64>,
    },
    /// Makes the volume so many bytes large, images of both nodes and file system.
    Grow {
        volume: String,
        bytes: u64,
    },
    /// The peer's machine is gone for good: its copies are struck off, and a token is given out for the new one, good
    /// for so long.
    Replace {
        node: String,
        force: bool,
        ms: u64,
    },
    /// Shows both sides of a split; `keep`: ends it for the copy of this node.
    Resolve {
        volume: String,
        keep: Option<String>,
    },
    /// The list of adopted directories changed: tell the peer.
    AdoptedChanged {
        volume: String,
    },
    /// Goes on in another program; without one only says how that stands.
    Upgrade {
        program: Option<PathBuf>,
    },
    /// Stops the daemon. `hand_over`: the peer takes over where it can.
    Stop {
        hand_over: bool,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Done,
    Failed,
    /// No such volume, or a request this daemon does not know.
    Usage,
    NoRight,
    PeerUnreachable,
    /// Begun, but not finished in the time a command waits.
    TryAgain,
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    pub verdict: Verdict,
    /// One line for a person; empty where `data` says it all.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<serde_json::Value>,
    /// For the machine that takes the place of one that was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Box<SplitReport>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Box<Measured>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<Box<Merged>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub situation: Option<Box<Recorded>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgraded: Option<Upgraded>,
    /// When it was answered, by the clock of the events.
    #[serde(default)]
    pub unix_ms: u64,
}

impl Reply {
    pub fn new(verdict: Verdict, text: impl Into<String>) -> Reply {
        let (text, events, unix_ms) = (text.into(), Vec::new(), clock::unix_ms());
        let (status, token, split, measured) = (None, None, None, None);
        let (upgraded, merged, situation) = (None, None, None);
        Reply { verdict, text, status, events, token, split, measured, upgraded, merged, situation, unix_ms }
    }

    pub fn done(text: impl Into<String>) -> Reply {
        Reply::new(Verdict::Done, text)
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the daemon is not running (nothing answers at {}); start it with \"twinfs up\"", .0.display())]
    NotRunning(PathBuf),
    #[error("{}: not permitted; run this as root", .0.display())]
    NotPermitted(PathBuf),
    #[error("the daemon did not answer in time")]
    Silent,
    #[error("the daemon at {} gave no proper answer: {why}", .path.display())]
    Broken { path: PathBuf, why: String },
}

/// Asks the daemon of `run_dir`; waits at most `patience` for the answer.
pub fn call(run_dir: &Path, request: &Request, patience: Duration) -> Result<Reply, CallError> {
    let path = run_dir.join(SOCKET_NAME);
    let stream = UnixStream::connect(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => CallError::NotPermitted(path.clone()),
        _ => CallError::NotRunning(path.clone()),
    })?;
    let broken = |why: String| CallError::Broken { path: path.clone(), why };
    let mut line = serde_json::to_vec(request).map_err(|e| broken(e.to_string()))?;
    line.push(b'\n');
    stream.set_read_timeout(Some(patience)).map_err(|e| broken(e.to_string()))?;
    (&stream).write_all(&line).map_err(|e| broken(e.to_string()))?;
    let mut answer = Vec::new();
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut reader = BufReader::new(stream.take(limit));
    match reader.read_until(b'\n', &mut answer) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            Err(CallError::Silent)
        }
        Err(e) => Err(broken(e.to_string())),
        Ok(0) => Err(broken("it closed the connection".to_string())),
        Ok(_) => serde_json::from_slice(&answer).map_err(|e| broken(e.to_string())),
    }
}
