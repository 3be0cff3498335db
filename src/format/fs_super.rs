//! The filesystem superblock: geometry of the log ring and the list of chunks that hold the tables.
//!
//! Two slots, headers in blocks 0 and 1 of the data area, written in turn; the newest valid one wins. A header block is
//! 4096 bytes: fields, then up to `INLINE` chunk entries; further entries lie in the slot's continuation area, 256 to a
//! block. The last 32 bytes are BLAKE3 of the header before them and of all continuation blocks in use. Each slot has a
//! copy, header and continuation in one piece, right before the first block of data: whoever overwrites the start of an
//! image leaves those. Volumes made before there were copies lack them and say so.
//! Decides the bytes only; whoever opens a volume checks the geometry against the device.

use crate::base::BlockNo;

use super::fs_inode::{take_u32, take_u64};

const MAGIC: u64 = u64::from_le_bytes(*b"twinfsB1");
const VERSION: u32 = 1;
/// In the word behind the version: the slots have copies.
const COPIED: u32 = 1;
const BLOCK: usize = 4096;
const FIELDS: usize = 256;
const HASH_AT: usize = BLOCK - 32;
/// Chunk entries that fit into the header block.
const INLINE: usize = (HASH_AT - FIELDS) / ENTRY;
const ENTRY: usize = 16;
const PER_BLOCK: usize = BLOCK / ENTRY;

/// Blocks of one chunk of the tables' address space: 256 KiB.
pub const CHUNK_BLOCKS: u64 = 64;

/// One state of the filesystem superblock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsSuper {
    /// Grows with every write; parity is the slot.
    pub seq: u64,
    /// Identity of this filesystem's log, random at mkfs.
    pub log_id: u128,
    /// Blocks of the data area that the filesystem uses.
    pub block_count: u64,
    pub ring_first: u64,
    pub ring_blocks: u64,
    /// First block of the continuation area of each slot.
    pub cont_first: [u64; 2],
    /// Blocks of one continuation area.
    pub cont_blocks: u64,
    /// First block that the allocator may use.
    pub data_first: u64,
    /// Both slots have a copy before `data_first`.
    pub copied: bool,
    /// Exact length of the tables' address space in bytes.
    pub tables_len: u64,
    /// Chunk index in the tables' address space -> first block in the image.
    pub chunks: Vec<(u64, u64)>,
}

impl FsSuper {
    /// Continuation blocks that a map of `chunks` entries needs.
    pub fn cont_needed(chunks: usize) -> usize {
        chunks.saturating_sub(INLINE).div_ceil(PER_BLOCK)
    }

    /// Blocks that the copies of both slots take, with continuation areas of `cont_blocks`.
    pub fn copies_len(cont_blocks: u64) -> u64 {
        cont_blocks.saturating_add(1).saturating_mul(2)
    }

    /// Where the copy of the slot of this state starts: its header, its continuation behind it.
    fn copy_at(&self) -> Option<BlockNo> {
        let len = Self::copies_len(self.cont_blocks);
        let first = self.data_first.checked_sub(len).filter(|_| self.copied)?;
        Some(BlockNo(first + (self.seq % 2) * (len / 2)))
    }

    /// The area of the copies: its first block and how many; `None` without.
    pub fn copies(&self) -> Option<(BlockNo, u64)> {
        let even = FsSuper { seq: 0, chunks: Vec::new(), ..self.clone() };
        even.copy_at().map(|first| (first, Self::copies_len(self.cont_blocks)))
    }

    /// Everything to write for this state, each with its first block. The second part is the slot's header: flushed
    /// with what was written before it, it makes the state count.
    #[expect(clippy::type_complexity, reason = "blocks and where they go")]
    pub fn places(&self) -> (Vec<(BlockNo, Vec<u8>)>, (BlockNo, Vec<u8>)) {
        let slot = self.seq % 2;
        let (head, cont) = self.encode();
        let mut before = Vec::with_capacity(2);
        if let Some(at) = self.copy_at() {
            before.push((at, [&head[..], &cont].concat()));
        }
        if !cont.is_empty() {
            before.push((BlockNo(self.cont_first[slot as usize]), cont));
        }
        (before, (BlockNo(slot), head))
    }

    /// Whether `head`, found at `at`, may be the header of a copy, and how many blocks of continuation follow it;
    /// nothing is verified yet.
    pub fn peek_copy(head: &[u8], at: BlockNo) -> Option<usize> {
        let (sup, count) = Self::fields(head)?;
        let needed = Self::cont_needed(usize::try_from(count).ok()?);
        (sup.copy_at() == Some(at) && needed as u64 <= sup.cont_blocks).then_some(needed)
    }

    /// Header block and continuation blocks.
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let mut head = Vec::with_capacity(BLOCK);
        head.extend_from_slice(&MAGIC.to_le_bytes());
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(if self.copied { COPIED } else { 0 }).to_le_bytes());
        let (low, high) = (self.log_id as u64, (self.log_id >> 64) as u64);
        for field in [
            self.seq,
            low,
            high,
            self.block_count,
            self.ring_first,
            self.ring_blocks,
            self.cont_first[0],
            self.cont_first[1],
            self.cont_blocks,
            self.data_first,
            self.tables_len,
            self.chunks.len() as u64,
        ] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        head.resize(FIELDS, 0);
        let mut cont = Vec::new();
        for (number, (index, block)) in self.chunks.iter().enumerate() {
            let place = if number < INLINE { &mut head } else { &mut cont };
            place.extend_from_slice(&index.to_le_bytes());
            place.extend_from_slice(&block.to_le_bytes());
        }
        head.resize(HASH_AT, 0);
        cont.resize(cont.len().div_ceil(BLOCK) * BLOCK, 0);
        let hash = slot_hash(&head, &cont);
        head.extend_from_slice(&hash);
        (head, cont)
    }

    /// How many continuation blocks a header names and in which slot's area, before anything is verified.
    pub fn peek(head: &[u8]) -> Option<(u64, usize)> {
        let rec = Self::fields(head)?;
        let count = rec.1;
        let needed = Self::cont_needed(usize::try_from(count).ok()?);
        (needed as u64 <= rec.0.cont_blocks).then_some((rec.0.cont_first[(rec.0.seq % 2) as usize], needed))
    }

    fn fields(head: &[u8]) -> Option<(FsSuper, u64)> {
        if head.len() != BLOCK {
            return None;
        }
        let mut at = head;
        let (magic, version, flags) = (take_u64(&mut at)?, take_u32(&mut at)?, take_u32(&mut at)?);
        if magic != MAGIC || version != VERSION || flags & !COPIED != 0 {
            return None;
        }
        let mut next = || take_u64(&mut at);
        let rec = FsSuper {
            seq: next()?,
            log_id: u128::from(next()?) | u128::from(next()?) << 64,
            block_count: next()?,
            ring_first: next()?,
            ring_blocks: next()?,
            cont_first: [next()?, next()?],
            cont_blocks: next()?,
            data_first: next()?,
            copied: flags & COPIED != 0,
            tables_len: next()?,
            chunks: Vec::new(),
        };
        Some((rec, next()?))
    }

    /// Reads a slot; `None` if it is not whole.
    pub fn decode(head: &[u8], cont: &[u8]) -> Option<FsSuper> {
        let (mut rec, count) = Self::fields(head)?;
        if slot_hash(&head[..HASH_AT], cont)[..] != head[HASH_AT..] {
            return None;
        }
        let count = usize::try_from(count).ok()?;
        if cont.len() != Self::cont_needed(count) * BLOCK {
            return None;
        }
        let entries = head[FIELDS..HASH_AT].chunks_exact(ENTRY).take(INLINE).chain(cont.chunks_exact(ENTRY));
        for entry in entries.take(count) {
            let mut at = entry;
            rec.chunks.push((take_u64(&mut at)?, take_u64(&mut at)?));
        }
        (rec.chunks.len() == count).then_some(rec)
    }
}

/// Makes the hash of a slot right, whatever the slot says.
#[cfg(test)]
pub(crate) fn seal_raw_slot(head: &mut [u8], cont: &[u8]) {
    let hash = slot_hash(&head[..HASH_AT], cont);
    head[HASH_AT..].copy_from_slice(&hash);
}

fn slot_hash(head: &[u8], cont: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(cont);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_of_a_slot_is_known_by_where_it_lies() {
        let chunks: Vec<(u64, u64)> = (0..INLINE as u64 + 1).map(|n| (n, n * 64 + 1000)).collect();
        let new = FsSuper {
            cont_first: [2, 5],
            cont_blocks: 3,
            data_first: 100,
            copied: true,
            ..FsSuper::default()
        };
        for (seq, copy, cont) in [(8, 92, 2), (9, 96, 5)] {
            let sup = FsSuper { seq, chunks: chunks.clone(), ..new.clone() };
            let (before, (slot, head)) = sup.places();
            assert_eq!(slot, BlockNo(seq % 2));
            assert_eq!(before.iter().map(|(at, _)| at.0).collect::<Vec<_>>(), [copy, cont]);
            assert_eq!(before[0].1[..BLOCK], head[..]);
            assert_eq!(before[0].1[BLOCK..], before[1].1);
            assert_eq!(FsSuper::peek_copy(&head, BlockNo(copy)), Some(1));
            assert_eq!(FsSuper::peek_copy(&head, slot), None);
            let old = FsSuper { copied: false, ..sup };
            assert_eq!(old.places().0.len(), 1);
            assert_eq!(FsSuper::peek_copy(&old.encode().0, BlockNo(copy)), None);
        }
        let vast = FsSuper { cont_blocks: u64::MAX, data_first: u64::MAX, ..new };
        assert_eq!(FsSuper::peek_copy(&vast.encode().0, BlockNo(3)), None);
    }

    #[test]
    fn a_slot_comes_back_whole_or_not_at_all() {
        for count in [0, 1, INLINE, INLINE + 1, INLINE + 700] {
            let rec = FsSuper {
                seq: 9,
                log_id: 1 << 100 | 7,
                cont_blocks: 10,
                data_first: 400,
                copied: true,
                tables_len: 12_345,
                chunks: (0..count as u64).map(|n| (n * 3, n * 64 + 1000)).collect(),
                ..FsSuper::default()
            };
            let (mut head, mut cont) = rec.encode();
            assert_eq!(FsSuper::peek(&head), Some((0, cont.len() / BLOCK)));
            assert_eq!(FsSuper::decode(&head, &cont), Some(rec));
            if !cont.is_empty() {
                cont[5] ^= 1;
                assert_eq!(FsSuper::decode(&head, &cont), None);
                cont[5] ^= 1;
            }
            head[40] ^= 1;
            assert_eq!(FsSuper::decode(&head, &cont), None);
        }
    }
}
