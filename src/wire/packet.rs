//! Encoding of single authenticated packets: heartbeats, probes, the end of a daemon, and questions to and answers
//! from the witness.
//!
//! Each ends with 16 bytes of BLAKE3 keyed with the (direction's) key; a packet without the right ones is refused
//! before any field is looked at. A heartbeat is shorter than 160 bytes: it fits a serial line in 80 ms.

use crate::base::{NodeId, VolumeId};

use super::bytes::{Reader, Refused, Writer};
use super::{Heartbeat, WitnessRecord, WitnessReply, WitnessRequest};

/// Bytes of an encoded heartbeat.
pub const HEARTBEAT_BYTES: usize = HEAD_BYTES + 16 + 1 + 8 + 8 + 10 + 16 + 2 + 16 + 16 + 8 + MAC_BYTES;
const HEAD_BYTES: usize = 4;
const MAC_BYTES: usize = 16;
const VERSION: u8 = 1;
const HEARTBEAT: u8 = b'h';
const REQUEST: u8 = b'q';
const REPLY: u8 = b'a';
const PROBE: u8 = b'p';
const PROBE_REPLY: u8 = b'r';
const RELEASED: u8 = b'x';
const _: () = assert!(HEARTBEAT_BYTES < 160);

/// The key of one direction.
pub type Key = [u8; 32];

fn seal(key: &Key, bytes: &mut Vec<u8>) {
    let mac = blake3::keyed_hash(key, bytes);
    bytes.extend_from_slice(&mac.as_bytes()[..MAC_BYTES]);
}

/// Checks the code in time independent of its value, then the head; returns what lies between.
fn open<'a>(bytes: &'a [u8], key: &Key, kind: u8) -> Result<Reader<'a>, Refused> {
    let at = bytes.len().checked_sub(MAC_BYTES).ok_or(Refused::Short)?;
    let (body, mac) = bytes.split_at(at);
    let right = blake3::keyed_hash(key, body);
    let difference = right.as_bytes()[..MAC_BYTES].iter().zip(mac).fold(0u8, |all, (a, b)| all | (a ^ b));
    if difference != 0 {
        return Err(Refused::Mac);
    }
    let mut r = Reader(body);
    if r.u16()? != u16::from_le_bytes(*b"tw") {
        return Err(Refused::Magic);
    }
    let version = r.u8()?;
    if version != VERSION {
        return Err(Refused::Version { min: version, max: version, ours: VERSION });
    }
    match r.u8()? {
        k if k == kind => Ok(r),
        other => Err(Refused::Type(other)),
    }
}

fn head(w: &mut Writer<'_>, kind: u8) {
    w.u16(u16::from_le_bytes(*b"tw"));
    w.u8(VERSION);
    w.u8(kind);
}

/// A heartbeat as one datagram.
pub fn encode_heartbeat(hb: &Heartbeat, key: &Key) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEARTBEAT_BYTES);
    let mut w = Writer(&mut out);
    head(&mut w, HEARTBEAT);
    w.u128(hb.volume.0);
    w.u8(hb.from.index());
    w.u64(hb.boot_epoch);
    w.u64(hb.seq);
    w.record(hb.record);
    w.u128(hb.head.0);
    w.u8(u8::from(hb.serving));
    w.u8(u8::from(hb.released));
    w.u128(hb.nonce);
    w.u128(hb.nonce_echo);
    w.u64(hb.echo_seq);
    seal(key, &mut out);
    out
}

/// The heartbeat in a datagram, authentic under `key`.
pub fn decode_heartbeat(bytes: &[u8], key: &Key) -> Result<Heartbeat, Refused> {
    if bytes.len() > HEARTBEAT_BYTES {
        return Err(Refused::Long(bytes.len() - HEARTBEAT_BYTES));
    }
    let mut r = open(bytes, key, HEARTBEAT)?;
    let hb = Heartbeat {
        volume: VolumeId(r.u128()?),
        from: r.node()?,
        boot_epoch: r.u64()?,
        seq: r.u64()?,
        record: r.record()?,
        head: r.generation()?,
        serving: r.flag("serving")?,
        released: r.flag("released")?,
        nonce: r.u128()?,
        nonce_echo: r.u128()?,
        echo_seq: r.u64()?,
    };
    r.end()?;
    Ok(hb)
}

/// A question whether the other end of a path is there, or the answer to one: how long a round trip takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub from: NodeId,
    /// The question's; the answer repeats it.
    pub nonce: u128,
    pub answer: bool,
}

/// This start of the sender's daemon is over, and nothing of it answers any more: its peer need not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    pub volume: VolumeId,
    pub from: NodeId,
    pub boot_epoch: u64,
}

/// What the nodes send each other by datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    Heartbeat(Heartbeat),
    Probe(Probe),
    Released(Released),
}

/// A probe as one datagram. A question and its answer are of one length.
pub fn encode_probe(probe: &Probe, key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer(&mut out);
    head(&mut w, if probe.answer { PROBE_REPLY } else { PROBE });
    w.u8(probe.from.index());
    w.u128(probe.nonce);
    seal(key, &mut out);
    out
}

/// The end of a daemon as one datagram.
pub fn encode_released(released: &Released, key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer(&mut out);
    head(&mut w, RELEASED);
    w.u128(released.volume.0);
    w.u8(released.from.index());
    w.u64(released.boot_epoch);
    seal(key, &mut out);
    out
}

/// Whatever the peer sent, authentic under `key`.
pub fn decode_datagram(bytes: &[u8], key: &Key) -> Result<Datagram, Refused> {
    let kind = match bytes.get(3) {
        Some(kind @ (&PROBE | &PROBE_REPLY | &RELEASED)) => *kind,
        _ => return decode_heartbeat(bytes, key).map(Datagram::Heartbeat),
    };
    let mut r = open(bytes, key, kind)?;
    if kind == RELEASED {
        let (volume, from, boot_epoch) = (VolumeId(r.u128()?), r.node()?, r.u64()?);
        r.end()?;
        return Ok(Datagram::Released(Released { volume, from, boot_epoch }));
    }
    let probe = Probe { from: r.node()?, nonce: r.u128()?, answer: kind == PROBE_REPLY };
    r.end()?;
    Ok(Datagram::Probe(probe))
}

/// Whether a datagram claims to be of this protocol, be it or not.
pub fn claims_to_be_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(b"tw")
}

fn encode_witness_record(record: &WitnessRecord, w: &mut Writer<'_>) {
    w.record(Some(record.record));
    w.u128(record.head.0);
    w.u128(record.lineage);
    w.u128(record.nonce);
}

fn decode_witness_record(r: &mut Reader<'_>) -> Result<WitnessRecord, Refused> {
    Ok(WitnessRecord {
        record: r.some_record()?,
        head: r.generation()?,
        lineage: r.u128()?,
        nonce: r.u128()?,
    })
}

/// A question to the witness with its envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WitnessQuestion {
    pub volume: VolumeId,
    pub from: NodeId,
    pub nonce: u128,
    pub request: WitnessRequest,
}

/// The answer with its envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WitnessAnswer {
    pub volume: VolumeId,
    pub nonce: u128,
    pub reply: WitnessReply,
}

pub fn encode_question(question: &WitnessQuestion, key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer(&mut out);
    head(&mut w, REQUEST);
    w.u128(question.volume.0);
    w.u8(question.from.index());
    w.u128(question.nonce);
    match &question.request {
        WitnessRequest::Read => w.u8(1),
        WitnessRequest::Cas { expect_v, expect_lineage, next } => {
            w.u8(2);
            w.u64(*expect_v);
            w.u128(*expect_lineage);
            encode_witness_record(next, &mut w);
        }
        WitnessRequest::Enrol { record, sole } => {
            w.u8(3);
            encode_witness_record(record, &mut w);
            w.u8(u8::from(*sole));
        }
    }
    seal(key, &mut out);
    out
}

pub fn decode_question(bytes: &[u8], key: &Key) -> Result<WitnessQuestion, Refused> {
    let mut r = open(bytes, key, REQUEST)?;
    let (volume, from, nonce) = (VolumeId(r.u128()?), r.node()?, r.u128()?);
    let request = match r.u8()? {
        1 => WitnessRequest::Read,
        2 => WitnessRequest::Cas {
            expect_v: r.u64()?,
            expect_lineage: r.u128()?,
            next: decode_witness_record(&mut r)?,
        },
        3 => WitnessRequest::Enrol { record: decode_witness_record(&mut r)?, sole: r.flag("sole")? },
        other => return Err(Refused::Type(other)),
    };
    r.end()?;
    Ok(WitnessQuestion { volume, from, nonce, request })
}

pub fn encode_answer(answer: &WitnessAnswer, key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer(&mut out);
    head(&mut w, REPLY);
    w.u128(answer.volume.0);
    w.u128(answer.nonce);
    let (code, record, incarnation) = match &answer.reply {
        WitnessReply::Record { record, incarnation } => (1, Some(record), incarnation),
        WitnessReply::Won { incarnation } => (2, None, incarnation),
        WitnessReply::Conflict { record, incarnation } => (3, Some(record), incarnation),
        WitnessReply::Unknown { incarnation } => (4, None, incarnation),
        WitnessReply::Waiting { incarnation } => (5, None, incarnation),
    };
    w.u8(code);
    w.u128(*incarnation);
    if let Some(record) = record {
        encode_witness_record(record, &mut w);
    }
    seal(key, &mut out);
    out
}

pub fn decode_answer(bytes: &[u8], key: &Key) -> Result<WitnessAnswer, Refused> {
    let mut r = open(bytes, key, REPLY)?;
    let (volume, nonce, code, incarnation) = (VolumeId(r.u128()?), r.u128()?, r.u8()?, r.u128()?);
    let reply = match code {
        1 => WitnessReply::Record { record: decode_witness_record(&mut r)?, incarnation },
        2 => WitnessReply::Won { incarnation },
        3 => WitnessReply::Conflict { record: decode_witness_record(&mut r)?, incarnation },
        4 => WitnessReply::Unknown { incarnation },
        5 => WitnessReply::Waiting { incarnation },
        other => return Err(Refused::Type(other)),
    };
    r.end()?;
    Ok(WitnessAnswer { volume, nonce, reply })
}
