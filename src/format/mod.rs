//! Bytes on disk: fixed little-endian structs with sizes asserted at compile time, and the plain values they encode.
//!
//! Decides where each byte lies. Does not know devices, files or peers. Invariants: every number from disk is checked
//! against its range before anyone uses it; reserved bytes are written as zeros and refused otherwise; every structure
//! carries a hash that is salted with the image's incarnation, so that leftovers of an older image never pass.

mod codec;
mod fs_inode;
mod fs_log;
mod fs_super;
mod fs_tables;
mod geometry;
mod handover;
mod label;
mod page;
mod ring;
mod sector;
mod state;
mod state_codec;
mod superblock;
mod undo;

pub use fs_inode::{COOKIE_FIRST, Dirent, FileKind, InodeRec, MODE_TYPE_MASK, Time};
pub use fs_log::{
    ChainHash, LogOp, LogRecord, is_whole_record, open_record, record_blocks, record_claim, record_len,
    record_prev, seal_record,
};
pub use fs_super::{CHUNK_BLOCKS, FsSuper};
pub use fs_tables::{ExtentRec, LogMeta, TableId, ino_of_key, key_ino, key_name, key_pair, second_of_key};
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;

pub use codec::{Damage, Put, Take};
pub use geometry::{
    BLOCK, EXTENT_BYTES, GROUP_BLOCKS, GROUP_BYTES, GROUP_EXTENTS, Geometry, HEAD_BYTES, PAGE_BYTES,
    RING_BLOCKS,
};
pub use handover::{
    HANDOVER_BYTES_MAX, HANDOVER_VERSION, HELD_GROUP, Handover, HandoverError, Held, KeptMount,
};
pub use label::{FORMAT_VERSION, LABEL_BYTES, LABEL_COPIES, LABEL_TEXT_MAX, Label};
pub use page::{BlockRec, DigestPage, PAGE_UNCHECKED, PageCheck};
pub use ring::{ACTIVATIONS_MAX, PAIRS_MAX};
pub use ring::{GROUP_TXNS_MAX, Pair, SLOTS_MAX, STATEMENTS_MAX, Statement, Transaction, WINDOW_TXNS};
pub use sector::{
    BITMAP_SECTORS, ENTRIES_PER_SECTOR, SECTOR_BYTES, SECTOR_PAYLOAD, SUMMARY_SECTORS, SectorKind,
    SummaryEntry, open_sector, seal_sector,
};
pub use state::{Apart, GenEntry, GenReason, ResyncMark, Since, State, Verdict};
pub use superblock::{RETIRED_MAX, STATE_AREA_BYTES, Superblock};
pub use undo::{Old, UNDO_ENTRIES_MAX, UndoBatch, UndoEntry, UndoHead, UndoStage};
