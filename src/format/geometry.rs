//! Where the areas of an image lie. Every place is written down, none is computed from the length, so that `grow` can
//! move the metadata behind new data.
//!
//! ```text
//! 64 KiB head | data: whole extents | ring | groups | digest pages | undo | salvage | 2 superblock slots
//! ```
//! A *group* is the summary and both bitmaps of 248 extents (17 blocks). It is written when its first extent is used;
//! the superblock has one bit a group: an empty volume of any size costs kilobytes, and a group that reads back as
//! zeros is damage, never "untouched".

use super::codec::{Damage, Put, Take};

pub const BLOCK: u64 = 4096;
pub const HEAD_BYTES: u64 = 65_536;
pub const EXTENT_BYTES: u64 = 1024 * BLOCK;
pub const PAGE_BYTES: usize = 16_384;
/// Extents of a group: 8 summary sectors of 31 entries.
pub const GROUP_EXTENTS: u64 = 248;
/// 1 block of summary, 8 of *differs*, 8 of *still to copy*.
pub const GROUP_BLOCKS: usize = 17;
pub const GROUP_BYTES: u64 = GROUP_BLOCKS as u64 * BLOCK;
/// 4 KiB transactions of the activity log ring.
pub const RING_BLOCKS: u64 = 128;
/// Superblock slot without the group map.
const SLOT_BASE: u64 = 8192;
/// Of an image one part in so many is for what a resync overwrites, at least.
const UNDO_SHARE: u64 = 16;
/// More would not fit the numbers of a ring transaction: 2^40 extents are 4 EiB.
const EXTENTS_MAX: u64 = 1 << 40;

/// Offsets in bytes, all multiples of 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub image_bytes: u64,
    pub extents: u64,
    pub data: u64,
    pub ring: u64,
    pub groups: u64,
    pub pages: u64,
    pub undo: u64,
    pub undo_bytes: u64,
    pub salvage: u64,
    pub salvage_bytes: u64,
    pub slots: [u64; 2],
    pub slot_bytes: u32,
    pub al_slots: u32,
}

impl Geometry {
    pub const BYTES: usize = 104;

    /// The largest geometry within `len` bytes; `Err` has the least length of an image.
    pub fn plan(len: u64, al_slots: u32) -> Result<Geometry, u64> {
        let least = Geometry::end_of(1);
        if len < least {
            return Err(least);
        }
        let image_bytes = len / BLOCK * BLOCK;
        let mut extents = (image_bytes / (EXTENT_BYTES + PAGE_BYTES as u64)).min(EXTENTS_MAX);
        let room = image_bytes - image_bytes / UNDO_SHARE;
        while extents > 1 && Geometry::end_of(extents) > room {
            extents -= 1;
        }
        let slot_bytes = Geometry::slot_bytes_for(extents);
        let ring = HEAD_BYTES + extents * EXTENT_BYTES;
        let groups = ring + RING_BLOCKS * BLOCK;
        let pages = groups + extents.div_ceil(GROUP_EXTENTS) * GROUP_BYTES;
        let undo = pages + extents * PAGE_BYTES as u64;
        let slots = [image_bytes - 2 * slot_bytes, image_bytes - slot_bytes];
        Ok(Geometry {
            image_bytes,
            extents,
            data: HEAD_BYTES,
            ring,
            groups,
            pages,
            undo,
            undo_bytes: slots[0] - undo,
            salvage: slots[0],
            salvage_bytes: 0,
            slots,
            slot_bytes: slot_bytes as u32,
            al_slots,
        })
    }

    /// The geometry of the shortest image with so many blocks of data whose metadata overwrites nothing of this one;
    /// `Err` has the least number of blocks. Whole extents only.
    pub fn grown(&self, blocks: u64) -> Result<Geometry, u64> {
        let least = (self.image_bytes - HEAD_BYTES).div_ceil(EXTENT_BYTES).max(self.extents + 1);
        let extents = blocks / 1024;
        if extents < least || !blocks.is_multiple_of(1024) || extents > EXTENTS_MAX {
            return Err(least * 1024);
        }
        Geometry::plan(Geometry::least_bytes(extents), self.al_slots).map_err(|_| least * 1024)
    }

    /// Blocks of data that an image of so many bytes holds.
    pub fn blocks_of(len: u64) -> u64 {
        Geometry::plan(len, 1).map_or(0, |geometry| geometry.block_count())
    }

    /// Length of the shortest image with so many extents.
    fn least_bytes(extents: u64) -> u64 {
        let (mut low, mut high) = (Geometry::end_of(extents) / BLOCK, Geometry::end_of(extents) / BLOCK * 2);
        while low < high {
            let middle = low.midpoint(high);
            let enough = Geometry::blocks_of(middle * BLOCK) >= extents * 1024;
            (low, high) = if enough { (low, middle) } else { (middle + 1, high) };
        }
        high * BLOCK
    }

    fn slot_bytes_for(extents: u64) -> u64 {
        SLOT_BASE + extents.div_ceil(GROUP_EXTENTS).div_ceil(8).div_ceil(BLOCK) * BLOCK
    }

    fn end_of(extents: u64) -> u64 {
        let groups = extents.div_ceil(GROUP_EXTENTS) * GROUP_BYTES;
        let fixed = HEAD_BYTES + RING_BLOCKS * BLOCK + 2 * Geometry::slot_bytes_for(extents);
        fixed + groups + extents * (EXTENT_BYTES + PAGE_BYTES as u64)
    }

    pub fn group_count(&self) -> u64 {
        self.extents.div_ceil(GROUP_EXTENTS)
    }

    pub fn block_count(&self) -> u64 {
        self.extents * 1024
    }

    pub fn block_at(&self, block: u64) -> u64 {
        self.data + block * BLOCK
    }

    pub fn page_at(&self, extent: u64) -> u64 {
        self.pages + extent * PAGE_BYTES as u64
    }

    pub fn group_at(&self, group: u64) -> u64 {
        self.groups + group * GROUP_BYTES
    }

    pub fn ring_at(&self, seq: u64) -> u64 {
        self.ring + seq % RING_BLOCKS * BLOCK
    }

    pub(super) fn encode(&self, put: &mut Put) {
        put.u64(self.image_bytes)
            .u64(self.extents)
            .u64(self.data)
            .u64(self.ring)
            .u64(self.groups)
            .u64(self.pages);
        put.u64(self.undo).u64(self.undo_bytes).u64(self.salvage).u64(self.salvage_bytes);
        put.u64(self.slots[0]).u64(self.slots[1]).u32(self.slot_bytes).u32(self.al_slots);
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Geometry, Damage> {
        let geometry = Geometry {
            image_bytes: take.u64()?,
            extents: take.u64()?,
            data: take.u64()?,
            ring: take.u64()?,
            groups: take.u64()?,
            pages: take.u64()?,
            undo: take.u64()?,
            undo_bytes: take.u64()?,
            salvage: take.u64()?,
            salvage_bytes: take.u64()?,
            slots: [take.u64()?, take.u64()?],
            slot_bytes: take.u32()?,
            al_slots: take.u32()?,
        };
        geometry.check()?;
        Ok(geometry)
    }

    /// Every area is aligned, inside the image, and overlaps no other.
    fn check(&self) -> Result<(), Damage> {
        if !(1..=EXTENTS_MAX).contains(&self.extents) || !(1..=super::SLOTS_MAX).contains(&self.al_slots) {
            return Err(Damage("geometry: impossible counts"));
        }
        if u64::from(self.slot_bytes) < Geometry::slot_bytes_for(self.extents) || self.slot_bytes > 1 << 24 {
            return Err(Damage("geometry: superblock slots of a wrong size"));
        }
        let mut areas = [
            (0, HEAD_BYTES),
            (self.data, self.extents * EXTENT_BYTES),
            (self.ring, RING_BLOCKS * BLOCK),
            (self.groups, self.group_count() * GROUP_BYTES),
            (self.pages, self.extents * PAGE_BYTES as u64),
            (self.undo, self.undo_bytes),
            (self.salvage, self.salvage_bytes),
            (self.slots[0], self.slot_bytes.into()),
            (self.slots[1], self.slot_bytes.into()),
        ];
        areas.sort_unstable();
        let mut end = 0;
        for (at, len) in areas {
            if !at.is_multiple_of(BLOCK) || !len.is_multiple_of(BLOCK) || at < end {
                return Err(Damage("geometry: areas overlap"));
            }
            end = at.checked_add(len).ok_or(Damage("geometry: an area has no end"))?;
        }
        match end <= self.image_bytes {
            true => Ok(()),
            false => Err(Damage("geometry: an area lies beyond the end")),
        }
    }
}

const _: () = assert!(Geometry::BYTES == 12 * 8 + 2 * 4);
