//! Bytes on links: the messages of the replication stream, heartbeats and witness requests, with their encodings.
//!
//! Decides where each byte lies on a link. Does not know sockets, encryption or what a message makes a node do.
//! Invariants: decoding never panics and allocates only what the bytes at hand can fill; every length is bounded;
//! every number with a narrower meaning (node, kind, member set) is checked here, so that the machines see values.

mod hello;
mod message;

pub use hello::Hello;
pub use message::{
    CopyKind, DecisionHash, Heartbeat, Kind, Message, Row, Run, Seq, Session, WitnessRecord, WitnessReply,
    WitnessRequest,
};
