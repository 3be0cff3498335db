//! Encoding of the replication stream: one header, then the message, then its payload.
//!
//! ```text
//! 0  u16 magic "tw"   2  u8 version   3  u8 type   4  u32 body bytes   8  u32 payload bytes   12  body, payload
//! ```

use crate::base::limits::{GENERATIONS_MAX, SLICE_BYTES_MAX};
use crate::base::{BlockNo, ExtentNo, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark};

use super::bytes::{Reader, Refused, Writer};
use super::split::{decode_note, encode_note};
use super::{DecisionHash, Hello, Kind, Message, Run, Seq, Session};

/// Version this program speaks, and the oldest it understands.
pub const VERSION: u8 = 1;
pub const VERSION_MIN: u8 = 1;
/// Optional abilities. A message that needs one is sent only to a peer that has it: a node of an earlier version closes
/// the session at a message that it does not know.
pub mod feature {
    /// `Check`, `Checked`: both copies can be compared while they are in use.
    pub const VERIFY: u64 = 1 << 0;
    /// `Detached`: a disk that failed is said to the peer.
    pub const DETACH: u64 = 1 << 1;
    /// `Grow`, `Grown`.
    pub const GROW: u64 = 1 << 2;
    /// `Split`: a split brain can be ended by both nodes together.
    pub const RESOLVE: u64 = 1 << 3;
    /// `Left`.
    pub const LEAVE: u64 = 1 << 4;
    /// Probes are answered. Not the machine's doing: the daemon adds it.
    pub const PROBE: u64 = 1 << 5;
    /// `Front`, `Fronted`: a primary whose disk failed works on the peer's copy until its services have stopped.
    pub const FRONT: u64 = 1 << 6;
}
/// What this program can do.
pub const FEATURES: u64 =
    feature::VERIFY | feature::DETACH | feature::GROW | feature::RESOLVE | feature::LEAVE | feature::FRONT;
/// Bytes of the header before body and payload.
pub const HEADER_BYTES: usize = 12;
/// Most bytes of a body: a full list of runs.
pub const BODY_BYTES_MAX: usize = 16 + RUNS_MAX * 16 + 64;
/// Most bytes of a payload: a slice of blocks with their digests.
pub const PAYLOAD_BYTES_MAX: usize = SLICE_BYTES_MAX + 64 * 1024;
/// Most runs in one `Marks` message: senders split longer lists.
pub const RUNS_MAX: usize = 4096;
const RETIRED_MAX: usize = 64;
const MAGIC: u16 = u16::from_le_bytes(*b"tw");

/// The lengths of a frame, read from its header before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    pub body: usize,
    pub payload: usize,
}

impl Header {
    /// Reads and checks the first `HEADER_BYTES` bytes.
    pub fn read(bytes: &[u8]) -> Result<Header, Refused> {
        let mut r = Reader(bytes);
        if r.u16()? != MAGIC {
            return Err(Refused::Magic);
        }
        let version = r.u8()?;
        if version != VERSION {
            return Err(Refused::Version { min: version, max: version, ours: VERSION });
        }
        let kind = r.u8()?;
        let body = r.len(BODY_BYTES_MAX, "body length")?;
        let payload = r.len(PAYLOAD_BYTES_MAX, "payload length")?;
        Ok(Header { kind, body, payload })
    }
}

/// Appends header and body; the caller appends `payload` bytes behind them.
pub fn encode(message: &Message, payload: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    let kind = encode_body(message, &mut Writer(out));
    let body = out.len() - start - HEADER_BYTES;
    let mut head = Vec::with_capacity(HEADER_BYTES);
    let mut w = Writer(&mut head);
    w.u16(MAGIC);
    w.u8(VERSION);
    w.u8(kind);
    w.len(body);
    w.len(payload);
    out[start..start + HEADER_BYTES].copy_from_slice(&head);
}

/// Decodes the body that followed `header`.
pub fn decode(header: Header, body: &[u8]) -> Result<Message, Refused> {
    if body.len() != header.body {
        return Err(Refused::Short);
    }
    let mut r = Reader(body);
    let message = decode_body(header.kind, &mut r)?;
    r.end()?;
    check_payload(&message, header.payload)?;
    Ok(message)
}

fn check_payload(message: &Message, payload: usize) -> Result<(), Refused> {
    let fits = match message {
        Message::Op { kind, count, .. } if kind.has_payload() => usize::try_from(*count)
            .ok()
            .and_then(|c| c.checked_mul(BlockNo::SIZE))
            .is_some_and(|b| payload >= b),
        Message::Digests { .. } | Message::Checked { equal: false, .. } => true,
        Message::Block { found: true, .. } => payload >= BlockNo::SIZE,
        _ => payload == 0,
    };
    if fits { Ok(()) } else { Err(Refused::Value("payload length")) }
}

fn encode_body(message: &Message, w: &mut Writer<'_>) -> u8 {
    match message {
        Message::Hello(hello) => encode_hello(hello, w),
        Message::Decided(DecisionHash(hash)) => w.u128(*hash),
        Message::Op { session, seq, kind, first, count } => {
            w.u64(session.0);
            w.u64(seq.0);
            w.u8(kind_code(*kind));
            w.u64(first.0);
            w.u64(*count);
        }
        Message::Done { session: Session(one), upto: Seq(two) }
        | Message::Fetch { id: one, block: BlockNo(two) } => {
            w.u64(*one);
            w.u64(*two);
        }
        Message::Marks { session, runs, last } => {
            w.u64(session.0);
            w.u8(u8::from(*last));
            w.len(runs.len());
            for run in runs {
                w.u64(run.first.0);
                w.u64(run.count);
            }
        }
        Message::Digests { session, extent, last } => {
            w.u64(session.0);
            w.u64(extent.0);
            w.u8(u8::from(*last));
        }
        Message::Join { session, record, gens } => {
            w.u64(session.0);
            w.record(Some(*record));
            encode_gens(gens, w);
        }
        Message::Handover { session, record }
        | Message::HandoverDone { session, record }
        | Message::Fronted { session, record } => {
            w.u64(session.0);
            w.record(Some(*record));
        }
        Message::Block { id, block, found } => {
            w.u64(*id);
            w.u64(block.0);
            w.u8(u8::from(*found));
        }
        Message::Check { .. } | Message::Checked { .. } => encode_check(message, w),
        Message::Grow { session, blocks } | Message::Grown { session, blocks } => {
            w.u64(session.0);
            w.u64(*blocks);
        }
        Message::Split { session, note } => encode_note(*session, note, w),
        Message::TargetReady { session }
        | Message::Joined { session }
        | Message::AskHandover { session }
        | Message::Detached { session }
        | Message::Front { session }
        | Message::Left { session }
        | Message::Bye { session } => w.u64(session.0),
    }
    type_code(message)
}

/// The two messages of a verify run; nothing of any other.
fn encode_check(message: &Message, w: &mut Writer<'_>) {
    match message {
        Message::Check { id, first, count, hash } => {
            w.u64(*id);
            w.u64(first.0);
            w.u64(*count);
            hash.iter().for_each(|byte| w.u8(*byte));
        }
        Message::Checked { id, upto, equal } => {
            w.u64(*id);
            w.u64(upto.0);
            w.u8(u8::from(*equal));
        }
        _ => {}
    }
}

fn type_code(message: &Message) -> u8 {
    match message {
        Message::Hello(_) => 1,
        Message::Decided(_) => 2,
        Message::Op { .. } => 3,
        Message::Done { .. } => 4,
        Message::Marks { .. } => 5,
        Message::TargetReady { .. } => 6,
        Message::Digests { .. } => 7,
        Message::Join { .. } => 8,
        Message::Joined { .. } => 9,
        Message::Handover { .. } => 10,
        Message::HandoverDone { .. } => 11,
        Message::AskHandover { .. } => 12,
        Message::Bye { .. } => 13,
        Message::Fetch { .. } => 14,
        Message::Block { .. } => 15,
        Message::Check { .. } => 16,
        Message::Checked { .. } => 17,
        Message::Detached { .. } => 18,
        Message::Grow { .. } => 19,
        Message::Grown { .. } => 20,
        Message::Split { .. } => 21,
        Message::Left { .. } => 22,
        Message::Front { .. } => 23,
        Message::Fronted { .. } => 24,
    }
}

fn decode_body(kind: u8, r: &mut Reader<'_>) -> Result<Message, Refused> {
    Ok(match kind {
        1 => Message::Hello(Box::new(decode_hello(r)?)),
        2 => Message::Decided(DecisionHash(r.u128()?)),
        3 => Message::Op {
            session: Session(r.u64()?),
            seq: Seq(r.u64()?),
            kind: kind_from(r.u8()?)?,
            first: BlockNo(r.u64()?),
            count: r.u64()?,
        },
        4 => Message::Done { session: Session(r.u64()?), upto: Seq(r.u64()?) },
        5 => decode_marks(r)?,
        6 => Message::TargetReady { session: Session(r.u64()?) },
        7 => {
            Message::Digests { session: Session(r.u64()?), extent: ExtentNo(r.u64()?), last: r.flag("last")? }
        }
        8 => {
            let session = Session(r.u64()?);
            Message::Join { session, record: r.some_record()?, gens: decode_gens(r)? }
        }
        9 => Message::Joined { session: Session(r.u64()?) },
        10 => Message::Handover { session: Session(r.u64()?), record: r.some_record()? },
        11 => Message::HandoverDone { session: Session(r.u64()?), record: r.some_record()? },
        12 => Message::AskHandover { session: Session(r.u64()?) },
        13 => Message::Bye { session: Session(r.u64()?) },
        14 => Message::Fetch { id: r.u64()?, block: BlockNo(r.u64()?) },
        15 => Message::Block { id: r.u64()?, block: BlockNo(r.u64()?), found: r.flag("found")? },
        16 => {
            let (id, first, count) = (r.u64()?, ExtentNo(r.u64()?), r.u64()?);
            let mut hash = [0; 15];
            for byte in &mut hash {
                *byte = r.u8()?;
            }
            Message::Check { id, first, count, hash }
        }
        18 => Message::Detached { session: Session(r.u64()?) },
        22 => Message::Left { session: Session(r.u64()?) },
        23 => Message::Front { session: Session(r.u64()?) },
        24 => Message::Fronted { session: Session(r.u64()?), record: r.some_record()? },
        17 => Message::Checked { id: r.u64()?, upto: ExtentNo(r.u64()?), equal: r.flag("equal")? },
        19 => Message::Grow { session: Session(r.u64()?), blocks: r.u64()? },
        20 => Message::Grown { session: Session(r.u64()?), blocks: r.u64()? },
        21 => Message::Split { session: Session(r.u64()?), note: Box::new(decode_note(r)?) },
        other => return Err(Refused::Type(other)),
    })
}

fn decode_marks(r: &mut Reader<'_>) -> Result<Message, Refused> {
    let session = Session(r.u64()?);
    let last = r.flag("last")?;
    let len = r.len(RUNS_MAX, "runs")?;
    let mut runs = Vec::with_capacity(len.min(r.0.len() / 16));
    for _ in 0..len {
        runs.push(Run { first: BlockNo(r.u64()?), count: r.u64()? });
    }
    Ok(Message::Marks { session, runs, last })
}

const KINDS: [Kind; 8] = [
    Kind::Write,
    Kind::WriteFlush,
    Kind::Flush,
    Kind::Discard,
    Kind::Back,
    Kind::Copy,
    Kind::CopyHole,
    Kind::Barrier,
];

fn kind_code(kind: Kind) -> u8 {
    KINDS.iter().position(|k| *k == kind).and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
}

fn kind_from(code: u8) -> Result<Kind, Refused> {
    let at = usize::from(code).checked_sub(1).ok_or(Refused::Value("kind"))?;
    KINDS.get(at).copied().ok_or(Refused::Value("kind"))
}

fn encode_hello(hello: &Hello, w: &mut Writer<'_>) {
    w.u8(VERSION_MIN);
    w.u8(VERSION);
    w.u64(hello.features);
    w.u128(hello.volume.0);
    w.u8(hello.node.index());
    w.u128(hello.incarnation);
    w.u64(hello.boot_epoch);
    w.u128(hello.nonce);
    w.u128(hello.process);
    w.u64(hello.blocks);
    w.record(hello.record);
    encode_gens(&hello.gens, w);
    w.u128(hello.bitmap_base.0);
    w.u8(u8::from(hello.full));
    let (target, of) = match hello.resync {
        ResyncMark::None => (0, 0),
        ResyncMark::Target { of } => (1, of.0),
    };
    w.u8(target);
    w.u128(of);
    w.len(hello.retired.len());
    hello.retired.iter().for_each(|id| w.u128(*id));
    for flag in [hello.marks, hello.hot, hello.serving, hello.pending] {
        w.u8(u8::from(flag));
    }
    w.u64(hello.last_session.map_or(0, |s| s.0));
}

fn decode_hello(r: &mut Reader<'_>) -> Result<Hello, Refused> {
    let (min, max) = (r.u8()?, r.u8()?);
    if min > VERSION || max < VERSION_MIN {
        return Err(Refused::Version { min, max, ours: VERSION });
    }
    Ok(Hello {
        features: r.u64()?,
        volume: VolumeId(r.u128()?),
        node: r.node()?,
        incarnation: r.u128()?,
        boot_epoch: r.u64()?,
        nonce: r.u128()?,
        process: r.u128()?,
        blocks: r.u64()?,
        record: r.record()?,
        gens: decode_gens(r)?,
        bitmap_base: r.generation()?,
        full: r.flag("full")?,
        resync: match (r.u8()?, r.generation()?) {
            (0, crate::base::Generation(0)) => ResyncMark::None,
            (1, of) => ResyncMark::Target { of },
            _ => return Err(Refused::Value("resync")),
        },
        retired: {
            let len = r.len(RETIRED_MAX, "retired")?;
            (0..len).map(|_| r.u128()).collect::<Result<Vec<_>, _>>()?
        },
        marks: r.flag("marks")?,
        hot: r.flag("hot")?,
        serving: r.flag("serving")?,
        pending: r.flag("pending")?,
        last_session: Some(r.u64()?).filter(|s| *s != 0).map(Session),
    })
}

fn encode_gens(gens: &[GenEntry], w: &mut Writer<'_>) {
    w.len(gens.len());
    for entry in gens {
        w.u128(entry.id.0);
        w.u8(entry.minted_by.index());
        w.u64(entry.at_v);
        w.u8(match entry.reason {
            GenReason::Made => 1,
            GenReason::WentSolo => 2,
            GenReason::Forced => 3,
            GenReason::Standalone => 4,
            GenReason::WentBack => 5,
            GenReason::PeerDisk => 6,
        });
        w.u64(entry.first_txn);
    }
}

fn decode_gens(r: &mut Reader<'_>) -> Result<Vec<GenEntry>, Refused> {
    let len = r.len(GENERATIONS_MAX, "generations")?;
    let mut gens = Vec::with_capacity(len);
    for _ in 0..len {
        gens.push(GenEntry {
            id: r.generation()?,
            minted_by: r.node()?,
            at_v: r.u64()?,
            reason: match r.u8()? {
                1 => GenReason::Made,
                2 => GenReason::WentSolo,
                3 => GenReason::Forced,
                4 => GenReason::Standalone,
                5 => GenReason::WentBack,
                6 => GenReason::PeerDisk,
                _ => return Err(Refused::Value("reason")),
            },
            first_txn: r.u64()?,
        });
    }
    Ok(gens)
}

/// Hash of a whole lineage, as the witness keeps it.
pub fn lineage_hash(gens: &[GenEntry]) -> u128 {
    let mut bytes = Vec::new();
    encode_gens(gens, &mut Writer(&mut bytes));
    let hash = blake3::hash(&bytes);
    u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap_or([0; 16]))
}
