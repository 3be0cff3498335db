//! The undo log: after any crash of a target it goes back to exactly the state it had before the resync.

use std::collections::BTreeMap;

use super::*;
use crate::base::Digest;
use crate::format::{BLOCK, UndoBatch, UndoStage};

const EXTENTS: u64 = 9;
const LEN: u64 = 40 << 20;
const PLACES: [u64; 5] = [0, 1, 2, 700, 1023];

fn heat(image: &Image, first: u64, count: u64) -> Result<(), ImageError> {
    for _ in 0..8 {
        match image.make_hot(BlockNo(first), count) {
            Err(ImageError::SlotsBusy) => image.confirm(image.flush()?),
            done => return done,
        }
    }
    Err(ImageError::SlotsBusy)
}

fn write(image: &Arc<Image>, first: u64, count: u64, version: u64, flush: bool) {
    let guard = image.lock(BlockNo(first), count);
    heat(image, first, count).expect("hot");
    let data: Vec<u8> = (first..first + count).flat_map(|block| content(block, version)).collect();
    let digests = Digest::of_blocks(&data);
    if flush {
        image.confirm(image.write_flush(&guard, BlockNo(first), &data, &digests).expect("write"));
    } else {
        image.write(&guard, BlockNo(first), &data, &digests).expect("write");
    }
}

fn discard(image: &Arc<Image>, first: u64, count: u64) {
    let guard = image.lock(BlockNo(first), count);
    heat(image, first, count).expect("hot");
    image.discard(&guard, BlockNo(first), count).expect("discard");
}

fn set_mark(image: &Image, resync: ResyncMark) {
    image.store(&State { resync, ..image.state() }).expect("store");
}

const TARGET: ResyncMark = ResyncMark::Target { of: Generation(6) };

/// Every block that was written, and what it reads as.
fn all(image: &Image) -> BTreeMap<u64, Vec<u8>> {
    let runs = image.written_runs(BlockNo(0)).map(|run| run.expect("written"));
    let blocks = runs.flat_map(|(first, count)| first.0..first.0 + count);
    blocks.map(|block| (block, read(image, block).expect("readable"))).collect()
}

fn put_all_back(image: &Arc<Image>) -> Result<(), ImageError> {
    image.begin_going_back()?;
    let mut cursor = BackCursor::default();
    while let Some(runs) = image.next_to_put_back(&mut cursor)? {
        for run in runs {
            let guard = image.lock(run.first, run.count);
            heat(image, run.first.0, run.count)?;
            image.put_back(&guard, &run)?;
        }
    }
    image.confirm(image.flush()?);
    Ok(())
}

fn go_back(image: &Arc<Image>) -> Result<(), ImageError> {
    put_all_back(image)?;
    image.store(&State { resync: ResyncMark::None, ..image.state() })
}

/// A copy with some content, flushed, that has just become a target; and what it holds.
fn target() -> (Arc<MemDisk>, Arc<Image>, BTreeMap<u64, Vec<u8>>) {
    let disk = disk(LEN, solo(), 4);
    let image = open(&disk);
    for extent in 0..EXTENTS - 2 {
        for place in PLACES {
            if (extent + place) % 3 != 0 {
                write(&image, extent * 1024 + place, 1, 1, false);
            }
        }
    }
    image.confirm(image.flush().expect("flush"));
    set_mark(&image, TARGET);
    let before = all(&image);
    (disk, image, before)
}

struct Run {
    base: MemDisk,
    events: Vec<Event>,
    before: BTreeMap<u64, Vec<u8>>,
}

/// A resync, the primary's writes and discards all overwrite the copy.
fn run(seed: u64, operations: u64) -> Run {
    let (disk, image, before) = target();
    let base = disk.fork();
    disk.record();
    let mut random = Random(seed * 91 + 5);
    for version in 2..2 + operations {
        let place = PLACES[random.below(5) as usize];
        let first = random.below(EXTENTS) * 1024 + place;
        let count = 1 + random.below(3).min(EXTENTS * 1024 - 1 - first);
        match random.below(10) {
            0..=5 => write(&image, first, count, version, false),
            6 => write(&image, first, count, version, true),
            7 => discard(&image, first, count),
            8 => discard(&image, random.below(EXTENTS) * 1024, 1024),
            _ => image.confirm(image.flush().expect("flush")),
        }
    }
    image.confirm(image.flush().expect("flush"));
    Run { base, events: disk.events(), before }
}

fn crash(base: &MemDisk, events: &[Event], cut: usize, mode: u64, random: &mut Random) -> Arc<MemDisk> {
    let mut keep = |event: usize, _: usize| match mode {
        0 => false,
        1 => true,
        2 => event + 1 == cut,
        _ => random.below(2) == 0,
    };
    Arc::new(MemDisk::crash_image(base, events, cut, &mut keep))
}

fn is_before(image: &Image, before: &BTreeMap<u64, Vec<u8>>) -> Result<(), String> {
    let now = all(image);
    let wrong = |block: &&u64| now.get(block) != before.get(block);
    match now.keys().chain(before.keys()).find(wrong) {
        Some(block) => Err(format!("block {block} is not what it was")),
        None => Ok(()),
    }
}

impl Run {
    fn judge(&self, cut: usize, mode: u64, random: &mut Random) -> Result<(), String> {
        let disk = crash(&self.base, &self.events, cut, mode, random);
        let wrong = |error: ImageError| format!("cut {cut} mode {mode}: {error}");
        let image = Arc::new(Image::open(disk.clone(), &OpenOptions::read_write()).map_err(wrong)?);
        // Going back is itself cut once, and goes on at the next start.
        let half = disk.fork();
        disk.record();
        go_back(&image).map_err(wrong)?;
        is_before(&image, &self.before).map_err(|text| format!("cut {cut} mode {mode}: {text}"))?;
        let events = disk.events();
        let inner = random.below(events.len() as u64 + 1) as usize;
        let disk = crash(&half, &events, inner, mode, random);
        let image = Arc::new(Image::open(disk, &OpenOptions::read_write()).map_err(wrong)?);
        match image.undo().stage {
            UndoStage::None => {}
            _ => go_back(&image).map_err(wrong)?,
        }
        is_before(&image, &self.before).map_err(|text| format!("cut {cut}, {inner} mode {mode}: {text}"))
    }

    fn violation(&self, step: usize, seed: u64) -> Option<String> {
        let mut random = Random(seed * 13 + 3);
        let mut cuts = (0..=self.events.len()).step_by(step);
        cuts.find_map(|cut| (0..4).find_map(|mode| self.judge(cut, mode, &mut random).err()))
    }
}

#[test]
fn a_target_goes_back_from_every_cut() {
    for seed in 1..=3 {
        let run = run(seed, 40);
        assert!(run.events.len() > 80, "only {} events", run.events.len());
        assert_eq!(run.violation(1, seed), None);
    }
}

#[test]
fn every_broken_rule_of_the_undo_log_is_caught() {
    for rule in ["undo is stable before the overwrite", "a discard is saved as well"] {
        let caught =
            (1..=6).any(|seed| fails_without(rule, || assert_eq!(run(seed, 40).violation(1, seed), None)));
        assert!(caught, "nothing notices that the rule is off: {rule}");
    }
}

#[test]
fn going_back_marks_what_it_changes_and_a_join_forgets_the_log() {
    let (_, image, _) = target();
    write(&image, 1024, 3, 9, false);
    discard(&image, 1, 1);
    assert_eq!(image.undo().blocks, 4);
    go_back(&image).expect("goes back");
    assert_eq!(image.next_differs(BlockNo(0)), Some((BlockNo(1), 1)));
    assert_eq!(image.next_differs(BlockNo(2)), Some((BlockNo(1024), 3)));
    assert_eq!(image.undo().stage, UndoStage::None);
    set_mark(&image, TARGET);
    write(&image, 1024, 1, 10, false);
    set_mark(&image, ResyncMark::None);
    assert_eq!((image.undo().stage, image.undo().blocks), (UndoStage::None, 0));
    assert!(matches!(go_back(&image), Err(ImageError::NoWayBack { .. })));
}

#[test]
fn nothing_is_written_for_a_copy_that_is_no_target() {
    let disk = disk(LEN, solo(), 4);
    let image = open(&disk);
    write(&image, 0, 1, 1, true);
    let before = disk.counts();
    (2..12).for_each(|version| write(&image, 0, 1, version, true));
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.flushes - before.flushes), (20, 10));
    assert_eq!(after.reads, before.reads);
}

#[test]
fn what_was_never_written_and_what_does_not_change_costs_no_content() {
    let (_, image, _) = target();
    write(&image, 8 * 1024, 200, 1, false);
    assert_eq!(image.undo().used_bytes, BLOCK, "200 holes are one note");
    write(&image, 1, 1, 1, false);
    assert_eq!(image.undo().used_bytes, BLOCK, "the same content once more");
    write(&image, 1, 1, 2, false);
    assert_eq!(image.undo().used_bytes, 3 * BLOCK);
    write(&image, 1, 1, 3, false);
    assert_eq!(image.undo().used_bytes, 3 * BLOCK, "only the first overwrite counts");
}

#[test]
fn without_room_the_way_back_is_given_up_before_anything_is_overwritten_unsaved() {
    for host_is_full in [true, false] {
        let (disk, image, _) = target();
        set_mark(&image, ResyncMark::None);
        (0..1000).step_by(200).for_each(|first| write(&image, first, 200, 1, true));
        set_mark(&image, TARGET);
        write(&image, 0, 200, 2, true);
        assert_eq!(image.undo().stage, UndoStage::Saving);
        disk.limit_room(host_is_full.then_some(8192));
        (200..1000).step_by(200).for_each(|first| write(&image, first, 200, 2, true));
        assert_eq!(image.undo().stage, UndoStage::GivenUp);
        assert!(image.gave_undo_up() && !image.gave_undo_up(), "told once");
        disk.limit_room(None);
        drop(image);
        let image = open(&disk);
        assert_eq!(image.undo().stage, UndoStage::GivenUp);
        assert!(matches!(go_back(&image), Err(ImageError::NoWayBack { .. })));
        assert!(image.state().resync == TARGET && read(&image, 999) == Ok(content(999, 2)));
    }
}

#[test]
fn a_rotten_batch_is_told_and_its_blocks_are_unreadable_never_something_else() {
    let (disk, image, _) = target();
    write(&image, 1, 1, 2, false);
    write(&image, 2, 1, 2, false);
    write(&image, 1024, 1, 2, true);
    drop(image);
    let undo = open(&disk).geometry().undo;
    // The content of the first batch: the others are put back.
    let rotten = Arc::new(disk.fork());
    rotten.corrupt(undo + BLOCK + 9, b"rot");
    let image = open(&rotten);
    go_back(&image).expect("goes back");
    assert!(matches!(read(&image, 1), Err(ImageError::Rotten { .. })));
    assert_eq!(read(&image, 2), Ok(content(2, 1)));
    // The content of the newest one, whose block was overwritten: lost as well.
    let rotten = Arc::new(disk.fork());
    rotten.corrupt(undo + 5 * BLOCK + 9, b"rot");
    let image = open(&rotten);
    go_back(&image).expect("goes back");
    assert!(matches!(read(&image, 1024), Err(ImageError::Rotten { .. })));
    // A header in the middle: the log is not used, and nothing changes.
    let rotten = Arc::new(disk.fork());
    rotten.corrupt(undo + 2 * BLOCK + 60, b"rot");
    let image = open(&rotten);
    assert!(matches!(go_back(&image), Err(ImageError::NoWayBack { .. })));
    assert_eq!((image.undo().stage, read(&image, 1)), (UndoStage::Saving, Ok(content(1, 2))));
}

#[test]
fn batches_of_an_earlier_log_count_for_nothing() {
    let (disk, image, _) = target();
    write(&image, 1, 3, 2, true);
    let old = disk.fork();
    go_back(&image).expect("goes back");
    set_mark(&image, TARGET);
    let undo = image.geometry().undo;
    drop(image);
    let mut bytes = vec![0; 5 * BLOCK as usize];
    old.read_at(undo, &mut bytes).expect("read");
    assert!(UndoBatch::decode(&bytes[..BLOCK as usize], 0x1234_5678_9abc, 9 * 1024).is_ok());
    disk.corrupt(undo, &bytes);
    assert_eq!(open(&disk).undo().blocks, 0);
}
