//! Groups on disk: the summary block and the bitmap blocks of 248 extents, the superblock, and the pages behind them.
//!
//! Decides nothing about when. Invariant: a group is written whole and stable before the superblock says it exists.

use crate::base::{ExtentNo, Pages};
use crate::format::{BLOCK, DigestPage, ENTRIES_PER_SECTOR, GROUP_BLOCKS, PAGE_BYTES, PageCheck};
use crate::format::{
    SECTOR_BYTES, SECTOR_PAYLOAD, SUMMARY_SECTORS, SectorKind, State, SummaryEntry, Superblock,
};
use crate::format::{open_sector, seal_sector};

use super::bits::BITMAP_BLOCKS;
use super::commit::Meta;
use super::core::{Cached, Core, is_broken};
use super::{DiskError, Image, ImageError};

const SECTORS_PER_BLOCK: usize = BLOCK as usize / SECTOR_BYTES;

pub(super) fn in_use(groups: &[u8], group: u64) -> bool {
    groups.get((group / 8) as usize).is_some_and(|byte| byte & 1 << (group % 8) != 0)
}

impl Image {
    pub(super) fn summary_block(&self, core: &Core, group: u64) -> Vec<u8> {
        let mut out = vec![0; BLOCK as usize];
        for sector in 0..SUMMARY_SECTORS {
            let mut payload = [0; SECTOR_PAYLOAD];
            if let Some(entries) = core.summary.get(&group) {
                let entries = &entries[sector * ENTRIES_PER_SECTOR..][..ENTRIES_PER_SECTOR];
                for (entry, bytes) in entries.iter().zip(payload.chunks_exact_mut(SummaryEntry::BYTES)) {
                    entry.encode(bytes);
                }
            }
            let index = group * SUMMARY_SECTORS as u64 + sector as u64;
            seal_sector(self.salt, SectorKind::Summary, index, &payload, &mut out[sector * SECTOR_BYTES..]);
        }
        out
    }

    /// (offset, bytes) of a block of a bitmap.
    pub(super) fn bitmap_block(
        &self,
        core: &Core,
        to_copy: bool,
        (group, block): (u64, usize),
    ) -> (u64, Vec<u8>) {
        let (bitmap, kind) = match to_copy {
            true => (&core.to_copy, SectorKind::ToCopy),
            false => (&core.differs, SectorKind::Differs),
        };
        let mut out = vec![0; BLOCK as usize];
        for place in 0..SECTORS_PER_BLOCK {
            let sector = block * SECTORS_PER_BLOCK + place;
            let index = group * crate::format::BITMAP_SECTORS as u64 + sector as u64;
            seal_sector(
                self.salt,
                kind,
                index,
                &bitmap.sector(group, sector),
                &mut out[place * SECTOR_BYTES..],
            );
        }
        let before = 1 + if to_copy { BITMAP_BLOCKS } else { 0 } + block;
        (self.geometry.group_at(group) + before as u64 * BLOCK, out)
    }

    fn group_bytes(&self, core: &Core, group: u64) -> Pages {
        let mut out = self.summary_block(core, group);
        for to_copy in [false, true] {
            for block in 0..BITMAP_BLOCKS {
                out.extend(self.bitmap_block(core, to_copy, (group, block)).1);
            }
        }
        debug_assert_eq!(out.len(), GROUP_BLOCKS * BLOCK as usize);
        Pages::copy_of(&out)
    }

    /// Writes the group of an extent if this is its first use. A full host disk leaves everything as it was.
    pub(super) fn ensure_group(
        &self,
        meta: &mut Meta,
        group: u64,
        extent: ExtentNo,
    ) -> Result<(), ImageError> {
        if in_use(&meta.groups, group) {
            return Ok(());
        }
        let bytes = self.group_bytes(&self.core(), group);
        match self.disk.write_at(self.geometry.group_at(group), &bytes) {
            Err(DiskError::Full) => return Err(ImageError::NoSpace { extent }),
            other => self.latch("writing a metadata group", other)?,
        }
        self.latch("flush", self.disk.flush())?;
        let state = self.core().state.clone();
        let mut groups = meta.groups.clone();
        groups[(group / 8) as usize] |= 1 << (group % 8);
        self.write_superblock(meta, state, groups)
    }

    pub(super) fn write_superblock(
        &self,
        meta: &mut Meta,
        state: State,
        groups: Vec<u8>,
    ) -> Result<(), ImageError> {
        let superblock = Superblock {
            seq: meta.slot_seq + 1,
            compatible: self.features.0,
            read_only: self.features.1,
            refuse: self.features.2,
            geometry: self.geometry.clone(),
            undo: meta.undo,
            state,
            groups,
        };
        let encoded =
            superblock.encode(self.salt).map_err(|damage| ImageError::StateTooLarge(damage.to_string()))?;
        let bytes = Pages::copy_of(&encoded);
        let offset = self.geometry.slots[meta.next_slot];
        self.latch("writing the superblock", self.disk.write_at(offset, &bytes))?;
        self.latch("flush", self.disk.flush())?;
        let mut back = Pages::zeroed(bytes.len() / BLOCK as usize);
        self.latch("reading the superblock back", self.disk.read_at(offset, &mut back))?;
        let same = if back[..] == bytes[..] {
            Ok(())
        } else {
            Err(DiskError::Io("it reads back differently".into()))
        };
        self.latch("reading the superblock back", same)?;
        meta.slot_seq += 1;
        meta.next_slot = 1 - meta.next_slot;
        meta.groups = superblock.groups;
        Ok(())
    }

    /// Reads the groups that exist.
    pub(super) fn load_groups(&self, core: &mut Core, groups: &[u8]) -> Result<(), ImageError> {
        let mut bytes = Pages::zeroed(GROUP_BLOCKS);
        for group in (0..self.geometry.group_count()).filter(|group| in_use(groups, *group)) {
            self.disk.read_at(self.geometry.group_at(group), &mut bytes)?;
            let mut entries = Vec::new();
            for (place, sector) in bytes[..BLOCK as usize].chunks_exact(SECTOR_BYTES).enumerate() {
                let index = group * SUMMARY_SECTORS as u64 + place as u64;
                let payload = open_sector(self.salt, SectorKind::Summary, index, sector);
                for slot in 0..ENTRIES_PER_SECTOR {
                    let raw = payload.map(|p| &p[slot * SummaryEntry::BYTES..][..SummaryEntry::BYTES]);
                    // Damaged: the page has to speak for itself, and fails if it cannot.
                    let lost = SummaryEntry { touched: true, backed: false, hash: [0; 15] };
                    entries.push(raw.and_then(SummaryEntry::decode).unwrap_or(lost));
                }
            }
            core.summary.insert(group, entries);
            let bitmaps = bytes[BLOCK as usize..].chunks_exact(SECTOR_BYTES).enumerate();
            for (place, sector) in bitmaps {
                let per_map = crate::format::BITMAP_SECTORS;
                let (kind, bitmap) = match place < per_map {
                    true => (SectorKind::Differs, &mut core.differs),
                    false => (SectorKind::ToCopy, &mut core.to_copy),
                };
                let index = group * per_map as u64 + (place % per_map) as u64;
                bitmap.load(group, place % per_map, open_sector(self.salt, kind, index, sector));
            }
        }
        Ok(())
    }

    /// The page of a cold extent from disk, as far as it can be trusted; and whether it is damaged.
    fn read_cold_page(&self, extent: u64, entry: SummaryEntry) -> Result<(DigestPage, bool), ImageError> {
        let mut bytes = Pages::zeroed(PAGE_BYTES / BLOCK as usize);
        loop {
            let at = self.geometry.page_at(extent);
            self.disk.read_at(at, &mut bytes)?;
            // Where it lay there is data since the image grew.
            if self.geometry.page_at(extent) == at {
                break;
            }
        }
        match DigestPage::decode(&bytes, self.salt, extent) {
            Ok((page, PageCheck::Whole)) if page.summary_hash() == entry.hash => Ok((page, false)),
            Ok((mut page, _)) => {
                page.distrust_unwritten();
                Ok((page, true))
            }
            Err(_) if is_broken("a damaged page is not an empty one") => Ok((DigestPage::default(), false)),
            Err(_) => Ok((DigestPage::unknown(), true)),
        }
    }

    /// Calls `f` with the page of an extent, reading it if it is not in memory.
    pub(super) fn with_page<R>(
        &self,
        extent: u64,
        mut f: impl FnMut(&DigestPage) -> R,
    ) -> Result<R, ImageError> {
        loop {
            let (entry, activations) = {
                let mut core = self.core();
                let used = core.touch();
                if let Some(cached) = core.pages.get_mut(&extent) {
                    cached.used = used;
                    return Ok(f(&cached.page));
                }
                (core.entry(extent), core.activations)
            };
            if !entry.touched {
                return Ok(f(&self.empty_page));
            }
            let (page, damaged) = self.read_cold_page(extent, entry)?;
            let mut core = self.core();
            // An activation meanwhile may have been of this extent: what was read may be old.
            if core.activations == activations && !core.pages.contains_key(&extent) {
                core.trim_pages();
                let used = core.touch();
                core.damaged_pages += u64::from(damaged);
                core.pages.insert(extent, Cached { page: Box::new(page), used });
            }
        }
    }
}
