//! Changing a file's size and its holes; giving back a file that nobody has any more.
//!
//! Decides in which steps blocks leave a file. Invariants: a zeroed edge enters the log as payload of the very
//! transaction that changes size or map (W22); a cut of many extents goes in steps, each consistent, remembered in the
//! orphan table (U8).

use crate::base::{BlockNo, Ino};
use crate::format::{FileKind, TableId, Time, key_ino, key_name};

use super::FsError;
use super::core::{Change, Core, Page};
use super::data::{BLOCK, FILE_BYTES_MAX};
use super::mapping::{Cut, MapHow, Piece, piece_at};
use super::store::Store;

/// Extents cut in one transaction.
const STEP: usize = 500;
/// Attributes removed in one transaction, whose names may be long.
const NAMES_STEP: usize = 100;

/// What `fallocate` does to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Blocks for holes; the file grows to the end of the range.
    Allocate,
    /// The same without growing.
    AllocateKeepSize,
    /// Blocks leave the range; it reads as zeros.
    PunchHole,
    /// The range reads as zeros and has blocks; the file grows.
    ZeroRange,
    ZeroRangeKeepSize,
}

/// Content of a block that is cut in the middle, loaded before the lock is taken.
type Edge = Option<(u64, Page)>;

impl Core {
    /// Drops dirty pages in `[from, to)`.
    fn drop_pages(&mut self, ino: Ino, from: u64, to: u64) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let doomed: Vec<u64> = file.pages.range(from..to).map(|(at, _)| *at).collect();
        let mut promised = 0;
        for at in &doomed {
            promised += u64::from(file.pages.remove(at).is_some_and(|page| page.reserved));
        }
        self.dirty_pages -= doomed.len();
        self.space.unreserve(promised);
    }

    /// Puts the new content of a cut block where it belongs: into the log if the block has a home, else the buffer.
    fn put_edge(&mut self, ino: Ino, edge: Edge) -> Result<(), FsError> {
        let Some((at, page)) = edge else { return Ok(()) };
        match piece_at(&self.layers(None), ino, at, at + 1)? {
            Piece::Mapped { start, unwritten: false, .. } => {
                self.drop_pages(ino, at, at + 1);
                self.put_payload(start, page);
            }
            Piece::Mapped { .. } | Piece::Hole { .. } => {
                if let Some(dirty) = self.files.get_mut(&ino).and_then(|file| file.pages.get_mut(&at)) {
                    dirty.page = page;
                }
            }
        }
        Ok(())
    }

    /// Unmaps and frees the next extents of a cut, a step of them.
    fn free_step(
        &mut self,
        ino: Ino,
        cut: &mut Cut,
        edit: impl FnOnce(&mut crate::format::InodeRec),
    ) -> Result<(), FsError> {
        let mut change = Change::default();
        let gone = self.carve(&mut change, ino, cut, STEP, None)?;
        self.edit_inode(&mut change, ino, |rec| {
            rec.blocks = rec.blocks.saturating_sub(gone);
            edit(rec);
        })?;
        self.apply(change);
        Ok(())
    }

    /// Forgets the buffer entry of a file that has nothing left to write.
    fn settle_entry(&mut self, ino: Ino, size: u64) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.size = size;
            if file.pages.is_empty() {
                self.files.remove(&ino);
            }
        }
    }
}

impl Store {
    /// Truncates or grows a regular file.
    pub fn set_size(&self, ino: Ino, size: u64, now: Time) -> Result<(), FsError> {
        if size > FILE_BYTES_MAX {
            return Err(FsError::FileTooLarge);
        }
        let _shard = self.shards.lock(ino);
        self.throttle()?;
        let live = {
            let core = self.core_read();
            core.writable()?;
            core.live_file(ino)?.size
        };
        if size >= live {
            return self.grow(ino, live, size, now);
        }
        let more = self.shrink(ino, size, now)?;
        if more { self.cut_behind_end(ino) } else { Ok(()) }
    }

    fn grow(&self, ino: Ino, live: u64, size: u64, now: Time) -> Result<(), FsError> {
        if size > live {
            self.prepare_extend(ino, live)?;
        }
        let mut core = self.core_write();
        core.writable()?;
        let dirty = core.files.get(&ino).is_some_and(|file| !file.pages.is_empty());
        if dirty {
            // The durable size follows the data: no crash shows the new size without it.
            if let Some(file) = core.files.get_mut(&ino) {
                file.size = size;
                file.times = Some(now);
            }
            return Ok(());
        }
        let mut change = Change::default();
        core.edit_inode(&mut change, ino, |rec| {
            rec.size = size;
            (rec.mtime, rec.ctime) = (now, now);
        })?;
        core.apply(change);
        core.settle_entry(ino, size);
        Ok(())
    }

    /// The first step of a truncation; answers whether extents behind the end are left.
    fn shrink(&self, ino: Ino, size: u64, now: Time) -> Result<bool, FsError> {
        let _token = self.tokens.acquire(ino);
        let (tail, skip) = (size / BLOCK, (size % BLOCK) as usize);
        let edge = self.load_edge(ino, tail, skip, BlockNo::SIZE)?;
        if self.rules().edge_goes_home {
            self.edge_home(ino, edge.as_ref())?;
        }
        let mut core = self.core_write();
        core.writable()?;
        let from = size.div_ceil(BLOCK);
        core.drop_pages(ino, from, u64::MAX);
        core.put_edge(ino, edge)?;
        let mut cut = Cut::new(from, u64::MAX);
        let dirty = core.files.get(&ino).is_some_and(|file| !file.pages.is_empty());
        core.free_step(ino, &mut cut, |rec| {
            // With nothing left to write the size is final; else it follows the data.
            rec.size = if dirty { rec.size.min(size) } else { size };
            (rec.mtime, rec.ctime) = (now, now);
        })?;
        if !cut.is_done() {
            let mut change = Change::default();
            let key = key_ino(ino);
            if core.layers(None).get(TableId::Orphans, &key)?.is_none() {
                change.overlay.put(TableId::Orphans, key, [1u8].as_slice().into());
            }
            core.apply(change);
        }
        if let Some(file) = core.files.get_mut(&ino) {
            file.times = None;
        }
        if size == 0 {
            core.rewrites.insert(ino);
        }
        core.settle_entry(ino, size);
        Ok(!cut.is_done())
    }

    /// A rule switched off: a cut block changes where it lies, whatever becomes of the record.
    fn edge_home(&self, ino: Ino, edge: Option<&(u64, Page)>) -> Result<(), FsError> {
        let Some((at, page)) = edge else { return Ok(()) };
        let piece = piece_at(&self.core_read().layers(None), ino, *at, at + 1)?;
        match piece {
            Piece::Mapped { start, unwritten: false, .. } => Ok(self.blocks().write(start, &page[..])?),
            Piece::Mapped { .. } | Piece::Hole { .. } => Ok(()),
        }
    }

    /// Finishes a truncation of many extents. The caller keeps writers out.
    pub(super) fn cut_behind_end(&self, ino: Ino) -> Result<(), FsError> {
        let size = self.core_read().live_file(ino)?.size;
        let mut cut = Cut::new(size.div_ceil(BLOCK), u64::MAX);
        loop {
            self.throttle()?;
            let _token = self.tokens.acquire(ino);
            let mut core = self.core_write();
            core.writable()?;
            core.free_step(ino, &mut cut, |_| {})?;
            if cut.is_done() {
                let mut change = Change::default();
                let mark = core.layers(None).get(TableId::Orphans, &key_ino(ino))?;
                if mark.is_some_and(|mark| mark.first() == Some(&1)) {
                    change.overlay.del(TableId::Orphans, key_ino(ino));
                }
                core.apply(change);
                return Ok(());
            }
        }
    }

    /// Block `at` with the bytes `[from, to)` zeroed, if that leaves some.
    fn load_edge(&self, ino: Ino, at: u64, from: usize, to: usize) -> Result<Edge, FsError> {
        if from == 0 && to == BlockNo::SIZE || from >= to {
            return Ok(None);
        }
        let mut page = self.load_page(ino, at)?;
        Page::make_mut(&mut page)[from..to].fill(0);
        Ok(Some((at, page)))
    }

    /// Allocates, punches or zeroes a range.
    pub fn fallocate(
        &self,
        ino: Ino,
        how: Fallocate,
        offset: u64,
        len: u64,
        now: Time,
    ) -> Result<(), FsError> {
        let end =
            offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(FsError::FileTooLarge)?;
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let _shard = self.shards.lock(ino);
        self.throttle()?;
        let live = self.core_read().live_file(ino)?.size;
        if matches!(how, Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize) {
            self.punch(ino, offset, end, now)?;
        }
        if how != Fallocate::PunchHole {
            self.allocate(ino, offset, end)?;
        }
        if matches!(how, Fallocate::Allocate | Fallocate::ZeroRange) && end > live {
            self.grow(ino, live, end, now)?;
        }
        self.core_write().record_times(ino, now)
    }

    /// A punch of very many extents goes on behind a seal: a record is bounded, and each part is a hole of its own.
    fn punch(&self, ino: Ino, offset: u64, end: u64, now: Time) -> Result<(), FsError> {
        let mut from = offset;
        while let Some(rest) = self.punch_part(ino, from, end, now)? {
            from = rest * BLOCK;
            self.throttle()?;
        }
        Ok(())
    }

    /// Punches `[offset, end)` as far as one record takes; the first block that is left.
    fn punch_part(&self, ino: Ino, offset: u64, end: u64, now: Time) -> Result<Option<u64>, FsError> {
        let _token = self.tokens.acquire(ino);
        let (head, tail) = (offset / BLOCK, end / BLOCK);
        let (skip, stop) = ((offset % BLOCK) as usize, (end % BLOCK) as usize);
        let edges = if head == tail {
            [self.load_edge(ino, head, skip, stop)?, None]
        } else {
            let first = if skip > 0 { self.load_edge(ino, head, skip, BlockNo::SIZE)? } else { None };
            [first, self.load_edge(ino, tail, 0, stop)?]
        };
        let from = offset.div_ceil(BLOCK);
        let mut cut = Cut::new(from, tail);
        let mut core = self.core_write();
        core.writable()?;
        for edge in edges {
            core.put_edge(ino, edge)?;
        }
        if from < tail {
            core.drop_pages(ino, from, tail);
        }
        // With the bytes of the edges: no step below need find an extent.
        core.record_times(ino, now)?;
        while !cut.is_done() {
            core.free_step(ino, &mut cut, |_| {})?;
            if core.is_record_full() && !cut.is_done() {
                return Ok(Some(cut.at));
            }
        }
        Ok(None)
    }

    fn allocate(&self, ino: Ino, offset: u64, end: u64) -> Result<(), FsError> {
        let (first, last) = super::data::block_span(offset, end);
        let mut tries = 0;
        let mut at = first;
        while at < last {
            self.throttle()?;
            let token = self.tokens.acquire(ino);
            let mut core = self.core_write();
            core.writable()?;
            match core.allocate_step(ino, at, last)? {
                Some(next) if self.admit(&mut core, 4, 256).is_ok() => {
                    at = next;
                    tries = 0;
                }
                _ if tries < 3 => {
                    tries += 1;
                    drop(core);
                    drop(token);
                    self.relieve((last - at).min(1 << 18))?;
                }
                _ => return Err(FsError::NoSpace),
            }
        }
        Ok(())
    }

    /// Position of the next byte that has data, at or after `offset`.
    pub fn seek_data(&self, ino: Ino, offset: u64) -> Result<u64, FsError> {
        self.seek(ino, offset, true)?.ok_or(FsError::NoData)
    }

    /// Position of the next hole, at or after `offset`; the end of the file is one.
    pub fn seek_hole(&self, ino: Ino, offset: u64) -> Result<u64, FsError> {
        let size = self.core_read().live_file(ino)?.size;
        Ok(self.seek(ino, offset, false)?.unwrap_or(size))
    }

    fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<Option<u64>, FsError> {
        let core = self.core_read();
        let size = core.live_file(ino)?.size;
        if offset >= size {
            return Err(FsError::NoData);
        }
        let (mut at, last) = super::data::block_span(offset, size);
        let dirty = core.files.get(&ino).map(|file| &file.pages);
        // Piece by piece: whoever walks a file of many extents asks as often as there are some.
        while at < last {
            let piece = piece_at(&core.layers(None), ino, at, last)?;
            let written = matches!(piece, Piece::Mapped { unwritten: false, .. });
            let end = at + piece.count();
            let found = if written {
                data.then_some(at)
            } else if data {
                dirty.and_then(|pages| pages.range(at..end).next()).map(|(at, _)| *at)
            } else {
                (at..end).find(|at| dirty.is_none_or(|pages| !pages.contains_key(at)))
            };
            if let Some(found) = found {
                return Ok(Some((found * BLOCK).max(offset)));
            }
            at = end;
        }
        Ok(None)
    }

    /// Frees an inode that has no name and that nobody has open any more, with all it holds.
    pub fn drop_inode(&self, ino: Ino) -> Result<(), FsError> {
        let _shard = self.shards.lock(ino);
        let mut cut = Cut::new(0, u64::MAX);
        loop {
            self.throttle()?;
            let _token = self.tokens.acquire(ino);
            let _names = self.lock_names();
            let mut core = self.core_write();
            core.writable()?;
            let Some(rec) = core.recorded_inode(&core.layers(None), ino)? else { return Ok(()) };
            if rec.nlink > 0 && rec.kind() != FileKind::Dir {
                return Err(FsError::Invalid);
            }
            core.drop_pages(ino, 0, u64::MAX);
            core.files.remove(&ino);
            core.rewrites.remove(&ino);
            if rec.kind() == FileKind::File && !cut.is_done() {
                core.free_step(ino, &mut cut, |rec| rec.size = 0)?;
                if !cut.is_done() {
                    continue;
                }
            }
            let mut change = Change::default();
            let names = super::core::xattr_names(&core.layers(None), ino)?;
            for name in names.iter().take(NAMES_STEP) {
                change.overlay.del(TableId::Xattrs, key_name(ino, name));
            }
            let last = names.len() <= NAMES_STEP;
            if last {
                change.overlay.del(TableId::Inodes, key_ino(ino));
                change.overlay.del(TableId::Orphans, key_ino(ino));
            }
            core.apply(change);
            if last {
                return Ok(());
            }
        }
    }
}

impl Core {
    /// Gives blocks to the first hole at or after `at`; answers where to go on, or `None` without space.
    fn allocate_step(&mut self, ino: Ino, at: u64, last: u64) -> Result<Option<u64>, FsError> {
        let Piece::Hole { count } = piece_at(&self.layers(None), ino, at, last)? else {
            let piece = piece_at(&self.layers(None), ino, at, last)?;
            return Ok(Some(at + piece.count()));
        };
        let promised = self.promised_in(ino, at, at + count);
        if self.space.available() + promised < count.min(1 << 15) {
            return Ok(None);
        }
        let goal = self.goal_for(ino, at)?;
        let Some((start, got)) = self.space.take(goal, count.min(1 << 15)) else { return Ok(None) };
        let change = self.map(ino, at, got, start, MapHow { fresh: true, unwritten: true })?;
        self.apply(change);
        let promised = self.promised_in(ino, at, at + got);
        self.space.unreserve(promised);
        if let Some(file) = self.files.get_mut(&ino) {
            file.pages.range_mut(at..at + got).for_each(|(_, page)| page.reserved = false);
        }
        Ok(Some(at + got))
    }

    fn promised_in(&self, ino: Ino, from: u64, to: u64) -> u64 {
        let pages = self.files.get(&ino).map(|file| file.pages.range(from..to));
        pages.map_or(0, |pages| pages.filter(|(_, page)| page.reserved).count() as u64)
    }

    /// Where a file's next block would best lie: behind the block before it.
    pub(super) fn goal_for(&self, ino: Ino, at: u64) -> Result<Option<u64>, FsError> {
        if at == 0 {
            return Ok(None);
        }
        Ok(match piece_at(&self.layers(None), ino, at - 1, at)? {
            Piece::Mapped { start, .. } => Some(start.0 + 1),
            Piece::Hole { .. } => None,
        })
    }
}
