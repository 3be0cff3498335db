//! Opening: label, newest superblock slot, ring, groups, the pages of hot extents, the last flush settled.
//!
//! Decides whether these bytes are our image, and what each block of a hot extent is expected to be. Reads kilobytes
//! plus the hot extents' pages. Invariants: read-only opening writes nothing; opening to write flushes first, so that
//! what was read is also stable, and changes the ring only after everything it said is stable elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::base::{BlockNo, Digest, ExtentNo, FastMap, Pages};
use crate::format::{
    BLOCK, BlockRec, DigestPage, GROUP_EXTENTS, Label, PAGE_BYTES, PAGE_UNCHECKED, RING_BLOCKS,
};
use crate::format::{FORMAT_VERSION, Superblock, Transaction};

use super::bits::Bitmap;
use super::commit::Meta;
use super::core::{Cached, Core, Slot, is_broken};
use super::grow::{Shape, mend_labels};
use super::make::read_label;
use super::replay::{Replay, replay};
use super::undo::Undo;
use super::{Disk, Image, ImageError, OpenOptions, Probe, RangeLocks};

const CACHE_PAGES_DEFAULT: usize = 1024;

/// The newest valid slot and the index of the other one.
pub(super) fn newest_slot(disk: &dyn Disk, label: &Label) -> Result<(Superblock, usize), ImageError> {
    let mut best: Option<(Superblock, usize)> = None;
    let mut why = String::new();
    for (index, offset) in label.slots.iter().enumerate() {
        let mut bytes = Pages::zeroed(label.slot_bytes as usize / BLOCK as usize);
        disk.read_at(*offset, &mut bytes)?;
        match Superblock::decode(&bytes, label.incarnation) {
            Ok(slot) if best.as_ref().is_none_or(|(other, _)| slot.seq > other.seq) => {
                best = Some((slot, 1 - index))
            }
            Ok(_) => {}
            Err(damage) => why = damage.to_string(),
        }
    }
    best.ok_or(ImageError::BadSuperblock { why })
}

fn find_superblock(disk: &dyn Disk, options: &OpenOptions) -> Result<(Label, Superblock, usize), ImageError> {
    let have = disk.len_bytes();
    let Some(label) = read_label(disk)? else {
        let found = match super::probe(disk) {
            Ok(Probe::OtherSignature { name }) => format!("found {name}"),
            _ => "it is blank".to_string(),
        };
        return Err(ImageError::NotAnImage { found });
    };
    if label.version != FORMAT_VERSION {
        return Err(ImageError::Version { found: label.version, known: FORMAT_VERSION });
    }
    if have < label.image_bytes {
        return Err(ImageError::Truncated { need: label.image_bytes, have });
    }
    let (slot, next) = newest_slot(disk, &label)?;
    if have < slot.geometry.image_bytes {
        return Err(ImageError::Truncated { need: slot.geometry.image_bytes, have });
    }
    if slot.refuse != 0 {
        return Err(ImageError::UnknownFeatures { bits: slot.refuse });
    }
    if slot.read_only != 0 && options.writable {
        return Err(ImageError::ReadOnlyFeatures { bits: slot.read_only });
    }
    match options.volume {
        Some(wanted) if wanted != slot.state.volume => {
            Err(ImageError::WrongVolume { wanted, found: slot.state.volume })
        }
        _ => Ok((label, slot, next)),
    }
}

impl Image {
    /// Picks the superblock slot, replays the activity log ring, settles the last flush. Reads kilobytes.
    pub fn open(disk: Arc<dyn Disk>, options: &OpenOptions) -> Result<Image, ImageError> {
        let (label, superblock, next_slot) = find_superblock(&*disk, options)?;
        if options.writable {
            // What an earlier process wrote and did not flush is readable but not stable.
            disk.flush()?;
            mend_labels(&*disk, &label)?;
        }
        let geometry = superblock.geometry.clone();
        let ring = read_ring(&*disk, &label, &superblock)?;
        let damage = |damage: crate::format::Damage| ImageError::BadActivityLog { why: damage.to_string() };
        let ring = replay(ring, geometry.al_slots as usize).map_err(damage)?;
        let core = Core {
            slots: vec![None; geometry.al_slots as usize],
            by_extent: FastMap::default(),
            pages: FastMap::default(),
            cache_pages: if options.cache_pages == 0 { CACHE_PAGES_DEFAULT } else { options.cache_pages },
            pending: BTreeMap::new(),
            unflushed: false,
            open_epoch: 2,
            confirmed: 0,
            demand: 0,
            kept: std::collections::BTreeSet::new(),
            differs: Bitmap::new(geometry.block_count()),
            to_copy: Bitmap::new(geometry.block_count()),
            summary: BTreeMap::new(),
            state: superblock.state.clone(),
            failed: None,
            tick: 0,
            activations: 0,
            blessed: 0,
            damaged_pages: 0,
        };
        let meta = Meta {
            next_seq: ring.next_seq,
            reset_first: ring.low,
            rotate: 0,
            slot_seq: superblock.seq,
            next_slot,
            groups: superblock.groups.clone(),
            moved: None,
            undo: superblock.undo,
        };
        let undo = Undo::new(superblock.undo, geometry.block_count());
        let image = Image {
            disk,
            locks: Arc::new(RangeLocks::default()),
            salt: label.incarnation,
            geometry: Shape::new(geometry),
            label,
            writable: options.writable,
            unclean: ring.slots.iter().any(Option::is_some),
            features: (superblock.compatible, superblock.read_only, superblock.refuse),
            empty_page: DigestPage::default(),
            core: Mutex::new(core),
            meta: Mutex::new(meta),
            undo: Mutex::new(undo),
            saving: AtomicBool::new(false),
            undo_volatile: AtomicBool::new(false),
        };
        image.load_groups(&mut image.core(), &superblock.groups)?;
        image.load_hot(&ring)?;
        image.load_undo(superblock.undo)?;
        if options.writable {
            image.restart(&ring)?;
        }
        Ok(image)
    }

    /// Puts the extents of the ring back into their slots, with their pages as of the last flush.
    fn load_hot(&self, ring: &Replay) -> Result<(), ImageError> {
        for (index, extent) in ring.slots.iter().enumerate() {
            let Some(extent) = *extent else { continue };
            let mut page = self.read_hot_page(extent)?;
            let first = ExtentNo(extent).first_block().0;
            for (block, rec) in ring.certain.range(first..first + ExtentNo::BLOCKS) {
                page.set(BlockNo(*block).index_in_extent(), *rec);
            }
            for (block, rec) in ring.last.range(first..first + ExtentNo::BLOCKS) {
                let index = BlockNo(*block).index_in_extent();
                let settled = self.settle(*block, page.get(index), *rec)?;
                page.set(index, settled);
            }
            page.flags |= PAGE_UNCHECKED;
            if is_broken("after a crash a digest outlives its block") {
                self.rehash(extent, &mut page)?;
            }
            let mut core = self.core();
            core.by_extent.insert(extent, index);
            core.pages.insert(extent, Cached { page: Box::new(page), used: 0 });
            core.slots[index] =
                Some(Slot { extent, stable: true, last_write: 1, version: 1, ..Slot::default() });
        }
        Ok(())
    }

    /// A rule switched off: whatever lies there is right.
    fn rehash(&self, extent: u64, page: &mut DigestPage) -> Result<(), ImageError> {
        let first = ExtentNo(extent).first_block().0;
        for index in 0..ExtentNo::BLOCKS {
            if matches!(page.get(index as usize), BlockRec::Written(_)) {
                let mut content = Pages::zeroed(1);
                self.disk.read_at(self.geometry.block_at(first + index), &mut content)?;
                page.set(index as usize, BlockRec::Written(Digest::of(&content)));
            }
        }
        Ok(())
    }

    /// The page of a hot extent as it lies on disk: possibly torn, possibly not there yet.
    fn read_hot_page(&self, extent: u64) -> Result<DigestPage, ImageError> {
        let mut bytes = Pages::zeroed(PAGE_BYTES / BLOCK as usize);
        self.disk.read_at(self.geometry.page_at(extent), &mut bytes)?;
        match DigestPage::decode(&bytes, self.salt, extent) {
            // Torn: entries that changed in the last write of the page are all in the ring.
            Ok((page, _)) => Ok(page),
            Err(_) if !self.core().entry(extent).touched => Ok(DigestPage::default()),
            Err(_) => {
                self.core().damaged_pages += 1;
                Ok(DigestPage::unknown())
            }
        }
    }

    /// What a block of the last flush is: that flush may have been cut, so the content decides between new and old.
    /// Content that is neither keeps the new digest and so stays suspect.
    fn settle(&self, block: u64, old: BlockRec, new: BlockRec) -> Result<BlockRec, ImageError> {
        let (BlockRec::Written(_), BlockRec::Written(_)) = (old, new) else { return Ok(new) };
        let mut content = Pages::zeroed(1);
        self.disk.read_at(self.geometry.block_at(block), &mut content)?;
        let is = BlockRec::Written(Digest::of(&content));
        Ok(if is == old { old } else { new })
    }

    /// Makes stable what the ring said, then begins the ring anew with the same hot extents.
    fn restart(&self, ring: &Replay) -> Result<(), ImageError> {
        let mut meta = self.meta();
        let extents: Vec<u64> = ring.slots.iter().flatten().copied().collect();
        let mut pages = Vec::new();
        for extent in extents {
            let mut core = self.core();
            let touched = core.entry(extent).touched;
            let Some(cached) = core.pages.get_mut(&extent) else { continue };
            if touched || !cached.page.is_empty() {
                cached.page.sequence += 1;
                pages.push((extent, cached.page.summary_hash(), cached.page.encode(self.salt, extent)));
            } else {
                cached.page.flags = 0;
                if let Some(slot) = core.slot_mut(extent) {
                    slot.version = 0;
                }
            }
        }
        if !pages.is_empty() {
            for (extent, _, bytes) in &pages {
                self.latch("writing metadata", self.disk.write_at(self.geometry.page_at(*extent), bytes))?;
            }
            self.latch("flush", self.disk.flush())?;
            let mut groups: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            {
                let mut core = self.core();
                for (extent, hash, _) in &pages {
                    let entry = core.entry_mut(*extent);
                    (entry.touched, entry.hash) = (true, *hash);
                    if let Some(slot) = core.slot_mut(*extent) {
                        (slot.page_version, slot.summary_version) = (1, 1);
                    }
                }
                for group in pages.iter().map(|(extent, ..)| extent / GROUP_EXTENTS) {
                    groups.entry(group).or_insert_with(|| self.summary_block(&core, group));
                }
            }
            for (group, bytes) in groups {
                self.latch("writing metadata", self.disk.write_at(self.geometry.group_at(group), &bytes))?;
            }
            self.latch("flush", self.disk.flush())?;
        }
        self.write_reset(&mut meta, &ring.slots)
    }
}

fn read_ring(
    disk: &dyn Disk,
    label: &Label,
    superblock: &Superblock,
) -> Result<Vec<Transaction>, ImageError> {
    let geometry = &superblock.geometry;
    let mut bytes = Pages::zeroed(RING_BLOCKS as usize);
    disk.read_at(geometry.ring, &mut bytes)?;
    let blocks = bytes.chunks_exact(BLOCK as usize).zip(0u64..);
    let decode = |(block, place): (&[u8], u64)| {
        let txn =
            Transaction::decode(block, label.incarnation, geometry.al_slots, geometry.block_count()).ok()?;
        (txn.seq % RING_BLOCKS == place).then_some(txn)
    };
    Ok(blocks.filter_map(decode).collect())
}
