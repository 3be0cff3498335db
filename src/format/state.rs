//! What a node stores about its copy in the superblock, as plain values: record, lineage, bitmap base, marks.
//!
//! Invariant: whatever decides who may be primary or which copy is newer is in here and nowhere else.

use crate::base::{Generation, NodeId, Record, VolumeId};

/// Why a generation was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenReason {
    /// The volume was made.
    Made,
    /// The minting node went on without its peer.
    WentSolo,
    /// An operator forced it (`--force`).
    Forced,
    /// An operator, or the policy for a split brain, made this copy the volume, be it older or one of two that grew
    /// apart: what only the peer had was given up.
    WentBack,
    /// The peer's disk failed while it served: it goes on over the link, with this copy as the only one, until its
    /// services have stopped.
    PeerDisk,
    /// The image was written outside the protocol (`mount --standalone --force`, `fsck -y`).
    Standalone,
}

/// One data generation of the lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenEntry {
    pub id: Generation,
    pub minted_by: NodeId,
    /// The record's `v` at which it was minted.
    pub at_v: u64,
    pub reason: GenReason,
    /// Always 0. Where a copy's own changes begin is in `Apart`: a number here would be in the hash of the lineage,
    /// which the witness and the peer compute from what they were told when the generation was minted.
    pub first_txn: u64,
}

/// Whether this copy is in the middle of being overwritten by a resync. Such a copy never serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResyncMark {
    #[default]
    None,
    /// A target of the generation `of`; inconsistent until the join.
    Target { of: Generation },
}

/// What was decided about a split brain, and how far this node is with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of two decisions about the same split the one with the higher number counts; from 1.
    pub number: u64,
    /// Whose copy is kept.
    pub winner: NodeId,
    /// The newest generations of A's and B's copy when it was decided.
    pub heads: [Generation; 2],
    /// 0: nothing is done. Of the winner 1: its copy has a generation and a record above both. Of the other node: its
    /// copy is put aside, since so many seconds after 1970.
    pub done: u64,
}

impl Verdict {
    /// The same decision, however far either node is.
    pub fn is(&self, other: &Verdict) -> bool {
        Verdict { done: 0, ..*self } == Verdict { done: 0, ..*other }
    }
}

/// Where the changes that only this copy has begin: in the log of its filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Since {
    /// Both copies have the same, or nobody noted it.
    #[default]
    Unknown,
    /// Nothing has been mounted on this copy since it went on alone.
    Untouched,
    /// Records of the log from `txn` on may be on this copy only, and inodes from `ino` on were made here.
    From { txn: u64, ino: u64 },
}

/// What is kept of a time in which the two copies grew apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// This node was the primary by record when its copy went on alone.
    pub led: bool,
    pub since: Since,
    pub verdict: Option<Verdict>,
}

/// The stable state of one node's copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub volume: VolumeId,
    pub node: NodeId,
    /// New and random whenever the image is made; tells a replaced disk from the old one.
    pub incarnation: u128,
    /// `None` on a copy that was made by `join` and has never been in sync.
    pub record: Option<Record>,
    /// Oldest first, at most `limits::GENERATIONS_MAX`; empty on a blank copy.
    pub gens: Vec<GenEntry>,
    /// The peer's newest generation that the bitmap counts from.
    pub bitmap_base: Generation,
    /// Every written block may differ: the bitmap says nothing.
    pub full: bool,
    pub resync: ResyncMark,
    /// Split brain was seen and is not resolved: after a restart this copy does not serve by itself.
    pub diverged: bool,
    pub apart: Apart,
    /// Raised and stored at each start, before the first packet.
    pub boot_epoch: u64,
    pub peer_boot_epoch: u64,
    /// Incarnations that were replaced, of either node: refused until wiped. With its own among them the copy is out of
    /// use.
    pub retired: Vec<u128>,
    pub witness_incarnation: u128,
}

impl State {
    /// Newest generation; zero on a blank copy.
    pub fn head(&self) -> Generation {
        self.gens.last().map_or(Generation(0), |entry| entry.id)
    }

    /// This very copy was replaced by another one, and knows it: nothing is done with it until it is wiped.
    pub fn is_out_of_use(&self) -> bool {
        self.retired.contains(&self.incarnation)
    }
}
