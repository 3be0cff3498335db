//! File data as callers see it: read and write through the dirty buffers.
//!
//! Decides which content answers a read: dirty buffer, else payload in the log, else the block at home, else zeros. A
//! write only copies and sets space aside, so that a full disk is told at once and never later. Invariants: nothing
//! behind the live size is ever shown; a block freed while it is being read is not reused before the read is done.

use crate::base::{BlockNo, Ino, Pages};
use crate::format::{FileKind, InodeRec, TableId, Time, key_ino};

use super::FsError;
use super::buffers::DirtyPage;
use super::commit::LARGE;
use super::core::{Core, Page};
use super::locks::lock;
use super::mapping::{Extent, Piece, extents_in, pieces};
use super::store::Store;

pub(super) const BLOCK: u64 = BlockNo::SIZE as u64;
/// Largest file: block numbers of a file stay far below the limits of the extent records.
pub const FILE_BYTES_MAX: u64 = 1 << 46;

/// File blocks that hold the bytes `[offset, end)`.
pub(super) fn block_span(offset: u64, end: u64) -> (u64, u64) {
    (offset / BLOCK, end.div_ceil(BLOCK))
}

impl Core {
    /// The live record of a regular file.
    pub(super) fn live_file(&self, ino: Ino) -> Result<InodeRec, FsError> {
        let rec = self.live_inode(&self.layers(None), ino)?.ok_or(FsError::Stale)?;
        match rec.kind() {
            FileKind::File => Ok(rec),
            FileKind::Dir => Err(FsError::IsDir),
            _ => Err(FsError::Invalid),
        }
    }

    /// Fills `out` (blocks from `first` of the file) from memory; answers the runs to be read from home:
    /// (index in `out`, block, count).
    fn gather(&self, ino: Ino, first: u64, out: &mut [u8]) -> Result<Vec<(usize, BlockNo, usize)>, FsError> {
        let count = out.len() as u64 / BLOCK;
        let dirty = self.files.get(&ino).map(|file| &file.pages);
        let mut homes: Vec<(usize, BlockNo, usize)> = Vec::new();
        for (at, piece) in pieces(&self.layers(None), ino, first, first + count)? {
            let Piece::Mapped { start, count, unwritten: false } = piece else { continue };
            for n in 0..count {
                let (index, block) = ((at + n - first) as usize, start.plus(n));
                if dirty.is_some_and(|pages| pages.contains_key(&(at + n))) {
                    continue;
                }
                if let Some(owned) = self.owned.get(&block) {
                    out[index * BlockNo::SIZE..][..BlockNo::SIZE].copy_from_slice(&owned.page[..]);
                    continue;
                }
                match homes.last_mut() {
                    Some((i, b, c)) if *i + *c == index && b.plus(*c as u64) == block => *c += 1,
                    _ => homes.push((index, block, 1)),
                }
            }
        }
        for (at, dirty) in dirty.into_iter().flat_map(|pages| pages.range(first..first + count)) {
            let index = (at - first) as usize;
            out[index * BlockNo::SIZE..][..BlockNo::SIZE].copy_from_slice(&dirty.page[..]);
        }
        Ok(homes)
    }
}

/// A write that needs blocks it cannot have yet.
enum Attempt {
    Done,
    /// A page was written home between two looks: look again.
    Again,
    NeedSpace(u64),
}

impl Store {
    /// Up to `len` bytes from `offset`; shorter only at the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
        self.read_with(ino, offset, len, <[u8]>::to_vec)
    }

    /// `read`, with the bytes given to `then` where they lie. No lock is held meanwhile: `then` may change things.
    pub fn read_with<T>(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        then: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, FsError> {
        let gate = self.gate_read();
        let found = {
            let core = self.core_read();
            let size = core.live_file(ino)?.size;
            let end = offset.saturating_add(len as u64).min(size);
            if offset < end {
                let (first, last) = block_span(offset, end);
                let mut out = Pages::zeroed((last - first) as usize);
                let homes = core.gather(ino, first, &mut out)?;
                Some((out, homes, (offset - first * BLOCK) as usize, (end - offset) as usize))
            } else {
                None
            }
        };
        let Some((mut out, homes, skip, take)) = found else {
            drop(gate);
            return Ok(then(&[]));
        };
        for (index, block, count) in homes {
            let range = index * BlockNo::SIZE..(index + count) * BlockNo::SIZE;
            self.blocks().read(block, &mut out[range])?;
        }
        drop(gate);
        Ok(then(&out[skip..skip + take]))
    }

    /// The live content of one file block, zeros behind the end.
    pub(super) fn load_page(&self, ino: Ino, at: u64) -> Result<Page, FsError> {
        let mut page = Page::new([0; BlockNo::SIZE]);
        let content = self.read(ino, at * BLOCK, BlockNo::SIZE)?;
        Page::make_mut(&mut page)[..content.len()].copy_from_slice(&content);
        Ok(page)
    }

    /// Copies into the dirty buffers. `WouldBlock` when they are full: call `writeback(true)`, then write again.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8], now: Time) -> Result<(), FsError> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(FsError::FileTooLarge)?;
        if data.is_empty() {
            return Ok(());
        }
        let _shard = self.shards.lock(ino);
        self.settle_pull_before_write(ino)?;
        let mut relieved = 0;
        loop {
            let live = self.check_write(ino)?;
            if offset > live {
                self.prepare_extend(ino, live)?;
            }
            let edges = self.load_edges(ino, offset, end, live)?;
            match self.try_write(ino, offset, data, now, &edges)? {
                Attempt::Done => return Ok(()),
                Attempt::Again => {}
                Attempt::NeedSpace(blocks) if relieved < 3 => {
                    relieved += 1;
                    self.relieve(blocks)?;
                }
                Attempt::NeedSpace(_) => return Err(FsError::NoSpace),
            }
        }
    }

    fn check_write(&self, ino: Ino) -> Result<u64, FsError> {
        let core = self.core_read();
        core.writable()?;
        // A stream at the limit holds up itself, not those who write little.
        let own = core.files.get(&ino).map_or(0, |file| file.pages.len());
        let spare = if own < LARGE { self.options.dirty_bytes_max / 8 } else { 0 };
        if core.dirty_pages as u64 * BLOCK >= self.options.dirty_bytes_max + spare {
            return Err(FsError::WouldBlock);
        }
        Ok(core.live_file(ino)?.size)
    }

    /// Content of the blocks that `[offset, end)` covers only in part, where there is any and it is not in a buffer.
    fn load_edges(&self, ino: Ino, offset: u64, end: u64, live: u64) -> Result<Vec<(u64, Page)>, FsError> {
        let (first, last) = block_span(offset, end);
        let mut edges = Vec::new();
        for at in [first, last - 1] {
            let whole = offset <= at * BLOCK && (at + 1) * BLOCK <= end;
            let known = edges.iter().any(|(known, _)| *known == at);
            let buffered = || {
                let core = self.core_read();
                core.files.get(&ino).is_some_and(|file| file.pages.contains_key(&at))
            };
            if !whole && !known && at * BLOCK < live && !buffered() {
                edges.push((at, self.load_page(ino, at)?));
            }
        }
        Ok(edges)
    }

    fn try_write(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        now: Time,
        edges: &[(u64, Page)],
    ) -> Result<Attempt, FsError> {
        let end = offset + data.len() as u64;
        let (first, last) = block_span(offset, end);
        let mut core = self.core_write();
        core.writable()?;
        let live = core.live_file(ino)?.size;
        let buffered =
            |core: &Core, at: u64| core.files.get(&ino).is_some_and(|file| file.pages.contains_key(&at));
        for at in [first, last - 1] {
            let whole = offset <= at * BLOCK && (at + 1) * BLOCK <= end;
            let has = at * BLOCK >= live || buffered(&core, at) || edges.iter().any(|(e, _)| *e == at);
            if !whole && !has {
                return Ok(Attempt::Again);
            }
        }
        let mut holes = Vec::new();
        for (at, piece) in pieces(&core.layers(None), ino, first, last)? {
            if let Piece::Hole { count } = piece {
                holes.extend((at..at + count).filter(|at| !buffered(&core, *at)));
            }
        }
        if !holes.is_empty() {
            let need = holes.len() as u64;
            if self.admit(&mut core, 0, 0).is_err() || !core.space.reserve(need) {
                return Ok(Attempt::NeedSpace(need));
            }
        }
        let Core { files, dirty_pages, .. } = &mut *core;
        let file = files.entry(ino).or_default();
        for at in first..last {
            let dirty = file.pages.entry(at).or_insert_with(|| {
                *dirty_pages += 1;
                let base = edges.iter().find(|(edge, _)| *edge == at).map(|(_, page)| page.clone());
                let page = base.unwrap_or_else(|| Page::new([0; BlockNo::SIZE]));
                DirtyPage { page, reserved: holes.binary_search(&at).is_ok() }
            });
            let (from, to) = (offset.max(at * BLOCK), end.min((at + 1) * BLOCK));
            let page = Page::make_mut(&mut dirty.page);
            page[(from - at * BLOCK) as usize..(to - at * BLOCK) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
        }
        file.size = live.max(end);
        file.times = Some(now);
        Ok(Attempt::Done)
    }

    /// Before a file grows over a gap: whatever lies behind its end must read as zeros. A crash between a home write
    /// and its record can have left bytes there, and one in the middle of a large truncation whole extents. The caller
    /// keeps writers out.
    pub(super) fn prepare_extend(&self, ino: Ino, live: u64) -> Result<(), FsError> {
        let (tail, skip) = (live / BLOCK, (live % BLOCK) as usize);
        let from = live.div_ceil(BLOCK);
        let is_behind = |extent: &Extent| !extent.rec.unwritten && extent.end() > from;
        let behind = |core: &Core| extents_in(&core.layers(None), ino, tail, u64::MAX, usize::MAX);
        let (nothing, cut_short) = {
            let core = self.core_read();
            let found = behind(&core)?;
            let mark = match found.iter().any(is_behind) {
                true => core.layers(None).get(TableId::Orphans, &key_ino(ino))?,
                false => None,
            };
            (
                found.iter().all(|extent| extent.rec.unwritten),
                mark.is_some_and(|mark| mark.first() == Some(&1)),
            )
        };
        if nothing {
            return Ok(());
        }
        if cut_short {
            self.cut_behind_end(ino)?;
        }
        let _token = self.tokens.acquire(ino);
        let page = if skip > 0 { Some(self.load_page(ino, tail)?) } else { None };
        let mut core = self.core_write();
        core.writable()?;
        // A dirty last block is zeros behind the end already, and on disk before the size that shows it.
        let dirty = core.files.get(&ino).is_some_and(|file| file.pages.contains_key(&tail));
        if let (false, Some(page), Piece::Mapped { start, unwritten: false, .. }) =
            (dirty, page, super::mapping::piece_at(&core.layers(None), ino, tail, tail + 1)?)
        {
            core.put_payload(start, page);
        }
        for extent in behind(&core)?.iter().filter(|extent| is_behind(extent)) {
            let at = extent.at.max(from);
            let start = extent.rec.start.plus(at - extent.at);
            let how = super::mapping::MapHow { fresh: false, unwritten: true };
            let change = core.map(ino, at, extent.end() - at, start, how)?;
            core.apply(change);
        }
        Ok(())
    }

    /// Makes room: backs more of the image, else frees what only waits for a checkpoint.
    pub(super) fn relieve(&self, blocks: u64) -> Result<(), FsError> {
        if self.back_ahead(blocks)? {
            return Ok(());
        }
        let waiting = {
            let core = self.core_read();
            core.space.pending_total() > 0 || !core.active.is_empty()
        };
        if !waiting {
            return Err(FsError::NoSpace);
        }
        self.commit()?;
        self.checkpoint()
    }

    /// Backs extents until `blocks` can be given out; false if the host or the volume is full.
    pub(super) fn back_ahead(&self, blocks: u64) -> Result<bool, FsError> {
        let _one = lock(&self.backing);
        loop {
            let extent = {
                let core = self.core_read();
                let want = blocks + self.chunk_shortage(&core);
                if core.space.available() >= want {
                    return Ok(true);
                }
                core.space.next_unbacked()
            };
            let Some(extent) = extent else { return Ok(false) };
            match self.blocks().back(extent) {
                Ok(()) => {
                    let mut core = self.core_write();
                    core.space.set_host_full(false);
                    core.space.now_backed(extent);
                }
                Err(crate::image::BlocksError::NoSpace(_)) => {
                    self.core_write().space.set_host_full(true);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
