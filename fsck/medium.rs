//! The image below the filesystem: label, superblock slots, activity log ring, summary, bitmaps, digest pages, content.
//!
//! Decides what a sound image is. Reads the bytes itself; only the question which digest counts for a block after a
//! crash is left to the read side of `image`. Invariant: nothing is ever written.

use std::sync::Arc;

use twinfs::base::{BlockNo, ExtentNo};
use twinfs::format::{
    BITMAP_SECTORS, DigestPage, ENTRIES_PER_SECTOR, GROUP_BLOCKS, GROUP_BYTES, GROUP_EXTENTS, LABEL_BYTES,
    LABEL_COPIES, Label, PAGE_BYTES, PageCheck, RING_BLOCKS, SECTOR_BYTES, SUMMARY_SECTORS, SectorKind,
    SummaryEntry, Superblock, Transaction, open_sector,
};
use twinfs::image::{Disk, Image, ImageError, OpenOptions};

use crate::findings::{Findings, Progress};

const BLOCK: usize = BlockNo::SIZE;
/// Blocks read at once when content is checked.
const RUN_BLOCKS: u64 = 256;

/// Why nothing more can be said about an image.
#[derive(Debug)]
pub enum Stop {
    /// It is no image of ours, or cannot be read: an operational error.
    Unusable(String),
    /// It is one, but too damaged to go on; the findings say so.
    Damaged,
}

/// Checks everything below the filesystem and answers with the image opened for reading.
pub fn check(
    disk: &Arc<dyn Disk>,
    contents: bool,
    findings: &mut Findings,
    progress: &mut Progress,
) -> Result<Image, Stop> {
    let label = label(&**disk, findings)?;
    let sup = superblock(&**disk, &label, findings)?;
    ring(&**disk, &label, &sup, findings);
    let image = match Image::open(disk.clone(), &OpenOptions::read_only()) {
        Ok(image) => image,
        Err(error) => {
            findings.add("image", error.to_string());
            return Err(Stop::Damaged);
        }
    };
    progress.pass();
    groups(&**disk, &label, &sup, &image, findings, progress);
    if contents {
        progress.pass();
        content(&image, findings, progress);
    }
    Ok(image)
}

fn label(disk: &dyn Disk, findings: &mut Findings) -> Result<Label, Stop> {
    let mut found = Vec::new();
    let mut claimed = false;
    for at in LABEL_COPIES {
        let mut bytes = [0; LABEL_BYTES];
        match disk.read_at(at, &mut bytes) {
            Err(error) if at == 0 => return Err(Stop::Unusable(error.to_string())),
            Err(error) => findings.add("label", error.to_string()),
            Ok(()) => {
                claimed |= Label::has_magic(&bytes);
                match Label::decode(&bytes) {
                    Ok(label) => found.push(label),
                    Err(damage) => findings.add("label", format!("copy at {at}: {damage}")),
                }
            }
        }
    }
    match found.as_slice() {
        [] if claimed => Err(Stop::Damaged),
        [] => Err(Stop::Unusable("this is not a twinfs image".into())),
        [label, other] if label != other => {
            findings.add("label", "the two copies differ");
            Ok(label.clone())
        }
        [label, ..] => Ok(label.clone()),
    }
}

fn superblock(disk: &dyn Disk, label: &Label, findings: &mut Findings) -> Result<Superblock, Stop> {
    let mut newest: Option<Superblock> = None;
    let mut torn = Vec::new();
    for (number, at) in label.slots.into_iter().enumerate() {
        let mut bytes = vec![0; label.slot_bytes as usize];
        let read = disk.read_at(at, &mut bytes).map_err(|error| error.to_string());
        match read.and_then(|()| Superblock::decode(&bytes, label.incarnation).map_err(|e| e.to_string())) {
            Err(text) => torn.push(format!("slot {number}: {text}")),
            Ok(sup) if newest.as_ref().is_none_or(|known| known.seq < sup.seq) => newest = Some(sup),
            Ok(_) => {}
        }
    }
    let Some(sup) = newest else {
        torn.into_iter().for_each(|text| findings.add("superblock", text));
        return Err(Stop::Damaged);
    };
    // One slot may be torn by a crash while it was written; the other one counts and the next writing mends it.
    torn.into_iter().for_each(|text| findings.note(format!("superblock: {text} (the other slot counts)")));
    if sup.geometry.slots != label.slots || sup.geometry.image_bytes != label.image_bytes {
        findings.add("superblock", "label and superblock disagree about the size");
    }
    if disk.len_bytes() < sup.geometry.image_bytes {
        let (have, need) = (disk.len_bytes(), sup.geometry.image_bytes);
        findings.add("superblock", format!("the image is truncated: {have} bytes of {need}"));
    }
    if sup.state.gens.is_empty() && sup.state.record.is_some() {
        findings.add("superblock", "there is no generation");
    }
    Ok(sup)
}

/// Every transaction that a reader of the newest complete group needs is there.
fn ring(disk: &dyn Disk, label: &Label, sup: &Superblock, findings: &mut Findings) {
    let (slots, blocks) = (sup.geometry.al_slots, sup.geometry.block_count());
    let mut known = std::collections::BTreeMap::new();
    for place in 0..RING_BLOCKS {
        let mut bytes = vec![0; BLOCK];
        if let Err(error) = disk.read_at(sup.geometry.ring_at(place), &mut bytes) {
            findings.add("activity log", error.to_string());
        } else if let Ok(txn) = Transaction::decode(&bytes, label.incarnation, slots, blocks) {
            if txn.seq % RING_BLOCKS != place {
                findings.add("activity log", format!("transaction {} lies at place {place}", txn.seq));
            }
            known.insert(txn.seq, txn);
        }
    }
    let whole =
        |txn: &Transaction| (txn.first..txn.first + u64::from(txn.len)).all(|seq| known.contains_key(&seq));
    let Some(newest) = known.values().rev().find(|txn| whole(txn)) else {
        return findings.add("activity log", "no complete transaction");
    };
    let missing = (newest.low..newest.first).filter(|seq| !known.contains_key(seq)).count();
    if missing > 0 {
        findings.add("activity log", format!("{missing} transactions are missing"));
    }
}

fn groups(
    disk: &dyn Disk,
    label: &Label,
    sup: &Superblock,
    image: &Image,
    findings: &mut Findings,
    progress: &mut Progress,
) {
    let groups = sup.geometry.group_count();
    for group in 0..groups {
        progress.at(group, groups);
        let used = sup.groups.get((group / 8) as usize).is_some_and(|byte| byte & 1 << (group % 8) != 0);
        if !used {
            continue;
        }
        let mut bytes = vec![0; GROUP_BYTES as usize];
        if let Err(error) = disk.read_at(sup.geometry.group_at(group), &mut bytes) {
            findings.add("summary", error.to_string());
            continue;
        }
        bitmaps(&bytes, label.incarnation, group, findings);
        for (nth, sector) in bytes[..SUMMARY_SECTORS * SECTOR_BYTES].chunks(SECTOR_BYTES).enumerate() {
            let index = group * SUMMARY_SECTORS as u64 + nth as u64;
            let Some(payload) = open_sector(label.incarnation, SectorKind::Summary, index, sector) else {
                findings.add("summary", format!("sector {index} is damaged"));
                continue;
            };
            for (place, raw) in payload.chunks_exact(SummaryEntry::BYTES).enumerate() {
                let extent = group * GROUP_EXTENTS + (nth * ENTRIES_PER_SECTOR + place) as u64;
                match SummaryEntry::decode(raw) {
                    None => findings.add("summary", format!("extent {extent}: unknown flags")),
                    Some(entry) if extent >= sup.geometry.extents => {
                        if entry != SummaryEntry::default() {
                            findings.add("summary", format!("extent {extent} does not exist"));
                        }
                    }
                    Some(entry) => page(disk, label, sup, image, extent, &entry, findings),
                }
            }
        }
    }
    progress.at(groups, groups);
}

fn bitmaps(group_bytes: &[u8], salt: u128, group: u64, findings: &mut Findings) {
    for (nth, kind) in [SectorKind::Differs, SectorKind::ToCopy].into_iter().enumerate() {
        let start = BLOCK + nth * (GROUP_BLOCKS - 1) / 2 * BLOCK;
        let area = &group_bytes[start..start + BITMAP_SECTORS * SECTOR_BYTES];
        for (place, sector) in area.chunks(SECTOR_BYTES).enumerate() {
            let index = group * BITMAP_SECTORS as u64 + place as u64;
            if open_sector(salt, kind, index, sector).is_none() {
                findings.add("bitmaps", format!("{kind:?}, sector {index} is damaged"));
            }
        }
    }
}

/// A digest page against its summary. Pages of hot extents are lazy: their truth is in the activity log.
fn page(
    disk: &dyn Disk,
    label: &Label,
    sup: &Superblock,
    image: &Image,
    extent: u64,
    entry: &SummaryEntry,
    findings: &mut Findings,
) {
    if !entry.touched || image.is_hot(ExtentNo(extent).first_block(), ExtentNo::BLOCKS) {
        return;
    }
    let mut bytes = vec![0; PAGE_BYTES];
    let read = disk.read_at(sup.geometry.page_at(extent), &mut bytes).map_err(|error| error.to_string());
    match read.and_then(|()| DigestPage::decode(&bytes, label.incarnation, extent).map_err(|e| e.to_string()))
    {
        Err(text) => findings.add("digests", format!("extent {extent}: {text}")),
        Ok((_, PageCheck::Torn)) => findings.add("digests", format!("extent {extent}: the page is torn")),
        Ok((page, PageCheck::Whole)) => {
            if page.summary_hash() != entry.hash {
                findings.add("summary", format!("extent {extent}: its digest page is another one"));
            }
            if page.has_unknown() {
                findings.add("digests", format!("extent {extent}: nothing is known of some blocks"));
            }
        }
    }
}

/// Reads every written block.
fn content(image: &Image, findings: &mut Findings, progress: &mut Progress) {
    let all = image.block_count();
    let (mut at, mut suspects) = (0, 0_u64);
    let mut buffer = vec![0; RUN_BLOCKS as usize * BLOCK];
    while at < all {
        progress.at(at, all);
        let (start, run) = match image.next_written(BlockNo(at)) {
            Ok(Some((start, run))) if start.0 >= at && run > 0 => (start, run.min(RUN_BLOCKS)),
            Ok(_) => break,
            Err(error) => {
                findings.add("content", error.to_string());
                // Past the extent whose page cannot be read.
                at = (at / ExtentNo::BLOCKS + 1) * ExtentNo::BLOCKS;
                continue;
            }
        };
        at = start.0 + run;
        if image.read(start, &mut buffer[..run as usize * BLOCK]).is_ok() {
            continue;
        }
        for block in (start.0..at).map(BlockNo) {
            match image.read(block, &mut buffer[..BLOCK]) {
                Ok(()) => {}
                Err(ImageError::Rotten { .. }) if image.is_suspect(block) => suspects += 1,
                Err(error) => findings.add("content", error.to_string()),
            }
        }
    }
    progress.at(all, all);
    if suspects > 0 {
        findings.note(format!(
            "{suspects} blocks were being written when the machine stopped; mounting settles them"
        ));
    }
}
