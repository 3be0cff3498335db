//! Damage below the digests: flipped bits, lost sectors, lost pages, in every structure of the image.

use twinfs::base::BlockNo;
use twinfs::format::{GROUP_EXTENTS, LABEL_COPIES, RING_BLOCKS};

use super::kit::*;
use crate::options::Repair;

#[test]
fn a_sound_image_is_clean_whether_closed_or_left_by_a_crash() {
    for close in [true, false] {
        let image = make(close);
        let before = image.allocated();
        let said = fsck(&image, &options(Repair::Nothing));
        assert!(said.lines.is_empty(), "{:#?}", said.lines);
        assert_eq!(fsck(&image, &options(Repair::Everything)).end, "nothing");
        assert!(before == image.allocated());
    }
}

#[test]
fn every_part_of_the_image_below_the_filesystem_is_repaired_without_any_loss() {
    let image = make(true);
    let (places, expected) = (places(&image), tree(&image));
    let extent = places.touched(&image)[0];
    let group = places.geometry.group_at(extent / GROUP_EXTENTS);
    let cases: &[(&[u64], &str)] = &[
        (&[LABEL_COPIES[0] + 20], "label: copy at 0"),
        (&[LABEL_COPIES[1] + 20], "label: copy at 32768"),
        (&[LABEL_COPIES[0] + 20, LABEL_COPIES[1] + 20], "label: made again from the superblock"),
        (&[LABEL_COPIES[0], LABEL_COPIES[1]], "label: made again from the superblock"),
        (&[places.slots[0] + 50], "superblock: slot 0"),
        (&[places.slots[1] + 50], "superblock: slot 1"),
        (&[group + 100], "summary: sector 0"),
        (&[group + 700], "summary: sector 1"),
        (&[group + 4096 + 100], "bitmaps: Differs, sector 0"),
        (&[group + 9 * 4096 + 100], "bitmaps: ToCopy, sector 0"),
        (&[places.geometry.page_at(extent) + 40], "digests: extent"),
        (&[places.geometry.page_at(extent) + 1100], "digests: extent"),
        (&[places.geometry.page_at(extent) + 16_000], "digests: extent"),
        (&[places.geometry.block_at(0) + 9], "content: block 0 of the fixed areas: one bit is flipped"),
        (&[places.geometry.block_at(1) + 9], "content: block 1 of the fixed areas: one bit is flipped"),
    ];
    for (offsets, words) in cases {
        let damaged = copy(&image);
        offsets.iter().for_each(|at| flip(&damaged, *at));
        find_and_repair(&damaged, words);
        same(&expected, &tree(&damaged), &[], words);
    }
}

#[test]
fn a_whole_digest_page_or_summary_that_is_gone_loses_no_file() {
    let image = make(true);
    let (places, expected) = (places(&image), tree(&image));
    for extent in places.touched(&image) {
        for (what, fill) in [("zeros", 0), ("garbage", 0xA5)] {
            let damaged = copy(&image);
            damaged.corrupt(places.geometry.page_at(extent), &[fill; 16_384]);
            let words = format!("extent {extent} {what}");
            find_and_repair(&damaged, &format!("digests: extent {extent}"));
            same(&expected, &tree(&damaged), &[], &words);
        }
        let damaged = copy(&image);
        damaged.corrupt(places.geometry.page_at(extent), &[0; 16_384]);
        let sector = extent % GROUP_EXTENTS / 31 * 512;
        damaged.corrupt(places.geometry.group_at(extent / GROUP_EXTENTS) + sector, &[0; 512]);
        find_and_repair(&damaged, "summary: sector");
        same(&expected, &tree(&damaged), &[], "page and summary");
    }
}

#[test]
fn an_activity_log_that_is_gone_loses_no_file() {
    for close in [true, false] {
        let image = make(close);
        let (places, expected) = (places(&image), tree(&image));
        for (from, to) in [(0, RING_BLOCKS), (0, RING_BLOCKS / 2), (RING_BLOCKS / 2, RING_BLOCKS)] {
            let damaged = copy(&image);
            for place in from..to {
                damaged.corrupt(places.geometry.ring_at(place), &[0x5A; 4096]);
            }
            let said = fsck(&damaged, &options(Repair::Nothing));
            if said.lines.is_empty() {
                // That half of the ring was not needed.
                continue;
            }
            find_and_repair(&damaged, "activity log:");
            same(&expected, &tree(&damaged), &[], "activity log");
        }
    }
}

/// Whose copy it was is lost; no file is.
#[test]
fn two_lost_superblock_slots_are_made_again_as_a_copy_of_its_own() {
    for close in [true, false] {
        let image = make(close);
        let (places, expected) = (places(&image), tree(&image));
        let damaged = copy(&image);
        places.slots.iter().for_each(|at| spoil(&damaged, at + 50, 100));
        let before = damaged.allocated();
        assert_eq!(fsck(&damaged, &options(Repair::Safe)).end, "left", "that loses something");
        assert!(before == damaged.allocated());
        find_and_repair(&damaged, "both slots are damaged: made again");
        same(&expected, &tree(&damaged), &[], "superblock");
        let opened =
            twinfs::image::Image::open(disk(&damaged), &twinfs::image::OpenOptions::read_only()).unwrap();
        assert_eq!(opened.geometry(), &places.geometry, "the activity log too has as many slots as before");
        assert_ne!(opened.state().volume, twinfs::base::VolumeId(77), "no peer takes it for its other half");
        // With everything that describes the data gone as well, the content still speaks for itself.
        let damaged = copy(&image);
        let rest = places.geometry.image_bytes - places.geometry.ring;
        if close {
            damaged.corrupt(places.geometry.ring, &vec![0; rest as usize]);
            find_and_repair(&damaged, "both slots are damaged: made again");
            same(&expected, &tree(&damaged), &[], "all metadata");
        }
    }
}

#[test]
fn a_start_of_the_data_that_is_gone_is_made_again_from_the_copies_of_the_superblock() {
    for close in [true, false] {
        let image = make(close);
        let (places, expected, sup) = (places(&image), tree(&image), fs_super(&image));
        let (copies, _) = sup.copies().unwrap();
        for (fill, lost) in [(0, 24), (0xA5, 2)] {
            for also_older in [false, true] {
                let damaged = copy(&image);
                // As whoever writes a boot sector or a wrong file over an image: at rest, the log is not needed.
                let lost = if close { lost } else { 2 };
                damaged.corrupt(places.geometry.block_at(0), &vec![fill; lost * 4096]);
                if also_older {
                    let older = copies.plus(((sup.seq + 1) % 2) * (1 + sup.cont_blocks));
                    spoil(&damaged, places.geometry.block_at(older.0), 4096);
                }
                find_and_repair(
                    &damaged,
                    "filesystem superblock: slot 0: no superblock (a copy of it counts)",
                );
                same(&expected, &tree(&damaged), &[], "start of the data");
                assert!(fs_super(&damaged).copied);
            }
        }
    }
}

#[test]
fn what_is_beyond_repair_is_said_and_not_touched() {
    let image = make(true);
    let places = places(&image);
    let damaged = copy(&image);
    let (copies, count) = fs_super(&image).copies().unwrap();
    for slot in (0..2).chain(copies.0..copies.0 + count) {
        spoil(&damaged, places.geometry.block_at(slot), 4096);
    }
    let before = damaged.allocated();
    let said = fsck(&damaged, &options(Repair::Everything));
    assert!(said.has("filesystem: slot") && said.end == "left", "{:?}", said.lines);
    assert!(before == damaged.allocated());
}

#[test]
fn one_slot_of_the_filesystems_superblock_is_written_again() {
    let image = make(true);
    let (places, expected) = (places(&image), tree(&image));
    for slot in 0..2 {
        let damaged = copy(&image);
        spoil(&damaged, places.geometry.block_at(slot), 4096);
        find_and_repair(&damaged, &format!("block {slot} of the fixed areas: does not match"));
        same(&expected, &tree(&damaged), &[], "superblock slot");
    }
}

/// Blocks of all pages of the tables that were ever written.
fn table_blocks(image: &std::sync::Arc<twinfs::image::MemDisk>) -> Vec<u64> {
    let sup = fs_super(image);
    let opened = twinfs::image::Image::open(disk(image), &twinfs::image::OpenOptions::read_only()).unwrap();
    let pages = sup.tables_len / 4096;
    let bound = sup.chunks.iter().filter(|(index, _)| index * 64 < pages);
    let blocks = bound.flat_map(|(_, first)| *first..first + 64);
    let written = |block: &u64| opened.digests(BlockNo(*block), 1).unwrap()[0].is_some();
    let zero = |block: &u64| {
        let mut content = [0; 4096];
        opened.read(BlockNo(*block), &mut content).unwrap();
        content.iter().all(|byte| *byte == 0)
    };
    blocks.filter(written).filter(|block| !zero(block)).collect()
}

#[test]
fn a_flipped_bit_in_any_page_of_the_tables_is_put_right_without_any_loss() {
    let image = make(true);
    let (places, expected) = (places(&image), tree(&image));
    let blocks = table_blocks(&image);
    for block in blocks.iter().step_by(sample(blocks.len())) {
        let damaged = copy(&image);
        flip(&damaged, places.geometry.block_at(*block) + 700);
        let said = find_and_repair(&damaged, "one bit is flipped: put right");
        assert_eq!(said.lossy, 0);
        same(&expected, &tree(&damaged), &[], "flipped bit");
    }
}

/// Any one sector of any page of the tables may be gone: the image is sound afterwards, most of it is there, and what
/// is lost was said.
#[test]
fn a_lost_sector_in_any_page_of_the_tables_costs_at_most_what_lay_there() {
    let image = make(true);
    let (places, expected) = (places(&image), tree(&image));
    let blocks = table_blocks(&image);
    for (n, block) in blocks.iter().enumerate().step_by(sample(blocks.len())) {
        let damaged = copy(&image);
        let at = places.geometry.block_at(*block) + (n % 8 * 512) as u64;
        spoil(&damaged, at, 512);
        find_and_repair(&damaged, "");
        let after = tree(&damaged);
        let kept = expected
            .iter()
            .filter(|(path, thing)| after.get(*path).is_some_and(|now| now.bytes == thing.bytes));
        let kept = kept.count();
        assert!(kept + 40 > expected.len(), "block {block}: {kept} of {}", expected.len());
    }
}

#[test]
fn a_lost_page_of_the_tables_costs_at_most_what_lay_there() {
    let image = make(true);
    let (places, expected) = (places(&image), tree(&image));
    let blocks = table_blocks(&image);
    for (n, block) in blocks.iter().enumerate().step_by(sample(blocks.len())) {
        let damaged = copy(&image);
        let fill = if n % 2 == 0 { 0 } else { 0xC3 };
        damaged.corrupt(places.geometry.block_at(*block), &[fill; 4096]);
        find_and_repair(&damaged, "");
        let after = tree(&damaged);
        // What had a name in a lost page has its content still, somewhere.
        let contents: std::collections::BTreeSet<&[u8]> =
            after.values().map(|thing| thing.bytes.as_slice()).collect();
        let kept = expected.values().filter(|thing| contents.contains(thing.bytes.as_slice())).count();
        // A leaf holds a hundred extents.
        assert!(kept + 110 > expected.len(), "block {block}: {kept} of {}", expected.len());
    }
}

#[test]
fn rotten_content_of_a_file_is_told_by_path_and_stays_as_it_lies() {
    let image = make(true);
    let (places, expected) = (places(&image), tree(&image));
    let damaged = copy(&image);
    let opened = twinfs::image::Image::open(disk(&image), &twinfs::image::OpenOptions::read_only()).unwrap();
    let mut content = [0; 4096];
    let block = (fs_super(&image).data_first..opened.block_count())
        .find(|block| opened.read(BlockNo(*block), &mut content).is_ok() && content == [7; 4096])
        .unwrap();
    spoil(&damaged, places.geometry.block_at(block) + 100, 200);
    let said = find_and_repair(&damaged, "/late, bytes from 0");
    assert_eq!(said.lossy, 1);
    let after = tree(&damaged);
    same(&expected, &after, &["/late"], "rot");
    let (old, new) = (&expected["/late"].bytes, &after["/late"].bytes);
    assert!(old.len() == new.len() && old.iter().zip(new).filter(|(a, b)| a != b).count() <= 200);
    // With safe repairs only nothing is done.
    let damaged = copy(&image);
    spoil(&damaged, places.geometry.block_at(block) + 100, 200);
    let before = damaged.allocated();
    assert_eq!(fsck(&damaged, &options(Repair::Safe)).end, "left");
    assert!(before == damaged.allocated());
}

#[test]
fn a_lost_record_of_the_log_is_told_and_what_was_checkpointed_is_there() {
    let image = make(false);
    let (places, expected, sup) = (places(&image), tree(&image), fs_super(&image));
    // A mount settles what the crash left; then the log is stable, and rot in it is no crash.
    let blocks = open_blocks(&image);
    blocks.image().close().unwrap();
    let volume = twinfs::offline::Volume::open(blocks.image(), sup.clone()).unwrap();
    let first = volume.records.first().unwrap().seq;
    let at = sup.ring_first + volume.meta.next_pos;
    let damaged = copy(&image);
    spoil(&damaged, places.geometry.block_at(at) + 200, 300);
    let said = find_and_repair(&damaged, "log: ");
    assert!(said.has(&format!("record {first}")), "{:?}", said.lines);
    same(&expected, &tree(&damaged), &["/late"], "log");
}
