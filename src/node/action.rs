//! Everything a node can ask for.

use crate::base::{BlockNo, ExtentNo, NodeId, Record, Span};
use crate::cluster::Right;
use crate::format::State;
use crate::resync::{Finding, Task, VerifyProgress};
use crate::wire::{CopyKind, Heartbeat, Kind, Message, Row, Run, Seq, Session, WitnessRequest};

use super::event::{LinkId, OpId, Token};
use super::fence::FenceEnd;

/// Which bits the caller sets, with or before the local write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The peer is a member: none (the window covers it).
    No,
    /// Alone, and the operation goes to a target as well: *differs from the base* only.
    Differs,
    /// Alone: *differs from the base* and *to copy*.
    ToCopy,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This node may not serve (any more).
    Stopped,
    /// The local disk failed under it.
    LocalDisk,
}

/// Why a verify run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyEnd {
    Finished,
    /// By the operator.
    Stopped,
    /// The primary is the other node now.
    Moved,
    /// The peer's version cannot compare.
    Unable,
}

/// Something worth telling; decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Both nodes compared their copies and agreed.
    Decided {
        row: Row,
        text: String,
    },
    /// A member session stands: both copies are equal and current.
    InSync,
    /// The peer is gone or too slow: operations wait.
    PeerLost,
    /// This node goes on alone under the record.
    WentSolo {
        record: Record,
        /// By what, and how long the peer had not been heard.
        right: Option<Right>,
        silent: Option<Span>,
    },
    /// The record says that this node is out.
    Removed {
        record: Record,
    },
    ResyncStarted {
        source: NodeId,
        kind: CopyKind,
        blocks: u64,
    },
    ResyncFinished,
    /// By an administrator, for so long.
    ResyncPaused {
        span: Span,
    },
    ResyncResumed {
        by_itself: bool,
    },
    /// This node's image has so many blocks now.
    Grown {
        blocks: u64,
    },
    GrowFailed {
        text: String,
    },
    /// There was no room for what the resync overwrites: this copy cannot go back.
    UndoGivenUp,
    /// This copy is what it was before the resync.
    WentBack,
    LeaseLapsed,
    /// An agent was asked to stop the peer.
    FenceAsked {
        level: u32,
    },
    /// The peer has stopped, by an agent or by a person's word.
    FenceDone {
        level: u32,
        word: bool,
    },
    /// It has not, or nobody knows; `more`: another level is tried at once.
    FenceFailed {
        level: u32,
        end: FenceEnd,
        more: bool,
    },
    /// An earlier process asked an agent and knows no answer.
    FenceLeftover,
    /// No ping target answers, nor the peer: this node stops serving.
    ReachesNobody,
    /// The volume belongs to this node: the peer is asked to hand it over.
    FailbackAsked,
    HandedOver {
        to: NodeId,
    },
    TookOver,
    /// Copies diverged: no data moves until the operator resolves it.
    SplitBrain,
    /// Which side of the split is kept was decided, and is stable here from now on.
    SplitDecided {
        keep: NodeId,
    },
    /// The losing side's copy is put aside, since so many seconds after 1970.
    Kept {
        at: u64,
    },
    /// It could not be; nothing is overwritten.
    NotKept {
        text: String,
    },
    /// The losing side begins to follow.
    SplitEnds {
        keep: NodeId,
    },
    /// The peer was refused for good (other volume, retired disk, unrelated data).
    Refused {
        row: Row,
        text: String,
    },
    /// The peer's copy of this incarnation is the one that this node works with.
    Met {
        incarnation: u128,
    },
    /// The peer said that this copy was replaced: this node stops for good.
    Replaced,
    /// The witness knows nothing or an older record than this node.
    WitnessSuspect {
        text: String,
    },
    /// A block is not as it should be, or was not.
    Found(Finding),
    /// A verify run is over.
    Verified {
        progress: VerifyProgress,
        end: VerifyEnd,
    },
    /// This node's disk failed: its copy is not used any more.
    DiskFailed {
        text: String,
    },
    /// The peer's disk failed: this copy is the only one.
    PeerDiskFailed,
    /// This node's disk failed, and what runs here goes on with the peer's copy until it has stopped.
    FrontBegan,
    /// The peer was stopped or disconnected on purpose, and gave up its rights first.
    PeerLeft,
    /// Something could not be done, or a message made no sense.
    Fault {
        text: String,
    },
}

/// An output of `Node::step`, to be executed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    // Data path, to the mirror.
    /// Set the marks, start the local part, and send the operation with its payload (`Message::Op`) if `send` says
    /// so. The order of these actions is the order of the stream.
    Start {
        op: OpId,
        send: Option<(LinkId, Session, Seq)>,
        mark: Mark,
    },
    /// Send an operation that was started before once more, in a new session. Local part and marks stay as they are.
    Resend {
        op: OpId,
        link: LinkId,
        session: Session,
        seq: Seq,
    },
    /// Acknowledge. Its lock may go.
    Complete {
        op: OpId,
    },
    Fail {
        op: OpId,
        refusal: Refusal,
    },
    /// Execute a received operation on the local image, in stream order where blocks overlap, payload as received;
    /// then `Applied`. `mark`: the sender does not keep it, so both bits of written blocks are set first, and
    /// no room for them is `ApplyFull`.
    Apply {
        session: Session,
        seq: Seq,
        kind: Kind,
        first: BlockNo,
        count: u64,
        mark: bool,
    },
    /// The local image is not written any more, so that its activity log still tells at the next opening what was in
    /// flight. `for_peer`: local parts are done as soon as they begin, and what is read comes from the peer.
    LeaveDisk {
        for_peer: bool,
    },
    /// Set both bits of these blocks, stable; then `Marked`.
    Mark {
        token: Token,
        runs: Vec<Run>,
    },
    /// The blocks are stable on the peer as well, or covered by stable marks: an extent may leave the activity log,
    /// once nothing in it is in flight or in the window.
    Settled {
        runs: Vec<Run>,
    },

    // Resync, to the mirror.
    /// Read bitmap, activity log and notes; answer with `MarksRead`.
    SendMarks {
        session: Session,
        /// How the copies are compared: a whole comparison needs no marks; else an extent with many marks is told by
        /// its digests (`DigestsRead`, before the last `MarksRead`), so that only what differs is copied.
        kind: CopyKind,
    },
    /// Compare the digests that came as payload with the own ones and set to-copy bits where they differ. In order with
    /// `AddMarks`.
    AddDigests {
        session: Session,
        extent: ExtentNo,
    },
    /// Or these into the to-copy map; answer `MarksAdded` when `last`.
    AddMarks {
        session: Session,
        runs: Vec<Run>,
        last: bool,
    },
    /// Make the to-copy map (`Bits`: what is there already, plus differs after a restart); answer `CopyReady`.
    /// For `Compare` the target gets the same action and sends its digests.
    StartCopy {
        session: Session,
        kind: CopyKind,
        source: bool,
    },
    /// Send the digests that were read.
    SendDigests {
        link: LinkId,
        session: Session,
        extent: ExtentNo,
        last: bool,
    },
    /// Compare the digests that came as payload with the own ones and set to-copy bits where they differ;
    /// `CopyReady` follows after the `last`.
    CompareDigests {
        session: Session,
        extent: ExtentNo,
        last: bool,
    },
    /// Find, lock and read one run of at most `blocks` blocks to copy that is not locked by an operation and not read
    /// or sent already in this session; answer with one `CopyRead`, or with `CopyExhausted` if a whole round of the
    /// map finds none.
    Copy {
        session: Session,
        blocks: u64,
    },
    /// Send what was read (`Kind::Copy` or `CopyHole`) and unlock.
    SendCopy {
        op: OpId,
        link: LinkId,
        session: Session,
        seq: Seq,
    },
    /// The session ended: unlock and forget what was read; the to-copy bits stay.
    DropCopy {
        op: OpId,
    },
    /// Stable on the target: clear the *to copy* bits.
    Copied {
        first: BlockNo,
        count: u64,
    },
    /// Both copies are equal and recorded so: clear both bitmaps and notes (but not the activity log).
    ClearMarks,

    /// Put back what a resync overwrote, behind everything that the peer sent; then `WentBack`, or `NoWayBack` with the
    /// copy half overwritten as before.
    GoBack {
        token: Token,
    },

    /// Put the whole copy aside, where it can be mounted; then `Kept`, or `NotKept` with everything as it was. Nothing
    /// writes to it meanwhile.
    Keep {
        token: Token,
    },

    // Verify, to the mirror.
    /// Look at the next extents from there on, as many as make a step; answer with `Looked`. Not answered if the link
    /// changes meanwhile.
    Look {
        token: Token,
        task: Task,
        from: ExtentNo,
    },

    /// Make the image so large; `prepare`: only see to it that the medium has the room. Answer `Grown` or `GrowFailed`.
    Grow {
        token: Token,
        blocks: u64,
        prepare: bool,
    },

    // Persistence.
    /// Make `state` stable in the superblock, note its `v` in the node state file, read it back; then `Stored`.
    Store {
        token: Token,
        state: Box<State>,
    },
    // The peer.
    Send {
        link: LinkId,
        message: Message,
    },

    /// Something for the shell around the mirror.
    Order(Order),
}

/// What a node asks of the shell around it, in the order in which it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Drop the connection, dial again, report `LinkUp` when one stands.
    CloseLink(LinkId),
    /// Dial and accept no connection any more, in this process.
    HangUp,
    /// On all heartbeat paths at once; may be lost.
    Heartbeat(Heartbeat),
    /// Ask the witness; answer `Event::WitnessReply`. Asked again with the same nonce until answered; late answers are
    /// harmless.
    AskWitness {
        nonce: u128,
        request: WitnessRequest,
    },
    /// Note the request outside the image, stable; then have the agents of this level (from 0) stop the peer; answer
    /// `Event::FenceResult`, and take the note away first.
    Fence {
        nonce: u128,
        level: u32,
    },
    /// See to it that no agent of that request, made by an earlier process, can do anything any more; answer as above.
    SettleFence {
        nonce: u128,
    },
    /// Mount, raise the address, start services; answer `Event::Promoted` or `Event::PromoteFailed`.
    Promote,
    /// Stop services, drop the address, unmount; answer `Event::Demoted`. Graceful: operations still work until then;
    /// else they fail, and what cannot be stopped is killed.
    Demote {
        graceful: bool,
    },
    /// The lease lapsed: remove the address at once, answer no request until `Thaw`, which undoes both.
    Freeze,
    Thaw,
    /// Renew the kernel's lifetime of the address: the lease is good for this long.
    RenewAddress {
        seconds_left: u64,
    },
    /// Note in the node state file that this image is unusable since `v`, stable; then `Event::UnusableNoted`.
    NoteUnusable {
        v: u64,
    },
    /// This node is about to ask for the volume by itself: note the time of the wall clock outside the image, stable;
    /// answer `Event::FailbackNoted`.
    NoteFailback {
        token: Token,
    },
    /// Note how far a verify run is, so that a restart goes on with it; `end`: it is over.
    NoteVerify {
        progress: VerifyProgress,
        end: Option<VerifyEnd>,
    },
    /// The image is larger, and so is the peer's: whatever is mounted on it may use the new room.
    Grown,
    /// Tell the administrator.
    Tell(Notice),
}

impl From<Order> for Action {
    fn from(order: Order) -> Action {
        Action::Order(order)
    }
}
