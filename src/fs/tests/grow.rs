//! Growing: the new room can be used, and a cut at any event loses neither a file nor a block of it.

use super::stack::{local, open_on};
use super::*;
use crate::base::ExtentNo;
use crate::image::{Blocks, MemDisk};

const LEN: u64 = 48 << 20;
const MORE: u64 = 8 * ExtentNo::BLOCKS;

fn made() -> Arc<MemDisk> {
    stack::disk(LEN, 16, 256)
}

/// Free blocks as the tables say, with everything sealed and checkpointed.
fn free(store: &Store) -> u64 {
    store.sync().unwrap();
    store.checkpoint().unwrap();
    store.statfs().free
}

#[test]
fn a_full_file_system_grows_and_takes_more() {
    let disk = made();
    let blocks = local(&disk);
    let store = open_on(blocks.clone());
    let file = create(&store, b"f");
    let mut at = 0;
    let step = vec![5; 1 << 20];
    while store.write(file, at, &step, NOW).is_ok() {
        at += step.len() as u64;
    }
    store.sync().unwrap();
    let before = store.statfs();
    assert_eq!(store.grow_volume(), Ok(before.blocks), "nothing to take");
    blocks.image().grow(blocks.block_count() + MORE).unwrap();
    assert_eq!(store.grow_volume(), Ok(before.blocks + MORE));
    assert_eq!(store.grow_volume(), Ok(before.blocks + MORE), "once");
    let after = store.statfs();
    assert_eq!((after.blocks, after.free), (before.blocks + MORE, before.free + MORE));
    for _ in 0..20 {
        store.write(file, at, &step, NOW).expect("there is room again");
        at += step.len() as u64;
        store.sync().unwrap();
    }
    store.close().unwrap();
    drop(store);
    blocks.image().close().unwrap();
    drop(blocks);
    let store = open_on(local(&disk));
    assert_eq!(store.statfs().blocks, before.blocks + MORE);
    assert_eq!(store.read(file, at - 10, 10).unwrap(), vec![5; 10]);
}

#[test]
fn a_cut_while_it_grows_loses_no_block() {
    let disk = made();
    let blocks = local(&disk);
    let store = open_on(blocks.clone());
    let file = create(&store, b"f");
    store.write(file, 0, &[7; 300_000], NOW).unwrap();
    let (old, was) = (store.statfs().blocks, free(&store));
    blocks.image().grow(blocks.block_count() + MORE).unwrap();
    let base = disk.fork();
    disk.record();
    store.grow_volume().unwrap();
    let events = disk.events();
    assert!(events.len() > 10, "{}", events.len());
    // The tables may take or return a chunk or two of 64 at a start.
    let about = |free: u64| free.abs_diff(was + MORE) <= 256;
    let mut unfinished = 0;
    for cut in 0..=events.len() {
        for mode in 0..3 {
            let mut keep = |event: usize, piece: usize| match mode {
                0 => false,
                1 => true,
                _ => (event * 7 + piece).is_multiple_of(2),
            };
            let after = Arc::new(MemDisk::crash_image(&base, &events, cut, &mut keep));
            let store = open_on(local(&after));
            let found = store.statfs();
            unfinished += u32::from(found.blocks != old && found.free < was + MORE / 2);
            assert_eq!(store.grow_volume(), Ok(old + MORE), "cut {cut}");
            assert!(about(free(&store)), "cut {cut} mode {mode}: {} blocks, {was} before", free(&store));
            assert_eq!(store.read(file, 0, 300_000).unwrap(), vec![7; 300_000]);
            drop(store);
            let store = open_on(local(&after));
            assert!(about(free(&store)), "cut {cut} mode {mode}: after another start");
        }
    }
    assert!(unfinished > 0, "no cut left something to finish");
}
