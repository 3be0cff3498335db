//! The messages as plain values.
//!
//! Decides nothing. A message that has a payload (block contents, digests) carries only its numbers here; the bytes
//! travel behind it in the same frame and never pass through a machine.

use crate::base::{BlockNo, ExtentNo, Generation, NodeId, Record, VolumeId};
use crate::format::GenEntry;

use super::{Hello, SplitNote};

/// One unbroken agreement between two processes: derived from both hellos, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// Position in a session's ordered stream, from 1, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// What an operation of the ordered stream does on the member that receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Write the payload (`count` blocks). Done = written, volatile.
    Write,
    /// Write, then flush everything before it and itself. Done = stable.
    WriteFlush,
    /// Flush everything before it. Done = stable. `count` is 0.
    Flush,
    /// Forget the blocks. Done = read as zeros.
    Discard,
    /// Really allocate the extent that `first` lies in. Done = stable.
    Back,
    /// Resync: as `Write`, but older content; only ever from a source to a target.
    Copy,
    /// Resync: as `Discard` for blocks that the source never wrote.
    CopyHole,
    /// A flush that the machines put into the stream themselves (before a join, a handover, or to clear marks).
    Barrier,
}

impl Kind {
    /// Done implies that everything earlier in the stream is stable.
    pub fn flushes(self) -> bool {
        matches!(self, Kind::WriteFlush | Kind::Flush | Kind::Barrier)
    }

    /// Changes the content of blocks.
    pub fn writes(self) -> bool {
        matches!(self, Kind::Write | Kind::WriteFlush | Kind::Discard | Kind::Copy | Kind::CopyHole)
    }

    /// `count * 4096` bytes of content follow the message.
    pub fn has_payload(self) -> bool {
        matches!(self, Kind::Write | Kind::WriteFlush | Kind::Copy)
    }

    /// Belongs to a resync: refused by everybody but a target.
    pub fn is_copy(self) -> bool {
        matches!(self, Kind::Copy | Kind::CopyHole)
    }
}

/// `count` blocks from `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    pub first: BlockNo,
    pub count: u64,
}

/// How a resync finds what to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyKind {
    /// Every written block.
    Full,
    /// The union of both bitmaps, activity logs and windows.
    Bits,
    /// Compare digests of everything written, copy what differs.
    Compare,
}

/// A row of the decision table, 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u8);

/// Hash over both hellos and the decision: equal on both sides or the handshake starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecisionHash(pub u128);

/// Everything the replication stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Box<Hello>),
    Decided(DecisionHash),
    /// One operation of the ordered stream; payload per `Kind::has_payload`.
    Op {
        session: Session,
        seq: Seq,
        kind: Kind,
        first: BlockNo,
        count: u64,
    },
    /// Everything up to `upto` is done on the sender (stable where the kind says so).
    Done {
        session: Session,
        upto: Seq,
    },
    /// Blocks that may differ by the sender's bitmap, log and notes. `last` ends the list.
    Marks {
        session: Session,
        runs: Vec<Run>,
        last: bool,
    },
    /// The target is marked inconsistent, stable: bytes may come.
    TargetReady {
        session: Session,
    },
    /// Digest comparison: the payload is the extent's map of written blocks and its digests.
    Digests {
        session: Session,
        extent: ExtentNo,
        last: bool,
    },
    /// Both copies are equal: the receiver is (or stays) a member under this record and lineage.
    Join {
        session: Session,
        record: Record,
        gens: Vec<GenEntry>,
    },
    /// The receiver of `Join` stored it.
    Joined {
        session: Session,
    },
    /// The sender stopped, drained, flushed both and stored `record`, whose primary is the receiver.
    Handover {
        session: Session,
        record: Record,
    },
    /// The receiver of `Handover` stored it: it is primary.
    HandoverDone {
        session: Session,
        record: Record,
    },
    /// The operator asked the sender to become primary: please hand over.
    AskHandover {
        session: Session,
    },
    /// A reader found no good content of this block on the sender: please answer with `Block`. Between the mirrors;
    /// no machine sees it.
    Fetch {
        id: u64,
        block: BlockNo,
    },
    /// Answer to `Fetch`; the content follows if it matches the digest that the sender keeps.
    Block {
        id: u64,
        block: BlockNo,
        found: bool,
    },
    /// Verify: the sender has `hash` (of digests, as in the summary) of extent `first` and nothing in the others of
    /// the `count`. Please read the next of these extents that you have something in, and answer with `Checked`.
    /// Between the mirrors, as the answer.
    Check {
        id: u64,
        first: ExtentNo,
        count: u64,
        hash: [u8; 15],
    },
    /// Answer to `Check` about the extent before `upto`. Unless it is `equal` (the same digests, and every block
    /// matches its own) the payload is as that of `Digests`, with a digest that nothing has for a block that does not.
    Checked {
        id: u64,
        upto: ExtentNo,
        equal: bool,
    },
    /// The sender's disk failed: it stopped, its copy counts no more, and the receiver's is the only one.
    Detached {
        session: Session,
    },
    /// The sender's disk failed, and programs still run there: the receiver's copy becomes the only one, and the sender
    /// works on it over the link until they have stopped. Answered with `Fronted`.
    Front {
        session: Session,
    },
    /// The sender alone is a member, by this record: what it acknowledges needs nobody else.
    Fronted {
        session: Session,
        record: Record,
    },
    /// Please make your image so large; answer with `Grown`.
    Grow {
        session: Session,
        blocks: u64,
    },
    /// The sender's image has so many blocks now; 0: it could not grow.
    Grown {
        session: Session,
        blocks: u64,
    },
    /// Both copies were written while apart: how the sender's side is, said again whenever it changes.
    Split {
        session: Session,
        note: Box<SplitNote>,
    },
    /// The sender leaves on purpose.
    Bye {
        session: Session,
    },
    /// As `Bye`, of a secondary: it takes no step alone before it has agreed with the receiver again.
    Left {
        session: Session,
    },
}

/// What a node tells on all links at once, every keepalive. Authentic when it reaches a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub volume: VolumeId,
    pub from: NodeId,
    pub boot_epoch: u64,
    /// Grows with every heartbeat of this boot; equal on all links.
    pub seq: u64,
    pub record: Option<Record>,
    pub head: Generation,
    pub serving: bool,
    /// The sender holds no lease and will not take one without a new agreement: ends the receiver's promise.
    pub released: bool,
    /// The sender's boot nonce.
    pub nonce: u128,
    /// The receiver's boot nonce as the sender last saw it; 0 = never.
    pub nonce_echo: u128,
    /// Highest `seq` of the receiver that the sender accepted; 0 = none.
    pub echo_seq: u64,
}

/// The witness's record of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WitnessRecord {
    pub record: Record,
    pub head: Generation,
    /// Hash of the whole lineage.
    pub lineage: u128,
    /// Nonce of the compare-and-swap that made it: a repeated request is answered the same.
    pub nonce: u128,
}

/// A question to the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WitnessRequest {
    Read,
    /// Replace the record if it is still `{expect_v, expect_lineage}`.
    Cas {
        expect_v: u64,
        expect_lineage: u128,
        next: WitnessRecord,
    },
    /// Make the record of a volume the witness does not know: by both nodes with the same content, or, `sole`, by
    /// the only member.
    Enrol {
        record: WitnessRecord,
        sole: bool,
    },
}

/// The witness's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WitnessReply {
    /// The current record (for `Read`, and for `Enrol` once it stands).
    Record { record: WitnessRecord, incarnation: u128 },
    /// The swap happened (now, or earlier under this nonce) and is stable.
    Won { incarnation: u128 },
    /// The record is another one.
    Conflict { record: WitnessRecord, incarnation: u128 },
    /// No record of this volume: never enrolled, or its memory was lost.
    Unknown { incarnation: u128 },
    /// Enrolment waits for the other node to ask for the same.
    Waiting { incarnation: u128 },
}
