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
    /// An operator made an older state the volume: what the peer had written since was given up.
    WentBack,
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
    /// First filesystem transaction of this generation, 0 while unknown.
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
