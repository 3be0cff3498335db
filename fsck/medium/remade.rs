//! A superblock in the place of two that are lost.
//!
//! Where everything lies follows from the length of the image; whose copy it was does not follow from anything. Decides
//! that it is one of its own from now on, which no peer takes for its other half. Invariant: what can be read of the
//! image afterwards could be read with the old one.

use twinfs::base::{Generation, Members, NodeId, Record, VolumeId};
use twinfs::format::{
    BLOCK, GROUP_EXTENTS, GenEntry, GenReason, Geometry, Label, RING_BLOCKS, ResyncMark, SECTOR_BYTES,
    SLOTS_MAX, SUMMARY_SECTORS, SectorKind, State, Superblock, Transaction, UndoHead, open_sector,
};
use twinfs::image::{AL_SLOTS_DEFAULT, Disk};
use twinfs::sys::random;

use super::Stop;
use crate::findings::Findings;

/// Read at once in the search for content.
const PIECE: u64 = 1 << 20;

/// Makes it and writes it into both slots; the number of the one that counts with it.
pub(super) fn superblock(
    disk: &dyn Disk,
    label: &Label,
    findings: &mut Findings,
) -> Result<(Superblock, usize), Stop> {
    let usual = Geometry::plan(label.image_bytes, AL_SLOTS_DEFAULT).ok();
    let usual = usual.filter(|plan| plan.slots == label.slots && plan.slot_bytes == label.slot_bytes);
    let Some(mut geometry) = usual else {
        let text =
            "both slots are damaged, and where everything lies is not the usual; copy it again from the peer";
        findings.lose("superblock", text);
        return Err(Stop::Damaged);
    };
    geometry.al_slots = log_slots(disk, label, &geometry);
    let groups = lost_groups(disk, label, &geometry);
    let undo = UndoHead::default();
    let state = own(label);
    let mut sup =
        Superblock { seq: 1, compatible: 0, read_only: 0, refuse: 0, geometry, undo, state, groups };
    for (at, seq) in label.slots.into_iter().zip(1..) {
        sup.seq = seq;
        let written = sup.encode(label.incarnation).map_err(|damage| damage.to_string());
        let written = written.and_then(|bytes| disk.write_at(at, &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            findings.lose("superblock", error);
            return Err(Stop::Damaged);
        }
    }
    findings.lose(
        "superblock",
        "both slots are damaged: made again; whose copy this was is lost, so that it is a copy of its own now \
         (one of a pair is better copied again from the peer)",
    );
    Ok((sup, 1))
}

/// A lineage that nobody else has.
fn own(label: &Label) -> State {
    let (node, id) = (NodeId::A, Generation(random::id128()));
    State {
        volume: VolumeId(random::id128()),
        node,
        incarnation: label.incarnation,
        record: Some(Record { v: 1, members: Members::only(node), primary: node }),
        gens: vec![GenEntry { id, minted_by: node, at_v: 1, reason: GenReason::Standalone, first_txn: 0 }],
        bitmap_base: id,
        full: true,
        resync: ResyncMark::None,
        diverged: false,
        apart: twinfs::format::Apart::default(),
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

/// Slots of the activity log: it names each of them again and again.
fn log_slots(disk: &dyn Disk, label: &Label, geometry: &Geometry) -> u32 {
    let mut most = 0;
    let mut bytes = vec![0; BLOCK as usize];
    for place in 0..RING_BLOCKS {
        if disk.read_at(geometry.ring_at(place), &mut bytes).is_err() {
            continue;
        }
        let txn = Transaction::decode(&bytes, label.incarnation, SLOTS_MAX, geometry.block_count());
        let slots = txn.iter().flat_map(|txn| txn.statements.iter().map(|statement| statement.slot + 1));
        most = most.max(slots.max().unwrap_or(0));
    }
    if most < 4 { AL_SLOTS_DEFAULT } else { most }
}

/// Groups whose summary went as well although their extents hold something: in use, and to be made again. Where the
/// first one is sound, those that are not there were never used: it is in use on every image with a filesystem.
fn lost_groups(disk: &dyn Disk, label: &Label, geometry: &Geometry) -> Vec<u8> {
    let mut groups = vec![0; geometry.group_count().div_ceil(8) as usize];
    if is_there(disk, label, geometry, 0) {
        return groups;
    }
    for group in 0..geometry.group_count() {
        let extents = group * GROUP_EXTENTS..((group + 1) * GROUP_EXTENTS).min(geometry.extents);
        let bytes = geometry.block_at(extents.start * 1024)..geometry.block_at(extents.end * 1024);
        if is_there(disk, label, geometry, group) || holds(disk, bytes) {
            groups[(group / 8) as usize] |= 1 << (group % 8);
        }
    }
    groups
}

/// Whether a sector of the group's summary is sound.
pub(super) fn is_there(disk: &dyn Disk, label: &Label, geometry: &Geometry, group: u64) -> bool {
    let mut block = vec![0; BLOCK as usize];
    if disk.read_at(geometry.group_at(group), &mut block).is_err() {
        return false;
    }
    let sealed = |(sector, index): (&[u8], u64)| {
        open_sector(label.incarnation, SectorKind::Summary, index, sector).is_some()
    };
    block.chunks_exact(SECTOR_BYTES).zip(group * SUMMARY_SECTORS as u64..).any(sealed)
}

/// Whether anything but zeros lies there.
fn holds(disk: &dyn Disk, bytes: std::ops::Range<u64>) -> bool {
    let mut piece = vec![0; PIECE as usize];
    let mut at = bytes.start;
    while at < bytes.end {
        let len = PIECE.min(bytes.end - at) as usize;
        if disk.read_at(at, &mut piece[..len]).is_err() || piece[..len].iter().any(|byte| *byte != 0) {
            return true;
        }
        at += len as u64;
    }
    false
}
