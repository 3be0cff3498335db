//! The intent log behind the last checkpoint: a chain of records, each named by the hash of the one before.
//!
//! Decides where the log ends, as a mount does: the first record that is missing, torn or of another chain; and whether
//! a later record shows that the missing one was acknowledged. Does not know what the operations mean. Invariant: at
//! most a whole ring is read, and once more.

use crate::base::BlockNo;
use crate::format::{
    ChainHash, FsSuper, LogMeta, LogOp, is_whole_record, open_record, record_claim, record_len,
};

const BLOCK: usize = BlockNo::SIZE;

/// The operations of one sealed record.
pub struct Record {
    pub seq: u64,
    /// Blocks of the record in the ring.
    pub blocks: u64,
    /// Homes of the data blocks that it carries.
    pub homes: Vec<BlockNo>,
    ops: Vec<u8>,
}

impl Record {
    /// Calls `each` with every operation; false if the bytes end in something that is none.
    pub fn each_op(&self, mut each: impl FnMut(LogOp<'_>)) -> bool {
        let mut at = self.ops.as_slice();
        while !at.is_empty() {
            match LogOp::decode(&mut at) {
                Some(op) => each(op),
                None => return false,
            }
        }
        true
    }
}

/// Reads one or more blocks.
pub(super) type Read<'a> = &'a dyn Fn(BlockNo, &mut [u8]) -> Result<(), String>;

/// The records behind the checkpoint, in order, and what is wrong with them.
pub(super) fn replay(sup: &FsSuper, start: &LogMeta, read: Read<'_>) -> (Vec<Record>, Vec<String>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    if start.log_id != sup.log_id {
        problems.push("the checkpoint belongs to another log".to_string());
        return (found, problems);
    }
    if start.next_pos >= sup.ring_blocks {
        problems.push(format!("the log goes on at {} of {}", start.next_pos, sup.ring_blocks));
        return (found, problems);
    }
    let (mut pos, mut prev, mut seq) = (start.next_pos, start.prev_hash, start.next_seq);
    let mut read_blocks = 0;
    while let Some((at, bytes, hash)) = next(sup, pos, seq, &prev, read) {
        let blocks = (bytes.len() / BLOCK) as u64;
        read_blocks += blocks;
        if read_blocks > sup.ring_blocks {
            problems.push("more records than the ring can hold".to_string());
            break;
        }
        if let Some(record) = open_record(&bytes, &prev) {
            let homes: Vec<BlockNo> = record.payload.iter().map(|(block, _)| *block).collect();
            let outside =
                homes.iter().filter(|home| home.0 < sup.data_first || home.0 >= sup.block_count).count();
            if outside > 0 {
                problems.push(format!("record {seq}: data for {outside} blocks that no file can have"));
            }
            found.push(Record { seq, blocks, homes, ops: record.ops.to_vec() });
        }
        pos = (at + blocks) % sup.ring_blocks;
        (prev, seq) = (hash, seq.saturating_add(1));
    }
    if let Some(later) = later(sup, pos, seq, read) {
        problems.push(format!(
            "record {seq} is damaged, but record {later} behind it is whole: acknowledged changes are lost"
        ));
    }
    (found, problems)
}

/// The record at `pos`, or at the start of the ring if the writer wrapped.
fn next(
    sup: &FsSuper,
    pos: u64,
    seq: u64,
    prev: &ChainHash,
    read: Read<'_>,
) -> Option<(u64, Vec<u8>, ChainHash)> {
    let places: &[u64] = if pos == 0 { &[0] } else { &[pos, 0] };
    places.iter().find_map(|at| {
        let mut first = vec![0; BLOCK];
        // A block that the power cut tore matches no digest: the log ends there.
        read(BlockNo(sup.ring_first.saturating_add(*at)), &mut first).ok()?;
        let len = record_len(&first, sup.log_id, seq)?;
        if at.checked_add(len).is_none_or(|end| end > sup.ring_blocks) {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()? * BLOCK];
        read(BlockNo(sup.ring_first + at), &mut bytes).ok()?;
        let hash = open_record(&bytes, prev)?.hash;
        Some((*at, bytes, hash))
    })
}

/// The highest number of a whole record behind the end of the chain. One record is in flight at a time: a later one was
/// written only when all before it were stable. A whole record `seq` at its place is of another history, as are those
/// behind it.
fn later(sup: &FsSuper, pos: u64, seq: u64, read: Read<'_>) -> Option<u64> {
    let block = |at: u64| {
        let mut bytes = vec![0; BLOCK];
        read(BlockNo(sup.ring_first.saturating_add(at)), &mut bytes).ok().map(|()| bytes)
    };
    let is_whole = |at: u64, len: u64| {
        if at.checked_add(len).is_none_or(|end| end > sup.ring_blocks) {
            return false;
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0) * BLOCK];
        read(BlockNo(sup.ring_first.saturating_add(at)), &mut bytes).is_ok() && is_whole_record(&bytes)
    };
    let claim = |at: u64| record_claim(&block(at)?, sup.log_id);
    let other = |at: &u64| claim(*at).is_some_and(|(number, len)| number == seq && is_whole(*at, len));
    if [pos, 0].iter().any(other) {
        return None;
    }
    let numbers = (0..sup.ring_blocks).filter_map(|at| {
        let (number, len) = claim(at).filter(|(number, _)| *number > seq)?;
        is_whole(at, len).then_some(number)
    });
    numbers.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::seal_record;

    const RING: u64 = 16;

    fn sup() -> FsSuper {
        FsSuper { log_id: 7, block_count: 100, ring_first: 2, ring_blocks: RING, ..FsSuper::default() }
    }

    fn start(pos: u64) -> LogMeta {
        LogMeta { applied: 4, next_pos: pos, next_seq: 5, log_id: 7, prev_hash: [1; 32], next_ino: 2 }
    }

    /// Seals records of the given payload sizes one behind the other, wrapping where one does not fit.
    fn ring(mut pos: u64, sizes: &[usize]) -> Vec<u8> {
        let mut disk = vec![0; (2 + RING as usize) * BLOCK];
        let (mut prev, page) = ([1; 32], [9; BLOCK]);
        for (number, size) in sizes.iter().enumerate() {
            let payload = vec![(BlockNo(50), &page); *size];
            let (bytes, hash) = seal_record(7, 5 + number as u64, &prev, b"ops", payload.into_iter());
            let len = (bytes.len() / BLOCK) as u64;
            if pos + len > RING {
                pos = 0;
            }
            let at = (2 + pos as usize) * BLOCK;
            disk[at..at + bytes.len()].copy_from_slice(&bytes);
            (pos, prev) = ((pos + len) % RING, hash);
        }
        disk
    }

    fn seqs(disk: &[u8], start: &LogMeta) -> (Vec<u64>, Vec<String>) {
        let read = |block: BlockNo, out: &mut [u8]| {
            let at = usize::try_from(block.0).map_err(|_| "far")? * BLOCK;
            out.copy_from_slice(disk.get(at..at + out.len()).ok_or("outside")?);
            Ok(())
        };
        let (records, problems) = replay(&sup(), start, &read);
        (records.iter().map(|record| record.seq).collect(), problems)
    }

    #[test]
    fn the_chain_is_followed_around_the_ring_and_ends_at_the_first_break() {
        let disk = ring(12, &[1, 2, 1]);
        assert_eq!(seqs(&disk, &start(12)), (vec![5, 6, 7], vec![]));
        let mut torn = disk.clone();
        torn[2 * BLOCK + 5000] ^= 1;
        let (seen, problems) = seqs(&torn, &start(12));
        assert_eq!(seen, [5]);
        assert!(problems[0].contains("record 6 is damaged, but record 7"), "{problems:?}");
        let mut last = disk.clone();
        last[5 * BLOCK + 5000] ^= 1;
        assert_eq!(seqs(&last, &start(12)), (vec![5, 6], vec![]), "a torn last record is no damage");
        assert_eq!(seqs(&disk, &LogMeta { prev_hash: [2; 32], ..start(12) }).0, [0; 0]);
    }

    #[test]
    fn foreign_starts_are_findings() {
        let disk = ring(0, &[1]);
        assert!(seqs(&disk, &LogMeta { log_id: 8, ..start(0) }).1[0].contains("another log"));
        assert!(seqs(&disk, &start(16)).1[0].contains("goes on at 16"));
        assert_eq!(seqs(&disk, &start(3)), (vec![5], vec![]), "a record at the start counts as wrapped");
    }
}
