//! Records of the intent log: operations and payload blocks under one hash chained to the record before.
//!
//! A record is a run of whole 4 KiB blocks: a 128-byte header, the operations, the home addresses of the payload,
//! padding, then the payload blocks. The hash covers the previous record's hash and everything in the record, so that
//! neither an old record behind a new one nor user data that looks like a record is ever taken for one. The header also
//! names the hash of the record before: a whole record behind a damaged one can be told from nothing at all.
//! Decides the bytes only.

use crate::base::{BlockNo, Pages};

use super::fs_inode::{take_u32, take_u64};
use super::fs_tables::TableId;

const MAGIC: u64 = u64::from_le_bytes(*b"twinLog1");
const VERSION: u32 = 1;
const BLOCK: usize = 4096;
const HEADER: usize = 128;
const PREV_AT: usize = 64;
const HASH_AT: usize = 96;

/// Hash of a record, the link to the next.
pub type ChainHash = [u8; 32];

/// Blocks that a record of this content takes.
pub fn record_blocks(ops_len: usize, payload: usize) -> u64 {
    ((HEADER + ops_len + payload * 8).div_ceil(BLOCK) + payload) as u64
}

/// Makes a record; answers its blocks and its hash.
pub fn seal_record<'a>(
    log_id: u128,
    seq: u64,
    prev: &ChainHash,
    ops: &[u8],
    payload: impl ExactSizeIterator<Item = (BlockNo, &'a [u8; BLOCK])>,
) -> (Pages, ChainHash) {
    let count = payload.len();
    let blocks = record_blocks(ops.len(), count);
    let mut out = Pages::zeroed(blocks as usize);
    let data_at = (blocks as usize - count) * BLOCK;
    out[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..32].copy_from_slice(&log_id.to_le_bytes());
    out[32..40].copy_from_slice(&seq.to_le_bytes());
    out[40..48].copy_from_slice(&blocks.to_le_bytes());
    out[48..56].copy_from_slice(&(ops.len() as u64).to_le_bytes());
    out[56..64].copy_from_slice(&(count as u64).to_le_bytes());
    out[PREV_AT..HASH_AT].copy_from_slice(prev);
    out[HEADER..HEADER + ops.len()].copy_from_slice(ops);
    for (number, (block, data)) in payload.enumerate() {
        let at = HEADER + ops.len() + number * 8;
        out[at..at + 8].copy_from_slice(&block.0.to_le_bytes());
        let at = data_at + number * BLOCK;
        out[at..at + BLOCK].copy_from_slice(data);
    }
    let hash = record_hash(prev, &out);
    out[HASH_AT..HEADER].copy_from_slice(&hash);
    (out, hash)
}

fn record_hash(prev: &ChainHash, record: &[u8]) -> ChainHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prev).update(&record[..HASH_AT]).update(&record[HEADER..]);
    *hasher.finalize().as_bytes()
}

/// Makes the hash of a record right, whatever the record says.
#[cfg(test)]
pub(super) fn seal_raw_record(record: &mut [u8], prev: &ChainHash) {
    let hash = record_hash(prev, record);
    record[HASH_AT..HEADER].copy_from_slice(&hash);
}

/// How many blocks the record that starts with `first` claims to have, if it is number `seq` of this log.
pub fn record_len(first: &[u8], log_id: u128, seq: u64) -> Option<u64> {
    record_claim(first, log_id).filter(|(number, _)| *number == seq).map(|(_, blocks)| blocks)
}

/// Number and blocks that a record of this log claims to have.
pub fn record_claim(first: &[u8], log_id: u128) -> Option<(u64, u64)> {
    let mut at = first;
    let (magic, version, _) = (take_u64(&mut at)?, take_u32(&mut at)?, take_u32(&mut at)?);
    let id = u128::from(take_u64(&mut at)?) | u128::from(take_u64(&mut at)?) << 64;
    let (number, blocks) = (take_u64(&mut at)?, take_u64(&mut at)?);
    (magic == MAGIC && version == VERSION && id == log_id && blocks > 0).then_some((number, blocks))
}

/// The record before, as the header names it.
pub fn record_prev(first: &[u8]) -> Option<ChainHash> {
    first.get(PREV_AT..HASH_AT)?.try_into().ok()
}

/// Whether a record is as it was written, whatever came before it.
pub fn is_whole_record(record: &[u8]) -> bool {
    record_prev(record).is_some_and(|prev| open_record(record, &prev).is_some())
}

/// A verified record.
pub struct LogRecord<'a> {
    pub ops: &'a [u8],
    pub payload: Vec<(BlockNo, &'a [u8; BLOCK])>,
    pub hash: ChainHash,
}

/// Verifies the record against the one before; `None` ends the log.
pub fn open_record<'a>(record: &'a [u8], prev: &ChainHash) -> Option<LogRecord<'a>> {
    let mut at = record.get(..HEADER)?.get(40..64)?;
    let (blocks, ops_len, count) = (take_u64(&mut at)?, take_u64(&mut at)?, take_u64(&mut at)?);
    let hash = record_hash(prev, record);
    if hash[..] != record[HASH_AT..HEADER] {
        return None;
    }
    let (ops_len, count) = (usize::try_from(ops_len).ok()?, usize::try_from(count).ok()?);
    if ops_len > record.len() || count > record.len() || record_blocks(ops_len, count) != blocks {
        return None;
    }
    if record.len() as u64 != blocks * BLOCK as u64 {
        return None;
    }
    let ops = &record[HEADER..HEADER + ops_len];
    let mut homes = &record[HEADER + ops_len..];
    let (data, _) = record[record.len() - count * BLOCK..].as_chunks::<BLOCK>();
    let mut payload = Vec::with_capacity(count);
    for block in data {
        payload.push((BlockNo(take_u64(&mut homes)?), block));
    }
    Some(LogRecord { ops, payload, hash })
}

/// One step inside a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOp<'a> {
    /// Put (`Some`) or delete (`None`) in a table.
    Set { table: TableId, key: &'a [u8], value: Option<&'a [u8]> },
    /// Blocks leave the free space.
    Alloc { start: BlockNo, count: u64 },
    /// Blocks return to the free space once this record is checkpointed.
    Free { start: BlockNo, count: u64 },
}

impl LogOp<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            LogOp::Set { table, key, value } => {
                out.push(if value.is_some() { 1 } else { 2 });
                out.push(*table as u8);
                out.extend_from_slice(&(key.len() as u16).to_le_bytes());
                out.extend_from_slice(&(value.map_or(0, <[u8]>::len) as u32).to_le_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(value.unwrap_or_default());
            }
            LogOp::Alloc { start, count } => encode_run(3, *start, *count, out),
            LogOp::Free { start, count } => encode_run(4, *start, *count, out),
        }
    }

    /// Takes the next step off `at`; `None` at the end or at bytes that are none.
    pub fn decode<'a>(at: &mut &'a [u8]) -> Option<LogOp<'a>> {
        let (tag, rest) = at.split_first()?;
        *at = rest;
        match tag {
            1 | 2 => {
                let (head, rest) = at.split_first_chunk::<7>()?;
                let table = TableId::from_byte(head[0])?;
                let key_len = usize::from(u16::from_le_bytes([head[1], head[2]]));
                let value_len = u32::from_le_bytes([head[3], head[4], head[5], head[6]]) as usize;
                let (key, rest) = rest.split_at_checked(key_len)?;
                let (value, rest) = rest.split_at_checked(value_len)?;
                *at = rest;
                Some(LogOp::Set { table, key, value: (*tag == 1).then_some(value) })
            }
            3 | 4 => {
                let (start, count) = (BlockNo(take_u64(at)?), take_u64(at)?);
                Some(match tag {
                    3 => LogOp::Alloc { start, count },
                    _ => LogOp::Free { start, count },
                })
            }
            _ => None,
        }
    }
}

fn encode_run(tag: u8, start: BlockNo, count: u64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&start.0.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_behind_its_predecessor() {
        let mut ops = Vec::new();
        let steps = [
            LogOp::Set { table: TableId::Xattrs, key: b"key", value: Some(b"value") },
            LogOp::Set { table: TableId::Dirents, key: b"gone", value: None },
            LogOp::Alloc { start: BlockNo(5), count: 6 },
            LogOp::Free { start: BlockNo(7), count: 8 },
        ];
        steps.iter().for_each(|step| step.encode(&mut ops));
        let page = [0xAB; BLOCK];
        let (bytes, hash) = seal_record(42, 7, &[1; 32], &ops, [(BlockNo(99), &page)].into_iter());
        assert_eq!(record_len(&bytes, 42, 7), Some(2));
        assert_eq!((record_len(&bytes, 42, 8), record_len(&bytes, 43, 7)), (None, None));
        let record = open_record(&bytes, &[1; 32]).unwrap();
        assert_eq!((record.hash, record.payload[0].0), (hash, BlockNo(99)));
        let mut at = record.ops;
        for step in steps {
            assert_eq!(LogOp::decode(&mut at), Some(step));
        }
        assert!(at.is_empty());
        assert!(open_record(&bytes, &[2; 32]).is_none(), "another predecessor");
        assert!((0..bytes.len()).step_by(7).all(|len| open_record(&bytes[..len], &[1; 32]).is_none()));
        assert_eq!((record_claim(&bytes, 42), record_prev(&bytes)), (Some((7, 2)), Some([1; 32])));
        assert!(is_whole_record(&bytes));
        for at in [0, 33, 130, 140, 5000] {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert!(open_record(&torn, &[1; 32]).is_none(), "byte {at}");
            assert!(!is_whole_record(&torn), "byte {at}");
        }
    }
}
