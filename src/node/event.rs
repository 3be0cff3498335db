//! Everything that can happen to a node.

use super::fence::FenceEnd;
use crate::base::{BlockNo, ExtentNo, NodeId, Span};
use crate::resync::{Finding, Limits, VerifyProgress};
use crate::wire::{Heartbeat, Kind, Message, Run, Seq, Session, WitnessReply};

pub use crate::replica::OpId;

/// Pairs an action with the event that says it is finished. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One connection to the peer, numbered by the shell, never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A heartbeat path, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u8);

/// What an administrator (or a supervisor) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Become primary. `peer_is_down` is the operator's statement of fact that the peer does not serve.
    Promote { peer_is_down: bool },
    /// Become primary from a copy that is out of date or half overwritten: the operator's statement of fact that the
    /// peer is down, and that what only the peer has is given up.
    PromoteOld,
    /// Stop serving and stay stopped until told otherwise; the peer does not take over.
    Demote,
    /// The primary hands over to the peer (may be asked on either node).
    Switchover,
    /// Use the link to the peer again.
    Connect,
    /// Leave the peer alone. A primary that may go on alone does so.
    Disconnect,
    /// Take no one-sided step by yourself (`true`) until released (`false`).
    Hold(bool),
    /// The operator's statement of fact that the peer has stopped since this request to a fence agent was made.
    FenceConfirm { nonce: u128 },
    /// Enrol this node's record at a witness that does not know the volume.
    EnrolWitness,
    /// Look whether the copies are as they should be, from there on. Nothing if a run is under way.
    Verify(VerifyProgress),
    /// End the run that is under way.
    StopVerify,
    /// Copy nothing to the peer for so long (at most `PAUSE_MAX`), unless somebody waits for it.
    PauseResync(Span),
    /// The pause is over.
    ResumeResync,
    /// Whether no volume that comes first is being copied.
    ResyncTurn(bool),
    /// The primary makes the volume so large, on both nodes.
    Grow { blocks: u64 },
    /// The copy of this incarnation is replaced by another one: it may never join again.
    Retire { incarnation: u128 },
    /// Another pace from now on.
    LimitResync(Limits),
    /// Of two copies that grew apart this node's is kept; the other one is put aside and follows.
    Keep(NodeId),
}

/// An input of `Node::step`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `next_timeout` was reached. Harmless at any time.
    Tick,

    // Data path, from the mirror. The extents are already hot and the caller holds the interval lock.
    /// Start an operation of kind Write, WriteFlush, Flush, Discard or Back. Answered by `Start` or `Fail`, then by
    /// `Complete` or `Fail`.
    Issue {
        op: OpId,
        kind: Kind,
        first: BlockNo,
        count: u64,
    },
    /// The local part is finished (stable where the kind says so).
    LocalDone {
        op: OpId,
    },
    /// The local disk failed. The node stops serving from this image.
    LocalFailed {
        op: OpId,
    },
    /// A received operation is done here (stable where the kind says so).
    Applied {
        session: Session,
        seq: Seq,
    },
    /// The local disk failed under a received operation.
    ApplyFailed {
        session: Session,
        seq: Seq,
    },
    /// The marks of `Action::Mark` are stable.
    Marked {
        token: Token,
    },

    // Resync, from the mirror.
    /// Answer to `SendMarks`, in as many parts as it likes.
    MarksRead {
        session: Session,
        runs: Vec<Run>,
        last: bool,
    },
    /// A target in a `Compare` read the digests of an extent (answered by `SendDigests`).
    DigestsRead {
        session: Session,
        extent: ExtentNo,
        last: bool,
    },
    /// The marks handed over by `AddMarks` are in the to-copy map.
    MarksAdded {
        session: Session,
    },
    /// Answer to `StartCopy`: the map is made (for Compare: when the comparison is over). `total` blocks to copy.
    CopyReady {
        session: Session,
        total: u64,
    },
    /// Blocks were read for copying, and stay locked until `SendCopy` was executed. `hole`: never written here.
    CopyRead {
        op: OpId,
        first: BlockNo,
        count: u64,
        hole: bool,
    },
    /// The scan asked for by `Copy` reached the end: nothing is left to copy but what is in flight and `busy` blocks
    /// that started operations are writing. `u64::MAX`: something else is in the way of a block, look again.
    CopyExhausted {
        session: Session,
        busy: u64,
    },

    /// What the resync overwrote is put back, stable and marked.
    WentBack {
        token: Token,
    },
    /// It cannot be: nothing that was saved can be trusted, or nothing was.
    NoWayBack {
        token: Token,
    },

    /// Answer to `Action::Keep`: stable since so many seconds after 1970, which is how it is called.
    Kept {
        token: Token,
        at: u64,
    },
    NotKept {
        token: Token,
        text: String,
    },

    // Verify, from the mirror.
    /// Answer to `Look`: everything before `upto` was looked at, `blocks` of this copy were read.
    Looked {
        token: Token,
        upto: ExtentNo,
        blocks: u64,
        findings: Vec<Finding>,
    },

    // Growing, from the mirror.
    /// Answer to `Action::Grow`: stable.
    Grown {
        token: Token,
    },
    /// Answer to it: everything is as it was.
    GrowFailed {
        token: Token,
        text: String,
    },

    // Persistence.
    /// The state of `Action::Store` is stable (and read back).
    Stored {
        token: Token,
    },
    /// It is not, or nobody knows.
    StoreFailed {
        token: Token,
    },

    /// There was no room for an operation of a peer that works on this copy.
    ApplyFull {
        session: Session,
    },

    /// This disk rots faster than it is worth repairing, or loses a block again that was repaired.
    DiskRots,

    /// That this copy is unusable is stable outside it (`Order::NoteUnusable`).
    UnusableNoted,

    // The peer.
    /// An authenticated, ordered connection stands.
    LinkUp {
        link: LinkId,
    },
    LinkDown {
        link: LinkId,
    },
    Received {
        link: LinkId,
        message: Message,
    },
    /// An authentic heartbeat (MAC and volume checked, nothing else).
    Heartbeat {
        path: PathId,
        heartbeat: Heartbeat,
    },
    /// An authenticated supervisor of the peer saw its daemon die and removed the address.
    PeerReleased {
        boot_epoch: u64,
    },

    // The witness. Replies carry the nonce of the request.
    WitnessReply {
        nonce: u128,
        reply: WitnessReply,
    },
    /// The witness may not show what this node last saw it show: look again. Harmless at any time.
    WitnessDoubt,

    /// Answer to `Order::Fence` and `Order::SettleFence`; no agent of that request can do anything any more.
    FenceResult {
        nonce: u128,
        end: FenceEnd,
    },
    /// Answer to `Order::NoteFailback`; not `noted`: it could not be made stable.
    FailbackNoted {
        token: Token,
        noted: bool,
    },
    /// Whether the window for failback is open; wanted where there is one, at every change.
    Window(bool),
    /// Whether any ping target answers; wanted where there are some, at every change.
    Reach(bool),

    // Serving.
    /// Answer to `Promote`: mounted, address up, services running.
    Promoted,
    /// Answer to `Promote`: nothing is left mounted or raised.
    PromoteFailed,
    /// Answer to `Demote`: services stopped, address gone, unmounted (graceful: and flushed on all members).
    Demoted,
    /// The clock was suspended: the lease counts as lapsed.
    Suspended,

    Operator(Operator),
}
