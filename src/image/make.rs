//! Making an image, and looking at what lies on a medium before.
//!
//! Decides the first bytes. Writes some 700 KiB whatever the size. Invariant: `format` is stable on return,
//! and nothing an older image left there can pass for part of the new one (every hash is salted with the incarnation).

use std::sync::Arc;

use crate::base::{Pages, VolumeId};
use crate::format::{BLOCK, FORMAT_VERSION, Geometry, HEAD_BYTES, LABEL_BYTES, LABEL_COPIES, LABEL_TEXT_MAX};
use crate::format::{Label, RING_BLOCKS, STATEMENTS_MAX, Statement, Superblock, Transaction, UndoHead};

use super::{Disk, DiskError, FormatOptions, ImageError, Probe};

/// Slots of the activity log unless said otherwise.
pub const AL_SLOTS_DEFAULT: u32 = 64;

/// Makes an image; refuses nothing that fits (mkfs asks `probe` first).
pub fn format(disk: &Arc<dyn Disk>, options: &FormatOptions) -> Result<(), ImageError> {
    let have = disk.len_bytes();
    let al_slots = if options.al_slots == 0 { AL_SLOTS_DEFAULT } else { options.al_slots };
    if !(4..=crate::format::SLOTS_MAX).contains(&al_slots) {
        return Err(ImageError::StateTooLarge(format!(
            "4 to {} activity log slots",
            crate::format::SLOTS_MAX
        )));
    }
    if options.label.len() > LABEL_TEXT_MAX || options.label.contains('\0') {
        return Err(ImageError::StateTooLarge(format!("a label has at most {LABEL_TEXT_MAX} bytes")));
    }
    let geometry = Geometry::plan(have, al_slots).map_err(|need| ImageError::TooSmall { need, have })?;
    let salt = options.state.incarnation;
    let superblock = Superblock {
        seq: 1,
        compatible: 0,
        read_only: 0,
        refuse: 0,
        geometry: geometry.clone(),
        undo: UndoHead::default(),
        state: options.state.clone(),
        groups: vec![0; geometry.group_count().div_ceil(8) as usize],
    };
    let slot = superblock.encode(salt).map_err(|damage| ImageError::StateTooLarge(damage.to_string()))?;
    // The old label goes first: a crash in between leaves no image, not half of one.
    let blank_head = Pages::zeroed((HEAD_BYTES / BLOCK) as usize);
    disk.write_at(0, &blank_head)?;
    disk.flush()?;
    disk.write_at(geometry.ring, &first_ring(salt, al_slots))?;
    disk.write_at(geometry.slots[1], &Pages::copy_of(&slot))?;
    disk.write_at(geometry.slots[0], &Pages::zeroed(geometry.slot_bytes as usize / BLOCK as usize))?;
    disk.flush()?;
    let label = Label {
        version: FORMAT_VERSION,
        uuid: options.uuid,
        incarnation: salt,
        text: options.label.clone(),
        image_bytes: geometry.image_bytes,
        slots: geometry.slots,
        slot_bytes: geometry.slot_bytes,
    };
    let mut head = blank_head;
    for at in LABEL_COPIES {
        head[at as usize..][..LABEL_BYTES].copy_from_slice(&label.encode());
    }
    disk.write_at(0, &head)?;
    disk.flush()?;
    Ok(())
}

/// A ring of nothing but one group that says that all slots are free.
fn first_ring(salt: u128, al_slots: u32) -> Pages {
    let mut ring = Pages::zeroed(RING_BLOCKS as usize);
    let free: Vec<Statement> = (0..al_slots).map(|slot| Statement { slot, extent: None }).collect();
    let len = free.len().div_ceil(STATEMENTS_MAX) as u32;
    for (seq, part) in (1u64..).zip(free.chunks(STATEMENTS_MAX)) {
        let txn = Transaction { seq, first: 1, len, low: 1, statements: part.to_vec(), pairs: Vec::new() };
        let at = (seq % RING_BLOCKS * BLOCK) as usize;
        ring[at..at + BLOCK as usize].copy_from_slice(&txn.encode(salt));
    }
    ring
}

/// The label, from either copy.
pub(super) fn read_label(disk: &dyn Disk) -> Result<Option<Label>, ImageError> {
    let mut block = Pages::zeroed(1);
    for at in LABEL_COPIES {
        if at + BLOCK > disk.len_bytes() {
            break;
        }
        disk.read_at(at, &mut block)?;
        if let Some(found) = Label::claimed_version(&block).filter(|version| *version != FORMAT_VERSION) {
            return Err(ImageError::Version { found, known: FORMAT_VERSION });
        }
        if let Ok(label) = Label::decode(&block) {
            return Ok(Some(label));
        }
    }
    Ok(None)
}

/// The copy of the label at one place, if it is whole and can be read.
pub(super) fn read_label_at(disk: &dyn Disk, at: u64) -> Result<Option<Label>, ImageError> {
    let mut block = Pages::zeroed(1);
    match disk.read_at(at, &mut block) {
        Err(DiskError::Dead) => Err(DiskError::Dead.into()),
        Err(_) => Ok(None),
        Ok(()) => Ok(Label::decode(&block).ok()),
    }
}

/// (offset, magic, name): what must not be overwritten unasked.
const SIGNATURES: &[(u64, &[u8], &str)] = &[
    (1080, b"\x53\xef", "ext2/ext3/ext4"),
    (0, b"XFSB", "xfs"),
    (65_600, b"_BHRfS_M", "btrfs"),
    (512, b"LABELONE", "LVM physical volume"),
    (0, b"LABELONE", "LVM physical volume"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (512, b"EFI PART", "GPT partition table"),
    (4086, b"SWAPSPACE2", "swap"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (0, b"hsqs", "squashfs"),
    (32_769, b"CD001", "ISO 9660"),
    (4096, b"\xfc\x4e\x2b\xa9", "Linux RAID"),
    (3, b"NTFS    ", "NTFS"),
    (510, b"\x55\xaa", "boot sector or partition table"),
];
/// Magics of DRBD's metadata (v08, v09, clean and not), 4 KiB before the end for internal metadata.
const DRBD_MAGICS: [u32; 4] = [0x8374_026b, 0x8374_026c, 0x8374_026d, 0x8374_0267];

/// Looks for an image of ours, then for the signatures of other things that must not be overwritten unasked.
pub fn probe(disk: &dyn Disk) -> Result<Probe, ImageError> {
    let len = disk.len_bytes();
    match read_label(disk) {
        Ok(Some(label)) => {
            let volume: Option<VolumeId> =
                super::open::newest_slot(disk, &label).ok().map(|(s, _)| s.state.volume);
            return Ok(Probe::TwinfsImage { volume, uuid: label.uuid, label: label.text });
        }
        Err(ImageError::Version { .. }) => {
            return Ok(Probe::OtherSignature { name: "twinfs image of another version" });
        }
        Err(other) => return Err(other),
        Ok(None) => {}
    }
    let mut head = Pages::zeroed(17);
    let readable = ((len / 512 * 512) as usize).min(head.len());
    disk.read_at(0, &mut head[..readable])?;
    for (offset, magic, name) in SIGNATURES {
        if head[*offset as usize..].starts_with(magic) {
            return Ok(Probe::OtherSignature { name });
        }
    }
    if len >= 2 * BLOCK && len.is_multiple_of(BLOCK) {
        let mut last = Pages::zeroed(1);
        disk.read_at(len - BLOCK, &mut last)?;
        let magic_at = |at: usize| last.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        // v08 and v09 keep the magic behind the size, generations, flags.
        if [56, 60, 64].iter().any(|at| magic_at(*at).is_some_and(|m| DRBD_MAGICS.contains(&m))) {
            return Ok(Probe::OtherSignature { name: "DRBD metadata" });
        }
        if last[BLOCK as usize - 512..].starts_with(b"EFI PART") {
            return Ok(Probe::OtherSignature { name: "GPT partition table (backup)" });
        }
    }
    match head.iter().any(|b| *b != 0) {
        true => Ok(Probe::OtherSignature { name: "data of an unknown kind" }),
        false => Ok(Probe::Blank),
    }
}
