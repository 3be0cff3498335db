//! Single rules of the image, each with the failure it prevents.

use super::*;
use crate::base::Digest;
use crate::format::{EXTENT_BYTES, PAGE_BYTES};

fn write(image: &Image, block: u64, version: u64) {
    let guard = image.lock(BlockNo(block), 1);
    image.make_hot(BlockNo(block), 1).expect("hot");
    let data = content(block, version);
    image.write(&guard, BlockNo(block), &data, &[Digest::of(&data)]).expect("write");
}

fn flush(image: &Image) {
    image.confirm(image.flush().expect("flush"));
}

/// The disk as a power cut leaves it that drops everything not flushed.
fn cut(disk: &Arc<MemDisk>, before: &MemDisk) -> Arc<MemDisk> {
    let events = disk.events();
    Arc::new(MemDisk::crash_image(before, &events, events.len(), &mut |_, _| false))
}

#[test]
fn what_is_written_is_read_after_a_clean_close() {
    let disk = disk(40 << 20, solo(), 4);
    let blocks = local(&disk);
    for extent in 0..9u64 {
        blocks.write(BlockNo(extent * 1024 + 5), &content(extent, 1)).expect("write");
    }
    blocks.flush().expect("flush");
    assert_eq!(blocks.image().dirty_blocks(), 9);
    blocks.image().close().expect("close");
    drop(blocks);
    let image = open(&disk);
    assert!(!image.was_unclean() && image.hot_ranges().is_empty());
    assert_eq!(image.dirty_blocks(), 9);
    for extent in 0..9u64 {
        assert_eq!(read(&image, extent * 1024 + 5), Ok(content(extent, 1)));
        assert_eq!(read(&image, extent * 1024 + 6), Ok(vec![0; 4096]));
    }
}

#[test]
fn a_small_durable_write_is_one_data_write_one_ring_write_one_flush() {
    let disk = disk(400 << 20, None, 64);
    let image = open(&disk);
    write(&image, 7, 1);
    flush(&image);
    let before = disk.counts();
    for version in 0..20 {
        write(&image, 7, version + 2);
        flush(&image);
    }
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.flushes - before.flushes), (40, 20));
    let idle = disk.counts();
    image.flush().expect("flush");
    assert_eq!(disk.counts(), idle, "a flush of nothing does nothing");
}

#[test]
fn a_write_into_a_cold_extent_is_refused() {
    let disk = disk(40 << 20, None, 4);
    let image = open(&disk);
    let data = content(1, 1);
    let guard = image.lock(BlockNo(1), 1);
    let refused = image.write(&guard, BlockNo(1), &data, &[Digest::of(&data)]);
    assert_eq!(refused, Err(ImageError::NotHot { extent: ExtentNo(0) }));
    assert_eq!(image.mark(BlockNo(1), 1), Err(ImageError::NotHot { extent: ExtentNo(0) }));
    image.make_hot(BlockNo(1), 1).expect("hot");
    let beside = image.write(&guard, BlockNo(2), &data, &[Digest::of(&data)]);
    assert_eq!(beside, Err(ImageError::NotLocked { first: BlockNo(2), count: 1 }));
}

#[test]
fn zeroed_digest_page_is_not_zeros() {
    let story = || {
        let disk = disk(40 << 20, None, 4);
        let image = open(&disk);
        write(&image, 3, 1);
        flush(&image);
        image.close().expect("close");
        let page = image.geometry().page_at(0);
        drop(image);
        disk.corrupt(page, &[0; PAGE_BYTES]);
        let image = open(&disk);
        assert_eq!(read(&image, 3), Err(ImageError::Rotten { block: BlockNo(3) }));
        assert_eq!(
            read(&image, 4),
            Err(ImageError::Rotten { block: BlockNo(4) }),
            "nobody can say it was not written"
        );
        assert!(image.extent_page(ExtentNo(0)).expect("page").damaged);
        assert_eq!(image.damaged_pages(), 1);
        // Written again (from a peer), a block is known again.
        write(&image, 3, 2);
        assert_eq!(read(&image, 3), Ok(content(3, 2)));
    };
    story();
    assert!(
        fails_without("a damaged page is not an empty one", story),
        "nothing notices that the rule is off"
    );
}

#[test]
fn an_older_digest_page_in_the_place_of_the_newer_one_is_noticed() {
    let disk = disk(40 << 20, None, 4);
    let image = open(&disk);
    write(&image, 3, 1);
    flush(&image);
    image.close().expect("close");
    let at = image.geometry().page_at(0);
    let mut old = vec![0; PAGE_BYTES];
    disk.read_at(at, &mut old).expect("read");
    write(&image, 4, 1);
    flush(&image);
    image.close().expect("close");
    drop(image);
    disk.corrupt(at, &old);
    let image = open(&disk);
    assert_eq!(read(&image, 4), Err(ImageError::Rotten { block: BlockNo(4) }), "not zeros");
    assert_eq!(read(&image, 3), Ok(content(3, 1)), "a matching digest is proof");
}

#[test]
fn rot_in_hot_extent_is_not_exported() {
    let story = || {
        let disk = disk(40 << 20, None, 4);
        let image = open(&disk);
        for block in 0..4 {
            write(&image, block, 1);
        }
        flush(&image);
        drop(image);
        let rotten_at = EXTENT_BYTES.min(65_536) + 2 * 4096 + 100;
        disk.corrupt(rotten_at, b"rot");
        let image = open(&disk);
        assert!(image.was_unclean());
        assert_eq!(image.hot_ranges(), vec![(BlockNo(0), 1024)]);
        assert_eq!(read(&image, 2), Err(ImageError::Rotten { block: BlockNo(2) }));
        assert_eq!(image.suspects(), Ok(vec![BlockNo(2)]));
        assert_eq!(image.blessed(), 0);
        assert_eq!(
            image.digests(BlockNo(2), 1),
            Ok(vec![Some(Digest::of(&content(2, 1)))]),
            "the digest stays"
        );
        // The peer's copy heals it; other bytes do not.
        let guard = image.lock(BlockNo(2), 1);
        assert_eq!(
            image.heal(&guard, BlockNo(2), &content(2, 9)),
            Err(ImageError::WrongRepair { block: BlockNo(2) })
        );
        image.heal(&guard, BlockNo(2), &content(2, 1)).expect("heals");
        assert_eq!(read(&image, 2), Ok(content(2, 1)));
        assert_eq!(image.suspects(), Ok(Vec::new()));
        assert!(!image.is_suspect(BlockNo(2)), "settled");
    };
    story();
    assert!(
        fails_without("after a crash a digest outlives its block", story),
        "nothing notices that the rule is off"
    );
}

#[test]
fn a_block_that_the_medium_cannot_read_is_repaired_like_a_rotten_one() {
    let disk = disk(40 << 20, None, 4);
    let image = open(&disk);
    for block in 0..4 {
        write(&image, block, 1);
    }
    disk.fail_reads_at(65_536 + 2 * 4096);
    let mut all = vec![0; 4 * 4096];
    assert_eq!(image.read(BlockNo(0), &mut all), Err(ImageError::Rotten { block: BlockNo(2) }), "which one");
    let guard = image.lock(BlockNo(2), 1);
    image.heal(&guard, BlockNo(2), &content(2, 1)).expect("heals");
    image.read(BlockNo(0), &mut all).expect("reads");
    assert_eq!(&all[2 * 4096..3 * 4096], content(2, 1));
}

#[test]
fn a_range_that_is_hot_in_part_gets_its_other_slot_without_holding_a_lock() {
    let image = open(&disk(80 << 20, None, 4));
    let slots = image.slot_count();
    for extent in 0..slots {
        write(&image, extent * 1024 + 1023, 1);
    }
    flush(&image);
    // The last extent and the next one: the first of the two is no room for the second.
    let first = BlockNo(slots * 1024 - 1);
    let got = (0..4).any(|_| {
        let hot = image.make_hot(first, 2);
        assert!(matches!(hot, Ok(()) | Err(ImageError::SlotsBusy)), "{hot:?}");
        flush(&image);
        hot.is_ok()
    });
    assert!(got && image.is_hot(first, 2));
}

#[test]
fn rot_of_a_cold_extent_is_not_suspect_and_not_blessed() {
    let disk = disk(40 << 20, None, 4);
    let image = open(&disk);
    write(&image, 2, 1);
    flush(&image);
    image.close().expect("close");
    drop(image);
    disk.corrupt(65_536 + 2 * 4096, b"rot");
    let image = open(&disk);
    assert_eq!(read(&image, 2), Err(ImageError::Rotten { block: BlockNo(2) }));
    assert!(!image.is_suspect(BlockNo(2)));
    image.make_hot(BlockNo(2), 1).expect("hot");
    let guard = image.lock(BlockNo(2), 1);
    assert_eq!(image.bless(&guard, BlockNo(2)), Err(ImageError::Rotten { block: BlockNo(2) }));
}

#[test]
fn backup_alone_after_double_power_cut_reads_everything() {
    let story = || {
        let disk = disk(80 << 20, None, 8);
        let image = open(&disk);
        let before = disk.fork();
        disk.record();
        // A secondary: writes and flushes as they arrive, in more extents than slots, pages lazy.
        for version in 1..=200u64 {
            let block = version * 7919 % (15 * 1024);
            while image.make_hot(BlockNo(block), 1) == Err(ImageError::SlotsBusy) {
                flush(&image);
            }
            write(&image, block, version);
            if version % 3 == 0 {
                flush(&image);
            }
        }
        flush(&image);
        let disk = cut(&disk, &before);
        let image = open(&disk);
        for version in 1..=200u64 {
            let block = version * 7919 % (15 * 1024);
            assert_eq!(read(&image, block), Ok(content(block, version)), "block {block}");
        }
        assert_eq!(image.suspects(), Ok(Vec::new()));
    };
    story();
    assert!(fails_without("hot before the first write", story), "nothing notices that the rule is off");
}

#[test]
fn filler_vs_allocator() {
    let story = || {
        let disk = disk(40 << 20, None, 4);
        let image = open(&disk);
        let whole = image.lock(BlockNo(0), 1024);
        assert!(image.try_lock(BlockNo(9), 1).is_none(), "nobody writes while the extent is being filled");
        image.back(&whole, ExtentNo(0)).expect("backs");
        drop(whole);
        write(&image, 9, 1);
        flush(&image);
        let part = image.lock(BlockNo(0), 10);
        let refused = image.back(&part, ExtentNo(0));
        assert_eq!(refused, Err(ImageError::NotLocked { first: BlockNo(0), count: 1024 }));
        drop(part);
        // Backing an extent that already has blocks zeroes only the others.
        write(&image, 2000, 1);
        let whole = image.lock(BlockNo(1024), 1024);
        image.back(&whole, ExtentNo(1)).expect("backs");
        assert!(
            image.is_backed(ExtentNo(0)) && image.is_backed(ExtentNo(1)) && !image.is_backed(ExtentNo(2))
        );
        assert_eq!(read(&image, 9), Ok(content(9, 1)));
        assert_eq!(read(&image, 2000), Ok(content(2000, 1)));
        drop((whole, image));
        assert!(open(&disk).is_backed(ExtentNo(1)), "stable");
    };
    story();
    assert!(
        fails_without("operations on one block exclude each other", story),
        "nothing notices that the rule is off"
    );
}

#[test]
fn discard_vs_reuse() {
    let story = || {
        let disk = disk(40 << 20, None, 4);
        let image = open(&disk);
        write(&image, 5, 1);
        flush(&image);
        let whole = image.lock(BlockNo(0), 1024);
        image.discard(&whole, BlockNo(0), 1024).expect("discard");
        assert!(image.try_lock(BlockNo(5), 1).is_none());
        drop(whole);
        assert_eq!(read(&image, 5), Ok(vec![0; 4096]), "from the map, whatever the device returns");
        write(&image, 5, 2);
        flush(&image);
        assert_eq!(read(&image, 5), Ok(content(5, 2)));
        drop(image);
        assert_eq!(read(&open(&disk), 5), Ok(content(5, 2)));
    };
    story();
    assert!(
        fails_without("operations on one block exclude each other", story),
        "nothing notices that the rule is off"
    );
}

#[test]
fn a_discard_wider_than_the_activity_log_uses_it_part_by_part() {
    let disk = disk(128 << 20, solo(), 4);
    let local = local(&disk);
    for extent in 0..20 {
        local.write(BlockNo(extent * 1024 + 5), &content(extent, 1)).expect("write");
    }
    local.discard(BlockNo(0), 20 * 1024).expect("discard");
    for extent in 0..20 {
        assert_eq!(read(local.image(), extent * 1024 + 5), Ok(vec![0; 4096]));
    }
}

#[test]
fn a_discarded_extent_is_given_back_only_after_it_stopped_being_backed() {
    let disk = disk(40 << 20, None, 4);
    let image = open(&disk);
    let whole = image.lock(BlockNo(0), 1024);
    image.back(&whole, ExtentNo(0)).expect("back");
    drop(whole);
    write(&image, 5, 1);
    flush(&image);
    disk.record();
    let full = disk.allocated_bytes();
    let whole = image.lock(BlockNo(0), 1024);
    image.discard(&whole, BlockNo(0), 1024).expect("discard");
    assert!(!image.is_backed(ExtentNo(0)));
    assert!(disk.allocated_bytes() + EXTENT_BYTES <= full + 65_536);
    let events = disk.events();
    let punch = events.iter().position(|e| matches!(e, Event::Punch { .. })).expect("punched");
    assert!(events[..punch].contains(&Event::Flush));
}

#[test]
fn host_disk_full_under_sparse_image() {
    let story = || {
        let disk = disk(40 << 20, None, 4);
        let image = open(&disk);
        let whole = image.lock(BlockNo(0), 1024);
        image.back(&whole, ExtentNo(0)).expect("backs");
        drop(whole);
        write(&image, 1, 1);
        flush(&image);
        disk.limit_room(Some(1 << 20));
        let whole = image.lock(BlockNo(1024), 1024);
        assert_eq!(image.back(&whole, ExtentNo(1)), Err(ImageError::NoSpace { extent: ExtentNo(1) }));
        assert!(!image.is_backed(ExtentNo(1)));
        disk.limit_room(Some(0));
        // What is backed goes on, metadata included.
        for block in 0..200 {
            write(&image, block, 2);
            flush(&image);
        }
        assert_eq!(image.failure(), None);
        image.close().expect("close");
        disk.limit_room(None);
        image.back(&whole, ExtentNo(1)).expect("room again");
        assert_eq!(read(&image, 150), Ok(content(150, 2)));
    };
    story();
    assert!(
        fails_without("backing takes the room from the host", story),
        "nothing notices that the rule is off"
    );
}

#[test]
fn a_torn_superblock_slot_leaves_the_other() {
    let disk = disk(40 << 20, None, 4);
    let image = open(&disk);
    let before = disk.fork();
    disk.record();
    let mut state = image.state();
    state.boot_epoch = 42;
    state.gens = vec![state.gens[0]; 64];
    image.store(&state).expect("store");
    let events = disk.events();
    let at = events.iter().position(|e| matches!(e, Event::Write { .. })).expect("the slot") + 1;
    for kept in 0..24 {
        let torn = Arc::new(MemDisk::crash_image(&before, &events, at, &mut |_, piece| piece < kept));
        let epoch = open(&torn).state().boot_epoch;
        assert!((epoch == 42) == (kept >= 6), "{kept} pieces");
    }
    assert_eq!(open(&cut(&disk, &before)).state(), state);
}

#[test]
fn a_failed_flush_is_final() {
    let disk = disk(40 << 20, None, 4);
    let image = open(&disk);
    write(&image, 1, 1);
    disk.fail_flushes();
    assert!(image.flush().is_err());
    assert!(matches!(image.flush(), Err(ImageError::Failed(_))));
    assert!(matches!(image.store(&image.state()), Err(ImageError::Failed(_))));
    assert!(matches!(image.make_hot(BlockNo(5000), 1), Err(ImageError::Failed(_))));
    assert_eq!(read(&image, 1), Ok(content(1, 1)), "reading goes on");
}

#[test]
fn bad_images_are_refused_in_one_clear_sentence() {
    let told = |disk: &Arc<MemDisk>, options: &OpenOptions| {
        Image::open(disk.clone(), options).err().expect("refused").to_string()
    };
    let read_write = OpenOptions::read_write();
    let good = disk(40 << 20, None, 4);
    assert!(told(&Arc::new(MemDisk::new(40 << 20)), &read_write).contains("it is blank"));
    let other = Arc::new(MemDisk::new(40 << 20));
    other.corrupt(1080, b"\x53\xef");
    assert!(told(&other, &read_write).contains("found ext2/ext3/ext4"));
    let wrong = OpenOptions::read_write().volume(VolumeId(8));
    assert!(told(&good, &wrong).contains("belongs to volume 00000000000000000000000000000007"));
    let image = open(&good);
    let geometry = image.geometry().clone();
    drop(image);
    let short = Arc::new(MemDisk::new(20 << 20));
    for (offset, bytes) in good.allocated().into_iter().filter(|(offset, _)| *offset < 20 << 20) {
        short.corrupt(offset, &bytes);
    }
    assert!(told(&short, &read_write).contains("truncated"));
    let both = Arc::new(good.fork());
    both.corrupt(geometry.slots[0] + 50, b"x");
    both.corrupt(geometry.slots[1] + 50, b"x");
    assert!(told(&both, &read_write).contains("both superblock slots are damaged"));
    let ring = Arc::new(good.fork());
    ring.corrupt(geometry.ring, &[9; 128 * 4096]);
    assert!(told(&ring, &read_write).contains("activity log"));
    let label = Arc::new(good.fork());
    label.corrupt(0, &[0; 4096]);
    assert!(Image::open(label, &read_write).is_ok(), "the second label stands in");
    let small: Arc<dyn Disk> = Arc::new(MemDisk::new(1 << 20));
    assert!(matches!(format(&small, &options(None, 0)), Err(ImageError::TooSmall { .. })));
}

#[test]
fn probe_knows_ours_and_others() {
    let blank = MemDisk::new(10 << 20);
    assert_eq!(probe(&blank), Ok(Probe::Blank));
    let ours = disk(10 << 20, None, 4);
    let found = Probe::TwinfsImage { volume: Some(VolumeId(7)), uuid: 0xabc, label: "test".to_string() };
    assert_eq!(probe(&*ours), Ok(found));
    for (offset, magic, name) in
        [(0u64, &b"XFSB"[..], "xfs"), (4086, b"SWAPSPACE2", "swap"), (512, b"LABELONE", "LVM")]
    {
        let disk = MemDisk::new(10 << 20);
        disk.corrupt(offset, magic);
        assert!(matches!(probe(&disk), Ok(Probe::OtherSignature { name: n }) if n.contains(name)));
    }
    assert!(probe(&MemDisk::new(512)).is_ok() && probe(&MemDisk::new(0)).is_ok());
}

#[test]
fn bits_survive_eviction_close_and_power_cuts_and_clear_at_the_join() {
    let disk = disk(80 << 20, solo(), 4);
    let blocks = local(&disk);
    let before = disk.fork();
    disk.record();
    for extent in 0..17u64 {
        blocks.write(BlockNo(extent * 1024), &content(extent, 1)).expect("write");
        blocks.flush().expect("flush");
    }
    let image = open(&cut(&disk, &before));
    // Each written extent is marked, or hot and so covered by `hot_ranges`.
    for extent in 0..17u64 {
        let block = BlockNo(extent * 1024);
        let marked = image.next_differs(block).is_some_and(|(first, _)| first == block);
        let hot =
            image.hot_ranges().iter().any(|(first, count)| *first <= block && block.0 < first.0 + count);
        assert!(marked || hot, "extent {extent} is forgotten");
    }
    let image = blocks.image();
    image.start_copy(false).expect("start");
    assert_eq!((image.dirty_blocks(), image.to_copy_blocks()), (17, 17));
    assert_eq!(image.next_to_copy(BlockNo(1)), Some((BlockNo(1024), 1)));
    image.copied(BlockNo(0), 5000);
    assert_eq!((image.dirty_blocks(), image.to_copy_blocks()), (17, 12));
    image.mark_stable(&[(BlockNo(30), 3)]).expect("marks");
    assert_eq!(open(&cut(&disk, &before)).next_differs(BlockNo(1)), Some((BlockNo(30), 3)));
    image.start_copy(true).expect("full");
    assert_eq!(image.to_copy_blocks(), 17, "what was never written need not be copied");
    image.clear_bits().expect("clear");
    assert_eq!((image.dirty_blocks(), image.to_copy_blocks()), (0, 0));
    assert_eq!(open(&cut(&disk, &before)).next_differs(BlockNo(0)), None);
}

#[test]
fn a_damaged_bitmap_block_counts_as_set() {
    let disk = disk(40 << 20, solo(), 4);
    let blocks = local(&disk);
    blocks.write_flush(BlockNo(10), &content(10, 1)).expect("write");
    blocks.image().close().expect("close");
    let at = blocks.image().geometry().group_at(0) + 4096;
    drop(blocks);
    disk.corrupt(at + 20, b"junk");
    let image = open(&disk);
    assert_eq!(image.next_differs(BlockNo(0)), Some((BlockNo(0), 496 * 8)));
}

#[test]
fn equal_content_has_equal_summaries_on_two_images() {
    let (a, b) = (disk(40 << 20, None, 4), disk(80 << 20, None, 8));
    let (a, b) = (open(&a), open(&b));
    for block in [1, 900, 1500] {
        write(&b, block, 3);
        write(&a, block, 3);
    }
    flush(&a);
    assert_eq!(a.summary(ExtentNo(0)), b.summary(ExtentNo(0)));
    a.close().expect("close");
    assert_eq!(a.summary(ExtentNo(1)).map(|s| s.hash), b.summary(ExtentNo(1)).map(|s| s.hash));
    assert_ne!(a.summary(ExtentNo(0)).map(|s| s.hash), b.summary(ExtentNo(1)).map(|s| s.hash));
    assert!(!a.summary(ExtentNo(2)).expect("summary").touched);
    let runs: Vec<_> = a.written_runs(BlockNo(0)).collect::<Result<_, _>>().expect("runs");
    assert_eq!(runs, vec![(BlockNo(1), 1), (BlockNo(900), 1), (BlockNo(1500), 1)]);
}

#[test]
fn an_image_of_two_members_is_only_read_and_an_overlay_keeps_writes_from_it() {
    let pair = Some(Record { v: 1, members: Members::BOTH, primary: NodeId::A });
    let disk = disk(40 << 20, pair, 4);
    let blocks = local(&disk);
    assert_eq!(blocks.write(BlockNo(1), &content(1, 1)), Err(BlocksError::ReadOnly));
    let before = disk.counts().writes;
    let overlay = OverlayBlocks::new(blocks);
    overlay.write_flush(BlockNo(1), &content(1, 1)).expect("write");
    let mut out = vec![9; 3 * 4096];
    overlay.read(BlockNo(0), &mut out).expect("read");
    assert!(out[..4096].iter().all(|b| *b == 0) && out[4096..8192] == content(1, 1));
    overlay.discard(BlockNo(1), 1).expect("discard");
    overlay.read(BlockNo(0), &mut out).expect("read");
    assert!(out.iter().all(|b| *b == 0));
    assert_eq!(disk.counts().writes, before);
}

#[test]
fn hot_extents_in_use_are_never_evicted() {
    let disk = disk(80 << 20, None, 4);
    let image = open(&disk);
    let guards: Vec<_> = (0..4u64)
        .map(|extent| {
            let guard = image.lock(BlockNo(extent * 1024), 1);
            image.make_hot(BlockNo(extent * 1024), 1).expect("hot");
            guard
        })
        .collect();
    assert_eq!(image.make_hot(BlockNo(4 * 1024), 1), Err(ImageError::SlotsBusy));
    for guard in &guards {
        let data = content(1, 1);
        image.write(guard, guard.first(), &data, &[Digest::of(&data)]).expect("write");
    }
    drop(guards);
    assert_eq!(image.make_hot(BlockNo(4 * 1024), 1), Err(ImageError::SlotsBusy), "written, not flushed");
    let mut epoch = FlushEpoch(0);
    for _ in 0..4 {
        epoch = image.flush().expect("flush");
        assert_eq!(image.make_hot(BlockNo(4 * 1024), 1), Err(ImageError::SlotsBusy), "not confirmed");
    }
    image.confirm(epoch);
    image.make_hot(BlockNo(4 * 1024), 1).expect("a slot is free now");
    assert_eq!(image.pin_hot(BlockNo(0), 5 * 1024), Err(ImageError::TooManyExtents { extents: 5, slots: 4 }));
}
