//! Streams and datagrams between the two nodes: sockets, framing, encryption, several paths and how good each is.
//!
//! Decides which path a new stream takes and which bytes are too many; does not know what a frame means. Streams and
//! datagrams use plain threads; only [`WitnessClient`] belongs to the control plane's runtime.
//!
//! Invariants: nothing is allocated for a length that was not checked; before the handshake is over a stranger costs
//! one of a fixed number of slots for a bounded time; the first frame that is not authentic closes the stream.
//!
//! A stream, in order: hello (plain, 32 bytes each way), Noise `NNpsk0` (two messages), one *opening* frame that names
//! the volume, one answer. Then frames both ways until one side closes.
#![allow(clippy::disallowed_methods, reason = "a shell: sockets, threads and the clock")]

mod cobs;
mod connection;
mod datagrams;
mod etcd;
mod gaps;
mod handshake;
mod listener;
mod noise;
mod paths;
mod probes;
mod quality;
mod recent;
mod serial;
mod socket;
mod witness;

pub use connection::Connection;
pub use datagrams::{DATAGRAM_BYTES_MAX, Datagrams, Received, Sender};
pub use etcd::{Etcd, EtcdAccess, EtcdError, Found};
pub use gaps::Gaps;
pub use handshake::{Opening, PROTOCOL_VERSION};
pub use listener::{Deliver, Judge, Listener};
pub use paths::{Path, Paths};
pub use probes::Probes;
pub use quality::{Cause, Flow, Heard, Late, Limits, LinkBook, PathBook, Refusal, Refused};
pub use recent::Recent;
pub use serial::say_over;
pub use witness::{WitnessClient, WitnessError};

use crate::base::NodeId;
use crate::wire::{BODY_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};

/// Longest frame: the longest message with the longest payload.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + BODY_BYTES_MAX + PAYLOAD_BYTES_MAX;

/// Who this node is, and the keys of its streams.
#[derive(Clone)]
pub struct Identity {
    /// `config::Cluster::id`.
    pub cluster_id: u128,
    pub node: NodeId,
    /// Pre-shared key of streams that this node dials.
    pub key_out: [u8; 32],
    /// Pre-shared key of streams that the peer dials.
    pub key_in: [u8; 32],
    /// Streams are encrypted; else only authenticated. The same on both nodes.
    pub encrypt: bool,
    /// A stream whose peer acknowledges nothing for so long is broken (TCP_USER_TIMEOUT).
    pub silence_max: std::time::Duration,
}

/// Why a stream could not be made or has ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(
        "cannot listen on {address}: {source}; is it an address of this machine, and is no other daemon running?"
    )]
    Bind { address: std::net::SocketAddr, source: std::io::Error },
    #[error("cannot reach the peer at {address}: {source}")]
    Unreachable { address: std::net::SocketAddr, source: std::io::Error },
    #[error("what answers there does not speak the twinfs protocol")]
    NotTwinfs,
    #[error("the peer speaks protocol version {theirs}, this program {ours}: upgrade the older one")]
    Version { ours: u16, theirs: u16 },
    #[error("the peer belongs to another cluster: compare [cluster] name in twinfs.toml on both nodes")]
    Cluster,
    #[error(
        "the peer says that it is the same node as this one: each must be started with its own --node NAME"
    )]
    SameNode,
    #[error("the peer has another key: copy the key file from one node to the other")]
    Key,
    #[error("one node encrypts its streams and the other does not: make twinfs.toml the same on both")]
    Encryption,
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("the handshake was not finished in time")]
    Timeout,
    #[error("a frame of {len} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong { len: usize },
    #[error("the stream carried bytes that the peer did not write; it was closed")]
    Forged,
    #[error("the stream is closed")]
    Closed,
    #[error("the stream broke: {0}")]
    Io(std::io::Error),
}

#[cfg(test)]
mod tests;
