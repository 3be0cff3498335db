//! What blocks held before a resync overwrote them: the head in the superblock, and batches in the undo area.
//!
//! A batch is one or two blocks of header, then the content of its `Saved` entries in their order. Decides nothing
//! about when. Invariants: a batch of another log, place or image never passes; its header and its content have a hash
//! each, so that a batch cut by a power loss is told from one that rotted.

use super::codec::{Damage, Put, Take, salted};
use super::geometry::BLOCK;
use crate::base::Digest;

const MAGIC: [u8; 8] = *b"twUndoB1";
const FIXED_BYTES: usize = 96;
const ENTRY_BYTES: usize = 28;
const HEADER_BYTES_MAX: usize = 2 * BLOCK as usize;
/// Entries of a batch whose header is two blocks.
pub const UNDO_ENTRIES_MAX: usize = (HEADER_BYTES_MAX - FIXED_BYTES) / ENTRY_BYTES;
const _: () = assert!(UNDO_ENTRIES_MAX >= 256, "a slice of 1 MiB fits one batch");

/// How far the undo log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UndoStage {
    /// No resync is under way, or there is no state to go back to.
    #[default]
    None,
    /// The first overwrite of every block since the last consistent state is saved.
    Saving,
    /// The saved content is being put back: the copy takes nothing from anybody before that is done.
    GoingBack,
    /// There was no room: the copy cannot go back.
    GivenUp,
}

impl UndoStage {
    fn code(self) -> u8 {
        match self {
            UndoStage::None => 0,
            UndoStage::Saving => 1,
            UndoStage::GoingBack => 2,
            UndoStage::GivenUp => 3,
        }
    }

    fn from_code(code: u8) -> Result<UndoStage, Damage> {
        match code {
            0 => Ok(UndoStage::None),
            1 => Ok(UndoStage::Saving),
            2 => Ok(UndoStage::GoingBack),
            3 => Ok(UndoStage::GivenUp),
            _ => Err(Damage("unknown stage of the undo log")),
        }
    }
}

/// Which undo log counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UndoHead {
    /// Sequence number of the superblock slot that began it: unique on an image.
    pub id: u64,
    pub stage: UndoStage,
}

impl UndoHead {
    pub(super) const BYTES: usize = 16;

    pub(super) fn encode(self, put: &mut Put) {
        put.u64(self.id).u8(self.stage.code()).bytes(&[0; 7]);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<UndoHead, Damage> {
        let head = UndoHead { id: take.u64()?, stage: UndoStage::from_code(take.u8()?)? };
        take.zeros(7)?;
        Ok(head)
    }
}

/// What one block, or a run of them, held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// Never written.
    Unwritten,
    /// One block; its content follows the header.
    Saved(Digest),
    /// The medium could not read it.
    Lost,
}

/// `count` blocks from `first`; a `Saved` entry has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UndoEntry {
    pub first: u64,
    pub count: u32,
    pub old: Old,
}

/// A batch without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoBatch {
    pub id: u64,
    /// 0 for the first batch of a log, then one more each.
    pub seq: u64,
    /// Offset in the undo area.
    pub at: u64,
    pub entries: Vec<UndoEntry>,
    /// First half of the BLAKE3 of the content.
    pub content: [u8; 16],
}

impl UndoBatch {
    /// Bytes of the header for so many entries.
    pub fn header_bytes(entries: usize) -> u64 {
        if FIXED_BYTES + entries * ENTRY_BYTES <= BLOCK as usize { BLOCK } else { 2 * BLOCK }
    }

    /// Blocks of content that follow the header.
    pub fn saved(&self) -> u64 {
        self.entries.iter().filter(|entry| matches!(entry.old, Old::Saved(_))).count() as u64
    }

    /// Bytes of header and content.
    pub fn bytes(&self) -> u64 {
        UndoBatch::header_bytes(self.entries.len()) + self.saved() * BLOCK
    }

    /// The hash that `content` holds.
    pub fn content_hash(salt: u128, content: &[u8]) -> [u8; 16] {
        let hash = salted(salt, &[content]);
        let mut out = [0; 16];
        out.copy_from_slice(&hash[..16]);
        out
    }

    pub fn encode(&self, salt: u128) -> Vec<u8> {
        let len = UndoBatch::header_bytes(self.entries.len()) as usize;
        let mut put = Put::with_capacity(len);
        put.bytes(&[0; 32]).bytes(&MAGIC).u64(self.id).u64(self.seq).u64(self.at);
        put.u32(self.entries.len() as u32).bytes(&[0; 12]).bytes(&self.content);
        for entry in &self.entries {
            let (code, digest) = match entry.old {
                Old::Unwritten => (0, Digest([0; 15])),
                Old::Saved(digest) => (1, digest),
                Old::Lost => (2, Digest([0; 15])),
            };
            put.u64(entry.first).u32(entry.count).u8(code).bytes(&digest.0);
        }
        put.pad_to(len);
        let mut bytes = put.done();
        let hash = salted(salt, &[&bytes[32..]]);
        bytes[..32].copy_from_slice(&hash);
        bytes
    }

    /// How long the header that begins with this block is, if it is one of this log and place.
    pub fn header_len(first_block: &[u8], id: u64, seq: u64, at: u64) -> Option<u64> {
        let mut take = Take::new(first_block.get(32..)?);
        let ours = take.array::<8>() == Ok(MAGIC)
            && take.u64() == Ok(id)
            && take.u64() == Ok(seq)
            && take.u64() == Ok(at);
        let entries = take.u32().ok()? as usize;
        (ours && (1..=UNDO_ENTRIES_MAX).contains(&entries)).then(|| UndoBatch::header_bytes(entries))
    }

    /// `bytes`: the whole header.
    pub fn decode(bytes: &[u8], salt: u128, blocks: u64) -> Result<UndoBatch, Damage> {
        let mut take = Take::new(bytes);
        let hash = take.array::<32>()?;
        if take.array::<8>()? != MAGIC {
            return Err(Damage("no batch of the undo log"));
        }
        if salted(salt, &[&bytes[32..]]) != hash {
            return Err(Damage("the hash of a batch of the undo log does not match"));
        }
        let (id, seq, at, count) = (take.u64()?, take.u64()?, take.u64()?, take.u32()? as usize);
        take.zeros(12)?;
        let content = take.array::<16>()?;
        if !(1..=UNDO_ENTRIES_MAX).contains(&count) {
            return Err(Damage("impossible number of entries in the undo log"));
        }
        let entries = (0..count).map(|_| entry(&mut take, blocks)).collect::<Result<Vec<_>, _>>()?;
        take.end()?;
        Ok(UndoBatch { id, seq, at, entries, content })
    }
}

fn entry(take: &mut Take<'_>, blocks: u64) -> Result<UndoEntry, Damage> {
    let (first, count, code) = (take.u64()?, take.u32()?, take.u8()?);
    let digest = Digest(take.array()?);
    let inside = first.checked_add(count.into()).is_some_and(|end| end <= blocks);
    if count == 0 || !inside {
        return Err(Damage("the undo log names blocks outside the data area"));
    }
    let old = match code {
        0 => Old::Unwritten,
        1 if count == 1 => Old::Saved(digest),
        2 => Old::Lost,
        _ => return Err(Damage("unknown kind of entry in the undo log")),
    };
    Ok(UndoEntry { first, count, old })
}
