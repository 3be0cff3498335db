//! Growing an image in use: the metadata moves behind the new data, and one sector says that it did.
//!
//! Decides the order. Does not know who agreed to it. Invariants: nothing of the old metadata is overwritten before the
//! label names the new one; whatever was stable before is in both places at that moment; an error before it leaves the
//! image as it was, in use and of the old size.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::OnceLock;

use crate::base::{ExtentNo, Pages};
use crate::format::{
    BLOCK, GROUP_BLOCKS, Geometry, LABEL_BYTES, LABEL_COPIES, Label, PAGE_BYTES, RING_BLOCKS, Superblock,
    UndoStage,
};

use super::commit::Meta;
use super::core::is_broken;
use super::groups::in_use;
use super::make::read_label_at;
use super::undo::Undo;
use super::{Disk, DiskError, Image, ImageError};

/// Pages copied at once.
const PAGES_AT_ONCE: u64 = 64;

/// The newest geometry of an image. Earlier ones stay: whoever looked at one may still hold it.
pub(super) struct Shape {
    first: Geometry,
    next: OnceLock<Box<Shape>>,
}

impl Shape {
    pub fn new(first: Geometry) -> Shape {
        Shape { first, next: OnceLock::new() }
    }

    fn newest(&self) -> &Shape {
        let mut at = self;
        while let Some(next) = at.next.get() {
            at = next;
        }
        at
    }

    /// One at a time: under the metadata lock.
    fn push(&self, geometry: Geometry) {
        self.newest().next.get_or_init(|| Box::new(Shape::new(geometry)));
    }
}

impl Deref for Shape {
    type Target = Geometry;

    fn deref(&self) -> &Geometry {
        &self.newest().first
    }
}

impl Image {
    /// Makes sure that the medium has room for an image of so many blocks: a file is made longer, a device must be long
    /// enough. Changes nothing that counts. Answers the bytes that it takes.
    pub fn prepare_growth(&self, blocks: u64) -> Result<u64, ImageError> {
        self.check_writable()?;
        let new = self.geometry.grown(blocks).map_err(|least| ImageError::GrowsTooLittle { least })?;
        if self.disk.len_bytes() < new.image_bytes {
            self.disk.extend(new.image_bytes)?;
        }
        Ok(new.image_bytes)
    }

    /// Grows to exactly so many blocks while everything goes on; nothing if it has as many already. Stable on return.
    pub fn grow(&self, blocks: u64) -> Result<(), ImageError> {
        if blocks == self.geometry.block_count() {
            return Ok(());
        }
        self.prepare_growth(blocks)?;
        let new = self.geometry.grown(blocks).map_err(|least| ImageError::GrowsTooLittle { least })?;
        {
            let mut meta = self.meta();
            if meta.moved.is_some() {
                return Err(ImageError::Failed("it is growing already".to_string()));
            }
            meta.moved = Some(BTreeSet::new());
        }
        let done = self.copy_pages(&new, &self.pages_there()).and_then(|()| self.move_metadata(&new));
        if done.is_err() {
            self.meta().moved = None;
        }
        done
    }

    /// Extents that have a digest page on disk, or room for one.
    fn pages_there(&self) -> Vec<u64> {
        let core = self.core();
        let hot = core.slots.iter().flatten().filter(|slot| slot.page_version > 0).map(|slot| slot.extent);
        let mut there: BTreeSet<u64> = hot.collect();
        for (group, entries) in &core.summary {
            let first = group * crate::format::GROUP_EXTENTS;
            let used = (first..).zip(entries).filter(|(_, entry)| entry.touched || entry.backed);
            there.extend(used.map(|(extent, _)| extent).filter(|extent| *extent < self.geometry.extents));
        }
        there.into_iter().collect()
    }

    fn copy_pages(&self, new: &Geometry, extents: &[u64]) -> Result<(), ImageError> {
        let mut at = 0;
        while at < extents.len() {
            let first = extents[at];
            let run = (0..PAGES_AT_ONCE)
                .zip(&extents[at..])
                .take_while(|(nth, extent)| **extent == first + nth)
                .count();
            let mut bytes = Pages::zeroed(run * PAGE_BYTES / BLOCK as usize);
            self.disk.read_at(self.geometry.page_at(first), &mut bytes)?;
            self.disk.write_at(new.page_at(first), &bytes)?;
            at += run;
        }
        Ok(())
    }

    /// The end of it: nobody writes metadata meanwhile.
    fn move_metadata(&self, new: &Geometry) -> Result<(), ImageError> {
        let mut undo = self.undo_log();
        if matches!(undo.head.stage, UndoStage::Saving | UndoStage::GoingBack) {
            // New data would take the place of what is kept.
            return Err(ImageError::Failed(
                "what a resync overwrites is kept here: it grows once both are in sync".into(),
            ));
        }
        let mut meta = self.meta();
        self.core().check()?;
        let moved: Vec<u64> = meta.moved.take().unwrap_or_default().into_iter().collect();
        if !is_broken("pages written while it grows are copied again") {
            self.copy_pages(new, &moved)?;
        }
        let mut ring = Pages::zeroed(RING_BLOCKS as usize);
        self.disk.read_at(self.geometry.ring, &mut ring)?;
        self.disk.write_at(new.ring, &ring)?;
        let mut group_bytes = Pages::zeroed(GROUP_BLOCKS);
        for group in (0..self.geometry.group_count()).filter(|group| in_use(&meta.groups, *group)) {
            self.disk.read_at(self.geometry.group_at(group), &mut group_bytes)?;
            self.disk.write_at(new.group_at(group), &group_bytes)?;
        }
        let superblock = self.moved_superblock(&meta, new)?;
        self.disk.write_at(new.slots[0], &superblock)?;
        self.disk.write_at(new.slots[1], &Pages::zeroed(new.slot_bytes as usize / BLOCK as usize))?;
        if !is_broken("moved metadata is stable before the label names it") {
            self.disk.flush()?;
        }
        let mut back = Pages::zeroed(superblock.len() / BLOCK as usize);
        self.disk.read_at(new.slots[0], &mut back)?;
        if back[..] != superblock[..] {
            return Err(DiskError::Io("the moved superblock reads back differently".into()).into());
        }
        // From here on nobody knows which of the two counts until it is done.
        let label = Label {
            image_bytes: new.image_bytes,
            slots: new.slots,
            slot_bytes: new.slot_bytes,
            ..self.label.clone()
        };
        for at in LABEL_COPIES.iter().rev() {
            self.latch("writing the label", write_label(&*self.disk, *at, &label))?;
            self.latch("flush", self.disk.flush())?;
        }
        self.now_grown(&mut meta, new);
        *undo = Undo::new(undo.head, new.block_count());
        Ok(())
    }

    fn moved_superblock(&self, meta: &Meta, new: &Geometry) -> Result<Pages, ImageError> {
        let mut groups = meta.groups.clone();
        groups.resize(new.group_count().div_ceil(8) as usize, 0);
        let superblock = Superblock {
            seq: meta.slot_seq + 1,
            compatible: self.features.0,
            read_only: self.features.1,
            refuse: self.features.2,
            geometry: new.clone(),
            undo: meta.undo,
            state: self.core().state.clone(),
            groups,
        };
        let bytes = superblock.encode(self.salt);
        Ok(Pages::copy_of(&bytes.map_err(|damage| ImageError::StateTooLarge(damage.to_string()))?))
    }

    fn now_grown(&self, meta: &mut Meta, new: &Geometry) {
        meta.slot_seq += 1;
        meta.next_slot = 1;
        meta.groups.resize(new.group_count().div_ceil(8) as usize, 0);
        let mut core = self.core();
        core.differs.grow(new.block_count());
        core.to_copy.grow(new.block_count());
        self.geometry.push(new.clone());
    }

    /// Notes pages that are written while the metadata moves.
    pub(super) fn note_moved(&self, meta: &mut Meta, extents: impl Iterator<Item = ExtentNo>) {
        if let Some(moved) = &mut meta.moved {
            moved.extend(extents.map(|extent| extent.0));
        }
    }
}

fn write_label(disk: &dyn Disk, at: u64, label: &Label) -> Result<(), DiskError> {
    let mut block = Pages::zeroed(1);
    block[..LABEL_BYTES].copy_from_slice(&label.encode());
    disk.write_at(at, &block)
}

/// Both copies of the label say the same from here on. A growth that was cut off may have left one that names metadata
/// which nobody keeps up to date.
pub(super) fn mend_labels(disk: &dyn Disk, label: &Label) -> Result<(), ImageError> {
    let mut changed = false;
    for at in LABEL_COPIES {
        if read_label_at(disk, at)?.as_ref() != Some(label) && !is_broken("both labels say the same") {
            write_label(disk, at, label)?;
            changed = true;
        }
    }
    if changed { Ok(disk.flush()?) } else { Ok(()) }
}
