//! Where the blocks of a file lie: looking up, mapping, cutting.
//!
//! Decides how runs of file blocks become extent records. Does not read or write data. Invariants: extents of one
//! inode never overlap; blocks that leave a file are freed by the same change that unmaps them.

use crate::base::{BlockNo, Ino};
use crate::format::{ExtentRec, InodeRec, TableId, key_ino, key_pair, second_of_key};

use super::FsError;
use super::core::{Change, Core};
use super::data::BLOCK;
use super::overlay::Layers;
use super::store::corrupt;

/// More blocks than any image or file has.
const BLOCKS_MAX: u64 = 1 << 52;

/// What lies at a file block, and for how many blocks from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Hole { count: u64 },
    Mapped { start: BlockNo, count: u64, unwritten: bool },
}

impl Piece {
    pub(super) fn count(self) -> u64 {
        match self {
            Piece::Hole { count } | Piece::Mapped { count, .. } => count,
        }
    }
}

/// One extent with its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) at: u64,
    pub(super) rec: ExtentRec,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.at.saturating_add(u64::from(self.rec.count))
    }
}

fn decode(ino: Ino, key: &[u8], value: &[u8]) -> Result<Extent, FsError> {
    let extent = second_of_key(key).zip(ExtentRec::decode(value)).map(|(at, rec)| Extent { at, rec });
    // Sums of such numbers do not overflow; what lies outside the volume is refused by whoever reads or writes there.
    let can_be = |extent: &Extent| extent.at < BLOCKS_MAX && extent.rec.start.0 < BLOCKS_MAX;
    extent.filter(can_be).ok_or_else(|| corrupt(format!("inode {}: bad extent record", ino.0)))
}

/// The extents that touch `[from, to)`, in order, at most `max`.
pub(super) fn extents_in(
    layers: &Layers<'_>,
    ino: Ino,
    from: u64,
    to: u64,
    max: usize,
) -> Result<Vec<Extent>, FsError> {
    let mut found = Vec::new();
    let before = layers.last_at_or_before(TableId::Extents, &key_pair(ino, 0), &key_pair(ino, from))?;
    let mut start = from;
    if let Some((key, value)) = before {
        let extent = decode(ino, &key, &value)?;
        if extent.end() > from && extent.at < to {
            start = extent.end();
            found.push(extent);
        }
    }
    if start < to && found.len() < max {
        found.append(&mut extents_from(layers, ino, start, to, max - found.len())?);
    }
    Ok(found)
}

/// The extents that begin in `[from, to)`, in order, at most `max`.
fn extents_from(
    layers: &Layers<'_>,
    ino: Ino,
    from: u64,
    to: u64,
    max: usize,
) -> Result<Vec<Extent>, FsError> {
    let mut found = Vec::new();
    layers.scan(TableId::Extents, &key_pair(ino, from), &key_pair(ino, to), |key, value| {
        found.push(decode(ino, key, value)?);
        Ok(found.len() < max)
    })?;
    Ok(found)
}

/// A range of a file that loses its blocks step by step. What is behind `at` has none any more: a step does not look at
/// it again, or cutting many extents would take the square of their number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) at: u64,
    to: u64,
    begun: bool,
}

impl Cut {
    pub(super) fn new(from: u64, to: u64) -> Cut {
        Cut { at: from, to, begun: false }
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.to
    }

    /// The next extents, at most `max`; moves behind them.
    fn step(&mut self, layers: &Layers<'_>, ino: Ino, max: usize) -> Result<Vec<Extent>, FsError> {
        let found = match self.begun {
            true => extents_from(layers, ino, self.at, self.to, max)?,
            false => extents_in(layers, ino, self.at, self.to, max)?,
        };
        self.begun = true;
        self.at = if found.len() < max { self.to } else { found[max - 1].end().min(self.to) };
        Ok(found)
    }
}

/// What lies at file block `at`, looking no further than `to`.
pub(super) fn piece_at(layers: &Layers<'_>, ino: Ino, at: u64, to: u64) -> Result<Piece, FsError> {
    let Some(extent) = extents_in(layers, ino, at, to, 1)?.first().copied() else {
        return Ok(Piece::Hole { count: to - at });
    };
    if extent.at > at {
        return Ok(Piece::Hole { count: extent.at - at });
    }
    let start = extent.rec.start.plus(at - extent.at);
    let count = extent.end().min(to) - at;
    Ok(Piece::Mapped { start, count, unwritten: extent.rec.unwritten })
}

/// All pieces of `[from, to)`.
pub(super) fn pieces(
    layers: &Layers<'_>,
    ino: Ino,
    from: u64,
    to: u64,
) -> Result<Vec<(u64, Piece)>, FsError> {
    let mut found = Vec::new();
    let mut at = from;
    for extent in extents_in(layers, ino, from, to, usize::MAX)? {
        if extent.at > at {
            found.push((at, Piece::Hole { count: extent.at - at }));
            at = extent.at;
        }
        let end = extent.end().min(to);
        let start = extent.rec.start.plus(at - extent.at);
        found.push((at, Piece::Mapped { start, count: end - at, unwritten: extent.rec.unwritten }));
        at = end;
    }
    if at < to {
        found.push((at, Piece::Hole { count: to - at }));
    }
    Ok(found)
}

impl Core {
    /// Unmaps the next extents of a cut, at most `max`; freed blocks go into the change unless they lie in `keep`.
    /// Answers how many blocks left the file.
    pub(super) fn carve(
        &self,
        change: &mut Change,
        ino: Ino,
        cut: &mut Cut,
        max: usize,
        keep: Option<(BlockNo, u64)>,
    ) -> Result<u64, FsError> {
        let (from, to) = (cut.at, cut.to);
        let mut gone = 0;
        for extent in cut.step(&self.layers(Some(&change.overlay)), ino, max)? {
            let (low, high) = (extent.at.max(from), extent.end().min(to));
            change.overlay.del(TableId::Extents, key_pair(ino, extent.at));
            if extent.at < low {
                put_extent(change, ino, extent.at, extent.rec.start, low - extent.at, extent.rec.unwritten)?;
            }
            if extent.end() > high {
                let start = extent.rec.start.plus(high - extent.at);
                put_extent(change, ino, high, start, extent.end() - high, extent.rec.unwritten)?;
            }
            let start = extent.rec.start.plus(low - extent.at);
            let kept = keep.is_some_and(|(first, count)| start >= first && start.0 < first.0 + count);
            if !kept {
                change.frees.push((start, high - low));
            }
            gone += high - low;
        }
        Ok(gone)
    }

    /// Maps `[at, at + count)` of the file to `start`. `fresh` blocks leave the free space with this change; others
    /// are the file's own (an unwritten run that has been written, or the reverse).
    pub(super) fn map(
        &self,
        ino: Ino,
        at: u64,
        count: u64,
        start: BlockNo,
        how: MapHow,
    ) -> Result<Change, FsError> {
        let mut change = Change::default();
        let mut cut = Cut::new(at, at + count);
        let gone = self.carve(&mut change, ino, &mut cut, usize::MAX, Some((start, count)))?;
        if how.fresh {
            change.allocs.push((start, count));
        }
        let (mut low, mut first, mut len) = (at, start, count);
        let layers = self.layers(Some(&change.overlay));
        let neighbours = extents_in(&layers, ino, at.saturating_sub(1), at + count + 1, 4)?;
        let mut merged = Vec::new();
        for near in neighbours {
            let joined = u64::from(near.rec.count) + len;
            if near.rec.unwritten != how.unwritten || joined > u64::from(u32::MAX) {
                continue;
            }
            if near.end() == low && near.rec.start.plus(u64::from(near.rec.count)) == first {
                (low, first, len) = (near.at, near.rec.start, joined);
            } else if near.at == low + len && first.plus(len) == near.rec.start {
                len = joined;
                merged.push(near.at);
            }
        }
        for key in merged {
            change.overlay.del(TableId::Extents, key_pair(ino, key));
        }
        put_extent(&mut change, ino, low, first, len, how.unwritten)?;
        self.count_blocks(&mut change, ino, count, gone)?;
        Ok(change)
    }

    /// Adjusts the block count of an inode inside a change.
    pub(super) fn count_blocks(
        &self,
        change: &mut Change,
        ino: Ino,
        plus: u64,
        minus: u64,
    ) -> Result<(), FsError> {
        if plus != minus {
            self.edit_inode(change, ino, |rec| {
                rec.blocks = rec.blocks.saturating_add(plus).saturating_sub(minus);
            })?;
        }
        Ok(())
    }

    /// The file block with the recorded end, if the file grows out of it. Its new content goes through the log: the
    /// record of the new size may be stable before anything that is written home beside it.
    pub(super) fn growing_tail(&self, ino: Ino) -> Result<Option<u64>, FsError> {
        if self.rules().tail_goes_home {
            return Ok(None);
        }
        let Some(live) = self.files.get(&ino).map(|file| file.size) else { return Ok(None) };
        let rec = self.recorded_inode(&self.layers(None), ino)?;
        let size = rec.map_or(0, |rec| rec.size);
        Ok((live > size && !size.is_multiple_of(BLOCK)).then_some(size / BLOCK))
    }

    /// Changes the inode record inside a change.
    pub(super) fn edit_inode(
        &self,
        change: &mut Change,
        ino: Ino,
        edit: impl FnOnce(&mut InodeRec),
    ) -> Result<(), FsError> {
        let rec = super::op::read_inode(&self.layers(Some(&change.overlay)), ino)?;
        let mut rec = rec.ok_or(FsError::Stale)?;
        edit(&mut rec);
        rec.txn = self.open_seq();
        change.overlay.put(TableId::Inodes, key_ino(ino), rec.encode().into());
        Ok(())
    }
}

/// How blocks come into a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MapHow {
    pub(super) fresh: bool,
    pub(super) unwritten: bool,
}

fn put_extent(
    change: &mut Change,
    ino: Ino,
    at: u64,
    start: BlockNo,
    count: u64,
    unwritten: bool,
) -> Result<(), FsError> {
    let count = u32::try_from(count).map_err(|_| FsError::FileTooLarge)?;
    let rec = ExtentRec { start, count, unwritten };
    change.overlay.put(TableId::Extents, key_pair(ino, at), rec.encode().into());
    Ok(())
}
