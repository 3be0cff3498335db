//! What is damaged is said, never passed over.

use super::mem::MemBlocks;
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
