//! The ring of log records: where the next one goes, and reading them back.
//!
//! Decides positions and where the log ends. Does not know what the operations mean. Invariants: a record is one run
//! of blocks; a checkpoint frees everything up to its record at once; a record never covers one that is not
//! checkpointed; the first miss of magic, log id, sequence or hash chain is the end (W14), unless a later record shows
//! that the missing one was acknowledged.

use crate::base::{BlockNo, PAGE, Pages};
use crate::format::{ChainHash, is_whole_record, open_record, record_claim, record_len, record_prev};
use crate::image::{Blocks, BlocksError};

use super::FsError;
use super::rules::Rules;

/// Blocks read at once in the search behind the end.
const SLICE: u64 = 256;

/// Fill levels of the ring, in blocks from its start.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    pub(super) first: u64,
    pub(super) blocks: u64,
    /// Where the next record goes unless it would not fit before the end.
    pub(super) head: u64,
    /// First block that is still needed; `used` tells a full ring from an empty one.
    pub(super) tail: u64,
}

impl Ring {
    /// Blocks that are still needed, with what wrapping skipped.
    pub(super) fn used(&self) -> u64 {
        (self.head + self.blocks - self.tail) % self.blocks
    }

    /// Largest record, in bytes: an eighth of the ring.
    pub(super) fn record_max(&self) -> u64 {
        self.blocks / 8 * BlockNo::SIZE as u64
    }

    /// No commit seals before a checkpoint is done. What is left then holds, each with as much skipped at the wrap, the
    /// record of a commit, of a checkpoint that starts beside it, and of the checkpoint that makes room.
    pub(super) fn is_tight(&self) -> bool {
        self.used() > self.blocks * 7 / 16
    }

    /// Position for a record of `need` blocks, or `None` if it would cover what is still needed.
    pub(super) fn place(&self, need: u64) -> Option<u64> {
        let at = if self.head + need <= self.blocks { self.head } else { 0 };
        let skipped = if at == 0 && self.head != 0 { self.blocks - self.head } else { 0 };
        (self.used() + skipped + need < self.blocks).then_some(at)
    }

    /// Where the head is behind a record at `at`.
    pub(super) fn after(&self, at: u64, blocks: u64) -> u64 {
        (at + blocks) % self.blocks
    }
}

/// A record read back.
pub(super) struct Found {
    pub(super) at: u64,
    pub(super) bytes: Pages,
    /// The hash that it follows.
    pub(super) prev: ChainHash,
    pub(super) hash: ChainHash,
}

/// Reads a ring from one record to the next a slice at a time: a full log of small records would be thousands of reads.
#[derive(Default)]
pub(super) struct Reader {
    at: u64,
    /// Absent where a block of the slice is unreadable: then each is asked for by itself.
    slice: Option<Pages>,
    blocks: u64,
}

impl Reader {
    fn read(
        &mut self,
        blocks: &dyn Blocks,
        ring: &Ring,
        at: u64,
        count: u64,
    ) -> Result<Option<Pages>, FsError> {
        if count > SLICE || at >= ring.blocks {
            return read(blocks, ring, at, count);
        }
        if at < self.at || at.saturating_add(count) > self.at + self.blocks {
            self.at = at;
            self.blocks = (ring.blocks - at).min(SLICE);
            self.slice = read(blocks, ring, at, self.blocks)?;
        }
        let skip = (at - self.at) as usize * PAGE;
        match self.slice.as_ref().and_then(|slice| slice.get(skip..skip + count as usize * PAGE)) {
            Some(bytes) => Ok(Some(Pages::copy_of(bytes))),
            None => read(blocks, ring, at, count),
        }
    }
}

/// The record `seq` behind `prev`, at `head` or, if the writer wrapped, at the start of the ring.
pub(super) fn find_record(
    blocks: &dyn Blocks,
    reader: &mut Reader,
    ring: &Ring,
    log_id: u128,
    seq: u64,
    prev: &ChainHash,
    rules: Rules,
) -> Result<Option<Found>, FsError> {
    for at in [ring.head, 0] {
        let Some(first) = reader.read(blocks, ring, at, 1)? else { continue };
        let Some(len) = record_len(&first, log_id, seq) else { continue };
        let Some(bytes) = reader.read(blocks, ring, at, len)? else { continue };
        let prev = if rules.ignore_chain { record_prev(&bytes).unwrap_or(*prev) } else { *prev };
        if let Some(hash) = open_record(&bytes, &prev).map(|record| record.hash) {
            return Ok(Some(Found { at, bytes, prev, hash }));
        }
    }
    Ok(None)
}

/// Blocks of the ring; `None` if they do not lie in it or match no digest, as one that the power cut tore.
fn read(blocks: &dyn Blocks, ring: &Ring, at: u64, count: u64) -> Result<Option<Pages>, FsError> {
    if at.checked_add(count).is_none_or(|end| end > ring.blocks) {
        return Ok(None);
    }
    let mut bytes = Pages::zeroed(count as usize);
    match blocks.read(BlockNo(ring.first + at), &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(BlocksError::Rotten(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the log ends in front of number `seq`: the highest number of a whole record that lies in the ring, if there is
/// a higher one. One record is in flight at a time, so `seq` was stable before that one was written, and is damaged
/// now. A whole record `seq` of another history at its place says that the later ones are of that history too.
pub(super) fn find_later(
    blocks: &dyn Blocks,
    ring: &Ring,
    log_id: u128,
    seq: u64,
) -> Result<Option<u64>, FsError> {
    for at in [ring.head, 0] {
        let Some(first) = read(blocks, ring, at, 1)? else { continue };
        let Some(len) = record_len(&first, log_id, seq) else { continue };
        if read(blocks, ring, at, len)?.is_some_and(|bytes| is_whole_record(&bytes)) {
            return Ok(None);
        }
    }
    let (mut at, mut highest) = (0, seq);
    while at < ring.blocks {
        let count = (ring.blocks - at).min(SLICE);
        // One block that cannot be read hides no others.
        let slice = read(blocks, ring, at, count)?;
        for n in 0..count {
            let alone = if slice.is_none() { read(blocks, ring, at + n, 1)? } else { None };
            let first =
                slice.as_deref().map(|slice| &slice[n as usize * PAGE..][..PAGE]).or(alone.as_deref());
            let claim =
                first.and_then(|first| record_claim(first, log_id)).filter(|(number, _)| *number > highest);
            if let Some((number, len)) = claim
                && read(blocks, ring, at + n, len)?.is_some_and(|bytes| is_whole_record(&bytes))
            {
                highest = number;
            }
        }
        at += count;
    }
    Ok((highest > seq).then_some(highest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_never_covers_what_is_needed() {
        let mut ring = Ring { first: 100, blocks: 16, head: 10, tail: 4 };
        assert_eq!(ring.used(), 6);
        assert_eq!(ring.place(6), Some(10));
        assert_eq!(ring.place(7), None, "at 0 it would cover 4..7");
        ring.tail = 9;
        assert_eq!(ring.place(7), Some(0));
        ring.tail = 10;
        assert_eq!((ring.used(), ring.place(16)), (0, None));
    }
}
