//! The intent log behind the last checkpoint: a chain of records, each named by the hash of the one before.
//!
//! Decides where the log ends, and whether it ends because a power cut ended it or because a record was lost. Does not
//! know what the operations mean. Invariant: at most a whole ring is read.

use twinfs::base::BlockNo;
use twinfs::format::{
    ChainHash, FsSuper, LogMeta, LogOp, is_whole_record, open_record, record_claim, record_len,
};

use crate::findings::Findings;
use crate::source::{BLOCK, Bad, Source};

/// The operations of one sealed record.
pub struct Record {
    pub seq: u64,
    ops: Vec<u8>,
    /// Data blocks that it carries: home, block where the content lies now.
    pub payload: Vec<(BlockNo, BlockNo)>,
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

/// More records than anybody writes.
const SEQ_MAX: u64 = 1 << 63;

/// The log as far as it reads.
#[derive(Default)]
pub struct Log {
    pub records: Vec<Record>,
    /// The number that the next record gets.
    pub next_seq: u64,
}

/// Reads the records behind the checkpoint, in order.
pub fn read(source: &Source, sup: &FsSuper, start: &LogMeta, findings: &mut Findings) -> Log {
    let mut log = Log { next_seq: start.next_seq, ..Log::default() };
    if start.log_id != sup.log_id {
        findings.lose("log", "the checkpoint belongs to another log: what was not checkpointed is lost");
        return log;
    }
    if start.next_seq > SEQ_MAX {
        findings.lose("log", format!("it would go on with record {}, which cannot be", start.next_seq));
        return log;
    }
    if start.next_pos >= sup.ring_blocks {
        let text = format!(
            "it would go on at {} of {}: what was not checkpointed is lost",
            start.next_pos, sup.ring_blocks
        );
        findings.lose("log", text);
        return log;
    }
    let (mut pos, mut prev) = (start.next_pos, start.prev_hash);
    let mut left = sup.ring_blocks;
    while let Some(found) = next(source, sup, pos, log.next_seq, &prev) {
        let blocks = (found.bytes.len() / BLOCK) as u64;
        let Some(rest) = left.checked_sub(blocks) else {
            findings.lose("log", "more records than the ring can hold");
            break;
        };
        left = rest;
        if let Some(opened) = open_record(&found.bytes, &prev) {
            let data = BlockNo(sup.ring_first + found.at + blocks - opened.payload.len() as u64);
            let payload: Vec<(BlockNo, BlockNo)> =
                opened.payload.iter().zip(data.0..).map(|((home, _), at)| (*home, BlockNo(at))).collect();
            let outside = payload.iter().filter(|(home, _)| !is_home(sup, *home)).count();
            if outside > 0 {
                let text =
                    format!("record {}: data for {outside} blocks that no file can have", log.next_seq);
                findings.lose("log", text);
            }
            log.records.push(Record { seq: log.next_seq, ops: opened.ops.to_vec(), payload });
        }
        pos = (found.at + blocks) % sup.ring_blocks;
        (prev, log.next_seq) = (found.hash, log.next_seq.saturating_add(1));
    }
    ending(source, sup, pos, log.next_seq, findings);
    log
}

/// Whether a block may be part of a file.
pub fn is_home(sup: &FsSuper, block: BlockNo) -> bool {
    (sup.data_first..sup.block_count).contains(&block.0)
}

struct Found {
    at: u64,
    bytes: Vec<u8>,
    hash: ChainHash,
}

/// Places where the record behind `pos` may be: there, or at the start of the ring if the writer wrapped.
fn places(pos: u64) -> Vec<u64> {
    if pos == 0 { vec![0] } else { vec![pos, 0] }
}

fn next(source: &Source, sup: &FsSuper, pos: u64, seq: u64, prev: &ChainHash) -> Option<Found> {
    places(pos).into_iter().find_map(|at| {
        let mut first = vec![0; BLOCK];
        // The hash of the record decides, not the digests: what a power cut tore has neither.
        source.block(BlockNo(sup.ring_first.saturating_add(at)), &mut first);
        let len = record_len(&first, sup.log_id, seq)?;
        if at.checked_add(len).is_none_or(|end| end > sup.ring_blocks) {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()? * BLOCK];
        source.run(BlockNo(sup.ring_first + at), &mut bytes);
        let hash = open_record(&bytes, prev)?.hash;
        Some(Found { at, bytes, hash })
    })
}

/// Why there is no further record. What a power cut leaves is of the last flush; a block that was stable and does not
/// match its digest is damage, and so is a gap with a whole record behind it: one record is in flight at a time.
fn ending(source: &Source, sup: &FsSuper, pos: u64, seq: u64, findings: &mut Findings) {
    if let Some(later) = later(source, sup, pos, seq) {
        let text = format!(
            "record {seq} is damaged, record {later} behind it is whole: they and what is between are lost"
        );
        return findings.lose("log", text);
    }
    let bad = source.bad();
    let is_bad = |block: u64| matches!(bad.get(&block), Some(Bad::Rotten | Bad::Unknown));
    for at in places(pos) {
        let mut first = vec![0; BLOCK];
        let block = sup.ring_first.saturating_add(at);
        source.block(BlockNo(block), &mut first);
        let Some(len) = record_len(&first, sup.log_id, seq) else {
            if is_bad(block) && at == pos {
                findings
                    .lose("log", format!("block {block}, where record {seq} would begin, is not readable"));
            }
            continue;
        };
        let end = block.saturating_add(len.min(sup.ring_blocks));
        if (block..end).any(is_bad) {
            findings.lose("log", format!("record {seq} is not readable: it is lost"));
        }
    }
}

/// The highest number of a whole record that does not follow the chain. A whole record `seq` at its place is of
/// another history, as are those behind it.
fn later(source: &Source, sup: &FsSuper, pos: u64, seq: u64) -> Option<u64> {
    let claim = |at: u64| {
        let mut first = vec![0; BLOCK];
        source.block(BlockNo(sup.ring_first.saturating_add(at)), &mut first);
        record_claim(&first, sup.log_id)
    };
    let is_whole = |at: u64, len: u64| {
        let inside = at.checked_add(len).is_some_and(|end| end <= sup.ring_blocks);
        let mut bytes = vec![0; if inside { len as usize * BLOCK } else { 0 }];
        source.run(BlockNo(sup.ring_first.saturating_add(at)), &mut bytes);
        inside && is_whole_record(&bytes)
    };
    if places(pos)
        .into_iter()
        .any(|at| claim(at).is_some_and(|(number, len)| number == seq && is_whole(at, len)))
    {
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

    #[test]
    fn a_record_is_looked_for_at_its_place_and_at_the_start() {
        assert_eq!(places(0), [0]);
        assert_eq!(places(7), [7, 0]);
    }

    #[test]
    fn operations_that_are_none_are_told() {
        let record = Record { seq: 1, ops: vec![9, 9], payload: Vec::new() };
        assert!(!record.each_op(|_| {}));
        assert!(Record { seq: 1, ops: Vec::new(), payload: Vec::new() }.each_op(|_| {}));
    }
}
