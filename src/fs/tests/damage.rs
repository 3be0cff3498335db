//! What is damaged is said, never passed over.

use super::mem::{Cut, MemBlocks, Player};
use super::*;
use crate::fs::FsError;

fn try_open(blocks: &Arc<MemBlocks>) -> Result<Store, FsError> {
    Store::open(blocks.copy(), &StoreOptions { cache_bytes: 4 << 20, ..StoreOptions::default() })
}

#[test]
fn a_damaged_record_with_another_behind_it_is_an_error_and_the_last_one_is_the_end() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    fsync(&store, ino);
    let mut starts = Vec::new();
    for byte in 1..=3u8 {
        starts.push(store.core_read().ring.head);
        store.write(ino, 0, &[byte; 4096], NOW).unwrap();
        fsync(&store, ino);
    }
    let damaged = |record: usize, block: u64| {
        let image = blocks.copy();
        image.poke(store.ring_first + starts[record] + block, &[0xEE; 4096]);
        try_open(&image)
    };
    for (record, block) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        match damaged(record, block) {
            Err(FsError::Corrupt(what)) => assert!(what.contains("log record"), "{what}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("records {record}: acknowledged data went without a word"),
        }
    }
    let image = blocks.copy();
    image.poke(store.ring_first + starts[1], &[0xEE; 4096]);
    let forced = StoreOptions { lose_damaged_log: true, ..StoreOptions::default() };
    let again = Store::open(image.clone(), &forced).unwrap();
    assert_eq!(read_all(&again, ino), vec![1; 4096]);
    again.write(ino, 0, &[9; 4096], NOW).unwrap();
    fsync(&again, ino);
    assert_eq!(
        read_all(&try_open(&image).unwrap(), ino),
        vec![9; 4096],
        "what was given up is not found again"
    );
    for block in [0, 1] {
        assert_eq!(
            read_all(&damaged(2, block).unwrap(), ino),
            vec![2; 4096],
            "a torn last record is no damage"
        );
    }
}

/// U12: nobody knows what a failed flush left; asking again must not make it a success.
#[test]
fn a_failed_flush_is_never_retried_and_nothing_succeeds_behind_it() {
    // Of a record, of fresh data before a record, of a checkpoint.
    for kind in 0..3 {
        let (blocks, store) = fresh();
        let ino = create(&store, b"f");
        fsync(&store, ino);
        let data = if kind == 1 { vec![1; 1 << 20] } else { vec![1; 4096] };
        store.write(ino, 0, &data, NOW).unwrap();
        if kind == 2 {
            fsync(&store, ino);
        }
        blocks.fail_flushes(true);
        store.fsync_ticket(Some(ino), false);
        let failed = if kind == 2 { store.checkpoint() } else { store.commit().map(|_| ()) };
        assert!(matches!(failed, Err(FsError::Io(_))), "{kind}: {failed:?}");
        blocks.fail_flushes(false);
        let (flushes, writes) = (blocks.flushes(), blocks.writes().len());
        for _ in 0..3 {
            store.fsync_ticket(Some(ino), false);
            assert_eq!(store.commit(), Err(FsError::ReadOnly), "{kind}");
            assert_eq!(store.checkpoint(), Err(FsError::ReadOnly), "{kind}");
            assert_eq!(store.writeback(true), Err(FsError::ReadOnly), "{kind}");
            assert_eq!(store.sync(), Err(FsError::ReadOnly), "{kind}");
            assert_eq!(store.close(), Err(FsError::ReadOnly), "{kind}");
            assert_eq!(store.write(ino, 0, &[2], NOW), Err(FsError::ReadOnly), "{kind}");
            assert_eq!(store.set_size(ino, 0, NOW), Err(FsError::ReadOnly), "{kind}");
        }
        assert_eq!(
            (blocks.flushes(), blocks.writes().len()),
            (flushes, writes),
            "{kind}: nothing is tried again"
        );
        assert_eq!(read_all(&store, ino), data, "{kind}: reading goes on");
        // Mounted again it goes on with what the medium has.
        let again = reopen_copy(&blocks);
        again.write(ino, 0, &[3], NOW).unwrap();
        fsync(&again, ino);
    }
}

/// U4: killed in the middle of a commit, started again, and then the power goes: what was never acknowledged is no
/// damage, whichever writes the disk kept.
#[test]
fn a_record_that_was_only_readable_is_stable_before_the_next_one_is_written() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    fsync(&store, ino);
    let base = blocks.record();
    store.write(ino, 0, &[1; 20_000], NOW).unwrap();
    blocks.fail_flushes(true);
    store.fsync_ticket(Some(ino), false);
    assert!(store.commit().is_err());
    drop(store);
    blocks.fail_flushes(false);
    drop(open(&blocks));
    let events = blocks.events();
    for upto in 0..=events.len() {
        for seed in 0..12 {
            let left = Player::new(&base).cut(&events, upto, Cut::Random(seed));
            let again = try_open(&left).unwrap_or_else(|error| panic!("cut at {upto}, seed {seed}: {error}"));
            let data = read_all(&again, ino);
            assert!(data.is_empty() || data == vec![1; 20_000], "cut at {upto}, seed {seed}");
        }
    }
}
