//! The first message of a session: everything the decision table (rows H1 to H16) looks at.
//!
//! Decides nothing. Both nodes send one, both evaluate the same table on the same two, and compare the result.

use crate::base::{Generation, NodeId, Record, VolumeId};
use crate::format::{GenEntry, ResyncMark, State};

use super::Session;

/// What a node says about its copy before any data moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the sender can do beside what every version can (`feature`).
    pub features: u64,
    pub volume: VolumeId,
    pub node: NodeId,
    pub incarnation: u128,
    pub boot_epoch: u64,
    /// Fresh and random for every hello: the session number is derived from both.
    pub nonce: u128,
    /// Drawn once per process start: a changed one means that volatile state was lost.
    pub process: u128,
    /// Blocks in the data area; the smaller image has to grow first.
    pub blocks: u64,
    pub record: Option<Record>,
    pub gens: Vec<GenEntry>,
    pub bitmap_base: Generation,
    pub full: bool,
    pub resync: ResyncMark,
    pub retired: Vec<u128>,
    /// A bit is set in the bitmap, or was noted while a target.
    pub marks: bool,
    /// The activity log was not empty when the image was opened, or has been in use since.
    pub hot: bool,
    pub serving: bool,
    /// A compare-and-swap or a record store has no answer yet (H2).
    pub pending: bool,
    /// The member session this process was in last, if it still stands for an equal copy.
    pub last_session: Option<Session>,
}

impl Hello {
    /// The part that comes from the stable state; the caller fills in the rest.
    pub fn of(state: &State) -> Hello {
        Hello {
            features: super::FEATURES,
            volume: state.volume,
            node: state.node,
            incarnation: state.incarnation,
            boot_epoch: state.boot_epoch,
            nonce: 0,
            process: 0,
            blocks: 0,
            record: state.record,
            gens: state.gens.clone(),
            bitmap_base: state.bitmap_base,
            full: state.full,
            resync: state.resync,
            retired: state.retired.clone(),
            marks: false,
            hot: false,
            serving: false,
            pending: false,
            last_session: None,
        }
    }

    /// Newest generation; zero on a blank copy.
    pub fn head(&self) -> Generation {
        self.gens.last().map_or(Generation(0), |entry| entry.id)
    }
}
