//! The process that keeps a node's volumes: threads, the control socket, and the carrying out of a node's orders.
//!
//! Decides in which order a promotion and a demotion happen and how long each may take. Does not know why (the node's
//! machine does) nor the verbs of the command line. Invariants: the boot epoch is stored before the first packet; a
//! node that may not serve answers nothing, whatever is still mounted; whatever a dead predecessor left is removed
//! before anything new begins.

mod advice;
mod arbiter;
mod confirm;
mod control;
mod dial;
mod failback;
mod fence;
mod files;
mod grow;
mod hooks;
mod journal;
pub mod keeper;
mod leftovers;
pub mod link_status;
mod links;
pub mod make;
pub mod measured;
pub mod merged;
mod node_file;
mod orders;
mod pace;
mod paths_watch;
mod peer;
mod ping;
mod prepare;
pub mod protocol;
mod pulse;
mod reach;
mod reflexes;
mod replace;
pub mod resolve;
mod roles;
mod runtime;
mod seen;
mod serving;
mod shell;
pub mod sides;
pub mod situation;
pub mod status;
pub mod successor;
pub mod supervisor;
mod switch;
mod teller;
mod token;
pub mod upgrade;
mod verify;
mod volume;
pub mod witness;
mod witness_watch;

use std::path::PathBuf;

pub use node_file::NodeFile;
pub use prepare::{node_of, read_config, read_key};
pub use replace::{show_token, without_token};
pub use runtime::{peer_is_current, run};
pub use token::TAG as TOKEN_TAG;
pub use volume::{Dirs, volume_id};

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    pub dirs: Dirs,
    /// `None`: found out by host name or address.
    pub node: Option<String>,
    /// Descriptor of what a predecessor left.
    pub kept: Option<u32>,
}

/// Why a daemon does not run. The text is one line and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("{0}")]
    Config(String),
    #[error("{}: {text}", .path.display())]
    Image { path: PathBuf, text: String },
    #[error("a daemon is running already with the run directory {}", .0.display())]
    Running(PathBuf),
    #[error("{0}")]
    State(String),
    #[error("{0}: not permitted; run this as root")]
    Denied(String),
    /// The peer is needed and does not answer.
    #[error("{0}")]
    Peer(String),
    /// What was asked for would give up the only current copy.
    #[error("{0}")]
    OnlyCopy(String),
}
