//! Bytes on links: the messages of the replication stream, heartbeats and witness requests, with their encodings.
//!
//! Decides where each byte lies on a link. Does not know sockets, encryption or what a message makes a node do.
//! Invariants: decoding never panics and allocates only what the bytes at hand can fill; every length is bounded;
//! every number with a narrower meaning (node, kind, member set) is checked here, so that the machines see values.

mod bytes;
mod hello;
mod message;
mod packet;
mod split;
mod stream;
#[cfg(test)]
mod tests;

pub use bytes::Refused;
pub use hello::Hello;
pub use message::{
    CopyKind, DecisionHash, Heartbeat, Kind, Message, Row, Run, Seq, Session, WitnessRecord, WitnessReply,
    WitnessRequest,
};
pub use packet::{
    Datagram, HEARTBEAT_BYTES, Key, Probe, Released, WitnessAnswer, WitnessQuestion, claims_to_be_ours,
    decode_answer, decode_datagram, decode_heartbeat, decode_question, encode_answer, encode_heartbeat,
    encode_probe, encode_question, encode_released,
};
pub use split::SplitNote;
pub use stream::{
    BODY_BYTES_MAX, FEATURES, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX, RUNS_MAX, VERSION, VERSION_MIN,
    decode, encode, feature, lineage_hash,
};
