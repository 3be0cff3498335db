//! Rules that no workload shows by itself: what an fsync leaves alone, how much goes home at once, and what the tables'
//! address space owes redb.

use redb::StorageBackend;

use super::mem::MemBlocks;
use super::*;
use crate::base::{BlockNo, PAGE};
use crate::format::CHUNK_BLOCKS;
use crate::fs::chunks::Chunks;
use crate::fs::open::read_super;
use crate::fs::rules::Rules;

const MIB: usize = 1 << 20;
const CHUNK: u64 = CHUNK_BLOCKS * PAGE as u64;

/// Runs `story` under the rules and with one of them off; answers whether each ended well.
fn both(off: Rules, story: impl Fn(Rules) -> bool) -> (bool, bool) {
    (story(Rules::default()), off.open_with(|| story(off)))
}

/// S1: 64 MiB of somebody else's data wait in the buffers.
#[test]
fn an_fsync_leaves_the_data_of_others_where_it_is() {
    let story = |rules| {
        let blocks = fresh_blocks(65_536);
        let store = open(&blocks);
        store.core_write().rules = rules;
        let (mail, stream) = (create(&store, b"mail"), create(&store, b"stream"));
        store.sync().unwrap();
        for n in 0..64 {
            store.write(stream, n * MIB as u64, &vec![7; MIB], NOW).unwrap();
        }
        let before = blocks.writes().len();
        store.write(mail, 0, &[1; 4096], NOW).unwrap();
        fsync(&store, mail);
        let written: u64 = blocks.writes()[before..].iter().map(|(_, count)| count).sum();
        assert_eq!(read_all(&reopen_copy(&blocks), mail), vec![1; 4096]);
        written <= 2
    };
    assert_eq!(both(Rules { drag_all: true, ..Rules::default() }, story), (true, false));
}

/// S1: and what the record says of the stream is what of it is home.
#[test]
fn an_fsync_does_not_record_the_size_of_data_that_waits() {
    let story = |rules| {
        let blocks = fresh_blocks(65_536);
        let store = open(&blocks);
        store.core_write().rules = rules;
        let stream = create(&store, b"stream");
        store.write(stream, 0, &vec![7; 40 * MIB], NOW).unwrap();
        // Stops half-way, as a full record would make it.
        let mut sweep = crate::fs::buffers::Sweep { end: Some((1024, 4 << 20)), ..Default::default() };
        store.settle_file(stream, false, &mut sweep).unwrap();
        fsync(&store, Ino::ROOT);
        read_all(&reopen_copy(&blocks), stream).iter().all(|byte| *byte == 7)
    };
    assert_eq!(both(Rules { size_ahead: true, ..Rules::default() }, story), (true, false));
}

/// S5: neither writeback nor a checkpoint hands out more at once than a record has the patience to wait behind.
#[test]
fn what_goes_home_goes_in_slices() {
    let largest = |rules| {
        let blocks = MemBlocks::new(131_072);
        let options = FormatOptions { ring_blocks: Some(16_384), ..FormatOptions::default() };
        Store::format(blocks.clone(), &options).unwrap();
        let store = open(&blocks);
        store.core_write().rules = rules;
        store.chunks.set_rules(rules);
        let ring = store.ring_first..store.ring_first + store.core_read().ring.blocks;
        let bulk = |from: usize| {
            let writes = blocks.writes().split_off(from);
            writes
                .into_iter()
                .filter(|(first, _)| !ring.contains(first))
                .map(|(_, count)| count)
                .max()
                .unwrap()
        };
        let file = create(&store, b"f");
        let before = blocks.writes().len();
        store.write(file, 0, &vec![1; 40 * MIB], NOW).unwrap();
        store.sync().unwrap();
        let by_writeback = bulk(before);
        // As payload of records, for the checkpoint: neighbours of each other.
        for at in (0..3 * MIB as u64).step_by(64 << 10) {
            store.write(file, at, &vec![2; 64 << 10], NOW).unwrap();
            fsync(&store, file);
        }
        for n in 0..6000 {
            create(&store, format!("a-rather-long-name-of-a-file-{n}").as_bytes());
        }
        let before = blocks.writes().len();
        store.checkpoint().unwrap();
        (by_writeback, bulk(before))
    };
    // Writeback has four slices on their way at a time.
    assert_eq!(largest(Rules::default()), (1024, 256));
    let (by_writeback, by_checkpoint) = largest(Rules { no_slices: true, ..Rules::default() });
    assert!(by_writeback > 1024 && by_checkpoint > 256, "{by_writeback} {by_checkpoint}");
}

/// Chunks of their own on a fresh volume, with the first 40 chunks written full of 0xAB.
fn chunks(rules: Rules) -> (Arc<MemBlocks>, Chunks) {
    let blocks = fresh_blocks(8192);
    let mut sup = read_super(blocks.as_ref()).unwrap();
    sup.tables_len = 0;
    sup.chunks = Vec::new();
    let chunks = Chunks::new(blocks.clone(), sup, usize::MAX);
    chunks.set_rules(rules);
    (0..50).for_each(|n| chunks.refill(BlockNo(4096 + n * CHUNK_BLOCKS)));
    for extent in 0..8 {
        crate::image::Blocks::back(blocks.as_ref(), crate::base::ExtentNo(extent)).unwrap();
    }
    chunks.set_len(40 * CHUNK).unwrap();
    chunks.write(0, &vec![0xAB; 40 * CHUNK as usize]).unwrap();
    chunks.sync_data().unwrap();
    (blocks, chunks)
}

/// W16: where the tables grow again redb expects zeros.
#[test]
fn tables_that_shrink_and_grow_again_read_as_zeros_there() {
    let story = |rules| {
        let (_, chunks) = chunks(rules);
        chunks.set_len(10 * CHUNK + 100).unwrap();
        chunks.set_len(40 * CHUNK).unwrap();
        let mut out = vec![1; 29 * CHUNK as usize];
        chunks.read(11 * CHUNK, &mut out).unwrap();
        let mut kept = vec![1; 10 * CHUNK as usize];
        chunks.read(0, &mut kept).unwrap();
        assert!(kept.iter().all(|byte| *byte == 0xAB));
        out.iter().all(|byte| *byte == 0)
    };
    assert_eq!(both(Rules { stale_growth: true, ..Rules::default() }, story), (true, false));
}

/// W16: redb shrinks after its commit is stable. What the map on the disk still calls the tables' must not be given to
/// anybody.
#[test]
fn tables_that_shrink_keep_their_chunks() {
    let story = |rules| {
        let (_, chunks) = chunks(rules);
        let before = (chunks.bound_pages(), chunks.pool_len());
        chunks.set_len(10 * CHUNK).unwrap();
        (chunks.bound_pages(), chunks.pool_len()) == before
    };
    assert_eq!(both(Rules { give_chunks_back: true, ..Rules::default() }, story), (true, false));
}

/// W17: redb compares the length with its layout when it opens.
#[test]
fn the_length_of_the_tables_is_exact_and_stable_at_once() {
    let story = |rules: Rules| {
        let (blocks, chunks) = chunks(Rules::default());
        chunks.set_len(12 * CHUNK + 4096).unwrap();
        let stable = read_super(blocks.copy().as_ref()).unwrap().tables_len;
        chunks.set_rules(rules);
        chunks.len().unwrap() == 12 * CHUNK + 4096 && stable == 12 * CHUNK + 4096
    };
    assert_eq!(
        (story(Rules::default()), story(Rules { rough_length: true, ..Rules::default() })),
        (true, false)
    );
}
