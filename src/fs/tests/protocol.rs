//! The rules of the commit protocol one by one; each test is seen to fail with its rule switched off.

use super::mem::{Cut, Player};
use super::*;
use crate::fs::rules::Rules;
use crate::fs::{Fallocate, FsError};

const MIB: usize = 1 << 20;

fn with_rules(store: &Store, rules: Rules) {
    store.core_write().rules = rules;
}

/// Runs `story` under the rules and with one of them off; answers whether each ended well.
fn both(off: Rules, story: impl Fn(Rules) -> bool) -> (bool, bool) {
    (story(Rules::default()), story(off))
}

#[test]
fn what_was_written_is_read_back_before_and_after_a_crash() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"file");
    let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    store.write(ino, 1000, &data, NOW).unwrap();
    assert_eq!(store.inode(ino).unwrap().unwrap().size, 301_000);
    assert_eq!(store.read(ino, 1000, 300_000).unwrap(), data);
    fsync(&store, ino);
    assert_eq!(store.read(ino, 1000, 300_000).unwrap(), data);
    for store in [reopen_copy(&blocks), {
        store.checkpoint().unwrap();
        reopen_copy(&blocks)
    }] {
        assert_eq!(store.dirent(Ino::ROOT, b"file").unwrap().unwrap().ino, ino);
        assert_eq!(store.read(ino, 0, 1000).unwrap(), vec![0; 1000]);
        assert_eq!(store.read(ino, 1000, 400_000).unwrap(), data);
        assert_eq!(store.dirents_after(Ino::ROOT, 0, 10).unwrap().len(), 1);
    }
}

/// Flushes of small fresh, small overwrite, large fresh, large overwrite, nothing.
fn flush_counts(rules: Rules) -> [usize; 5] {
    let (blocks, store) = fresh();
    with_rules(&store, rules);
    let ino = create(&store, b"file");
    let count = |work: &dyn Fn()| {
        let before = blocks.flushes();
        work();
        fsync(&store, ino);
        blocks.flushes() - before
    };
    let big = vec![3; MIB];
    let counts = [
        count(&|| store.write(ino, 0, &[1; 4096], NOW).unwrap()),
        count(&|| store.write(ino, 0, &[2; 4096], NOW).unwrap()),
        count(&|| store.write(ino, MIB as u64, &big, NOW).unwrap()),
        count(&|| store.write(ino, MIB as u64, &big, NOW).unwrap()),
        count(&|| {}),
    ];
    let before = blocks.writes().len();
    store.write(ino, 0, &[4; 4096], NOW).unwrap();
    fsync(&store, ino);
    assert_eq!(blocks.writes().len() - before, 1, "a small fsync is one write");
    counts
}

/// Hot and cold on an image: `stack::flush_count_table`.
#[test]
fn flush_count_table() {
    assert_eq!(flush_counts(Rules::default()), [1, 1, 2, 1, 0]);
    assert_eq!(flush_counts(Rules { skip_fresh_flush: true, ..Rules::default() }), [1, 1, 1, 1, 0]);
}

#[test]
fn fsync_of_nothing_dirty_still_flushes_what_writeback_sent() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"file");
    store.write(ino, 0, &vec![1; MIB], NOW).unwrap();
    fsync(&store, ino);
    store.write(ino, 0, &vec![2; MIB], NOW).unwrap();
    store.writeback(true).unwrap();
    let before = blocks.flushes();
    fsync(&store, ino);
    assert_eq!(blocks.flushes() - before, 1);
}

#[test]
fn replay_must_not_undo_direct_write() {
    let story = |rules| {
        let (blocks, store) = fresh();
        with_rules(&store, rules);
        let ino = create(&store, b"f");
        store.write(ino, 0, &vec![0; MIB], NOW).unwrap();
        fsync(&store, ino);
        store.write(ino, 0, &[1; 4096], NOW).unwrap();
        fsync(&store, ino);
        store.write(ino, 0, &vec![2; MIB], NOW).unwrap();
        fsync(&store, ino);
        read_all(&reopen_copy(&blocks), ino) == vec![2; MIB]
    };
    assert_eq!(both(Rules { ignore_log_owned: true, ..Rules::default() }, story), (true, false));
}

#[test]
fn checkpoint_vs_writeback_same_block() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    store.write(ino, 0, &[1; 4096], NOW).unwrap();
    fsync(&store, ino);
    std::thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            for _ in 0..40 {
                store.checkpoint().unwrap();
            }
        });
        for round in 0..200u32 {
            let byte = (round % 250) as u8 + 1;
            store.write(ino, 0, &vec![byte; 40 * 4096], NOW).unwrap();
            if round % 3 == 0 {
                store.writeback(true).unwrap();
            }
            if round % 2 == 0 {
                fsync(store, ino);
            }
            assert!(read_all(store, ino).iter().all(|b| *b == byte), "round {round}");
        }
    });
    fsync(&store, ino);
    store.checkpoint().unwrap();
    assert!(read_all(&reopen_copy(&blocks), ino).iter().all(|b| *b == 200));
    let off = Rules { ignore_log_owned: true, ..Rules::default() };
    assert_eq!(both(off, newer_content_overtakes_the_checkpoint), (true, false));
}

/// The checkpoint is about to write a block home when new content of it is written and fsynced.
fn newer_content_overtakes_the_checkpoint(rules: Rules) -> bool {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    let (blocks, store) = fresh();
    with_rules(&store, rules);
    let ino = create(&store, b"f");
    store.write(ino, 0, &vec![0; MIB], NOW).unwrap();
    fsync(&store, ino);
    store.write(ino, 0, &[1; 4096], NOW).unwrap();
    fsync(&store, ino);
    let home = store.core_read().owned.keys().next().unwrap().0;
    let [armed, waits, go] = [true, false, false].map(|value| Arc::new(AtomicBool::new(value)));
    let (seen, gone) = (waits.clone(), go.clone());
    blocks.before_write(Box::new(move |first| {
        if first == home && armed.swap(false, SeqCst) {
            seen.store(true, SeqCst);
            while !gone.load(SeqCst) {
                std::thread::yield_now();
            }
        }
    }));
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| store.checkpoint().unwrap());
        while !waits.load(SeqCst) {
            std::thread::yield_now();
        }
        store.write(ino, 0, &vec![2; MIB], NOW).unwrap();
        fsync(&store, ino);
        go.store(true, SeqCst);
        checkpoint.join().unwrap();
    });
    let new = vec![2; MIB];
    read_all(&store, ino) == new && read_all(&reopen_copy(&blocks), ino) == new
}

#[test]
fn replay_must_not_hit_reused_block() {
    let story = |rules| {
        let (blocks, store) = fresh();
        with_rules(&store, rules);
        assert!(!store.back_ahead(1 << 40).unwrap(), "all of the volume is backed now");
        let doomed = create(&store, b"doomed");
        for run in 0..3u64 {
            store.write(doomed, run * 30 * 4096, &[0xAA; 20 * 4096], NOW).unwrap();
        }
        fsync(&store, doomed);
        unlink(&store, b"doomed");
        fsync(&store, Ino::ROOT);
        // Everything that may be taken without a checkpoint is taken.
        let taker = create(&store, b"taker");
        let room = store.core_read().space.available() - 16;
        store.write(taker, 0, &vec![0xBB; room as usize * 4096], NOW).unwrap();
        fsync(&store, taker);
        match Store::open(blocks.copy(), &StoreOptions::default()) {
            Ok(again) => read_all(&again, taker) == vec![0xBB; room as usize * 4096],
            Err(_) => false,
        }
    };
    assert_eq!(both(Rules { reuse_at_once: true, ..Rules::default() }, story), (true, false));
}

#[test]
fn freed_blocks_wait_for_the_checkpoint() {
    let waits = |rules| {
        let (_, store) = fresh();
        with_rules(&store, rules);
        let ino = create(&store, b"f");
        store.write(ino, 0, &vec![1; MIB], NOW).unwrap();
        fsync(&store, ino);
        let before = store.core_read().space.available();
        unlink(&store, b"f");
        fsync(&store, Ino::ROOT);
        let waited = store.core_read().space.available() == before;
        store.checkpoint().unwrap();
        assert!(store.core_read().space.available() >= before + 256);
        waited
    };
    assert_eq!(both(Rules { reuse_at_once: true, ..Rules::default() }, waits), (true, false));
}

#[test]
fn fresh_large_append_never_shows_foreign_bytes() {
    let story = |rules| {
        let (blocks, store) = fresh();
        with_rules(&store, rules);
        // A secret of another file lies in the blocks that will be reused.
        let secret = create(&store, b"secret");
        store.write(secret, 0, &vec![0x5E; 20 * MIB], NOW).unwrap();
        fsync(&store, secret);
        store.set_size(secret, 0, NOW).unwrap();
        let keep = create(&store, b"log");
        fsync(&store, keep);
        store.checkpoint().unwrap();
        // Discards would hide the leak; put the old bytes back as a medium that ignores discards would.
        blocks.soil();
        let base = blocks.record();
        let ticket_at = blocks.moment();
        store.write(keep, 0, &vec![0x11; MIB], NOW).unwrap();
        fsync(&store, keep);
        let events = blocks.events();
        let mut player = Player::new(&base);
        for upto in ticket_at..=events.len() {
            for how in [Cut::LoseAll, Cut::KeepAll, Cut::Random(1), Cut::Random(2)] {
                let store = open(&player.cut(&events, upto, how));
                if read_all(&store, keep).iter().any(|b| *b != 0x11) {
                    return false;
                }
            }
        }
        true
    };
    assert_eq!(both(Rules { skip_fresh_flush: true, ..Rules::default() }, story), (true, false));
}

#[test]
fn ghost_record_and_forged_payload() {
    for forged in [false, true] {
        let story = |rules: Rules| rules.open_with(|| only_the_chain_is_followed(forged));
        assert_eq!(both(Rules { ignore_chain: true, ..Rules::default() }, story), (true, false), "{forged}");
    }
}

fn only_the_chain_is_followed(forged: bool) -> bool {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    fsync(&store, ino);
    let (branch, ring_first) = (blocks.copy(), store.ring_first);
    drop(store);
    // One history goes on for three records ...
    let first = open(&blocks);
    for byte in 1..=3u8 {
        first.write(ino, 0, &[byte; 4096], NOW).unwrap();
        fsync(&first, ino);
    }
    // ... the other starts again at the same place with one record; behind it lie the ghosts of the first.
    let second = open(&branch);
    second.write(ino, 0, &[9; 4096], NOW).unwrap();
    fsync(&second, ino);
    let head = second.core_read().ring.head;
    if forged {
        // A forger who knows everything but the chain: a perfect record with the right number.
        let (log_id, seq) = (second.log_id, second.core_read().next_seq);
        let home = second.core_read().owned.keys().next().copied().unwrap();
        let payload = [(home, &[0xEE; 4096])];
        let (record, _) = crate::format::seal_record(log_id, seq, &[0; 32], &[], payload.into_iter());
        for (n, data) in (0..).zip(record.chunks(4096)) {
            branch.poke(ring_first + head + n, data);
        }
    } else {
        let ghost = crate::format::record_claim(&blocks.peek(ring_first + head), second.log_id);
        assert_eq!(ghost.map(|(seq, _)| seq), Some(second.core_read().next_seq), "nothing to be misled by");
        for block in head..head + 16 {
            branch.poke(ring_first + block, &blocks.peek(ring_first + block));
        }
    }
    // Replayed it may not even make sense.
    Store::open(branch, &StoreOptions::default()).is_ok_and(|third| read_all(&third, ino) == vec![9; 4096])
}

#[test]
fn redb_grows_inside_checkpoint_then_crash() {
    let story = |rules: Rules| {
        let blocks = fresh_blocks(8192);
        let store = open(&blocks);
        for n in 0..3000u32 {
            create(&store, format!("a-rather-long-name-of-a-file-{n}").as_bytes());
        }
        fsync(&store, Ino::ROOT);
        store.chunks.set_rules(rules);
        let (chunks_before, base) = (store.chunks.bound_pages(), blocks.record());
        store.checkpoint().unwrap();
        let events = blocks.events();
        assert!(store.chunks.bound_pages() > chunks_before + 64, "the tables did not grow");
        let mut player = Player::new(&base);
        let step = (events.len() / 60).max(1);
        for upto in (0..=events.len()).step_by(step).chain([events.len()]) {
            let image = player.cut(&events, upto, Cut::Random(7));
            let Ok(again) = Store::open(image, &StoreOptions::default()) else { return false };
            if again.dirents_after(Ino::ROOT, 0, 10_000).unwrap().len() != 3000 {
                return false;
            }
            // No block is both free and the tables'.
            let mut core = again.core_write();
            if again.chunks.all().iter().any(|chunk| core.space.exclude(chunk.0, 64) != 0) {
                return false;
            }
        }
        true
    };
    assert_eq!(both(Rules { late_chunk_map: true, ..Rules::default() }, story), (true, false));
}

#[test]
fn a_block_is_not_reused_while_somebody_reads_it() {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    let story = |rules| {
        let (blocks, store) = fresh();
        with_rules(&store, rules);
        let old = create(&store, b"old");
        store.write(old, 0, &vec![1; 8 * MIB], NOW).unwrap();
        store.sync().unwrap();
        store.checkpoint().unwrap();
        let [armed, reading, go] = [true, false, false].map(|v| Arc::new(AtomicBool::new(v)));
        let (armed, seen, gone) = (armed.clone(), reading.clone(), go.clone());
        blocks.on_read(Box::new(move |_| {
            if armed.swap(false, SeqCst) {
                seen.store(true, SeqCst);
                while !gone.load(SeqCst) {
                    std::thread::yield_now();
                }
            }
        }));
        std::thread::scope(|scope| {
            let store = &store;
            let reader = scope.spawn(move || store.read(old, 0, 8 * MIB).unwrap());
            while !reading.load(SeqCst) {
                std::thread::yield_now();
            }
            unlink(store, b"old");
            fsync(store, Ino::ROOT);
            let reuse = scope.spawn(move || {
                store.checkpoint().unwrap();
                let new = create(store, b"new");
                store.write(new, 0, &vec![2; 12 * MIB], NOW).unwrap();
                store.writeback(true).unwrap();
            });
            // Time for the other to get ahead, if it may.
            for _ in 0..100 {
                if reuse.is_finished() {
                    break;
                }
                #[allow(clippy::disallowed_methods, reason = "lets a thread run")]
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            go.store(true, SeqCst);
            reuse.join().unwrap();
            reader.join().unwrap().iter().all(|byte| *byte == 1)
        })
    };
    assert_eq!(both(Rules { ignore_readers: true, ..Rules::default() }, story), (true, false));
}

#[test]
fn discard_vs_reuse() {
    let story = |rules| {
        let (blocks, store) = fresh();
        with_rules(&store, rules);
        let store = Arc::new(store);
        let ino = create(&store, b"old");
        store.write(ino, 0, &vec![1; 8 * MIB], NOW).unwrap();
        fsync(&store, ino);
        unlink(&store, b"old");
        fsync(&store, Ino::ROOT);
        let before = store.core_read().space.available();
        let taken = Arc::new(std::sync::atomic::AtomicU64::new(0));
        // At the moment of the discard nobody may be able to take the blocks.
        let (watch, seen) = (Arc::downgrade(&store), taken.clone());
        blocks.on_discard(Box::new(move || {
            let available = watch.upgrade().unwrap().core_read().space.available();
            seen.fetch_max(available, std::sync::atomic::Ordering::Relaxed);
        }));
        store.checkpoint().unwrap();
        let during = taken.load(std::sync::atomic::Ordering::Relaxed);
        assert!(during > 0, "no discard happened");
        assert!(store.core_read().space.available() >= before + 2048);
        during <= before
    };
    assert_eq!(both(Rules { late_discard: true, ..Rules::default() }, story), (true, false));
}

/// Housekeeping gives room back to the host only beyond what is kept for the next file.
#[test]
fn a_deletion_keeps_room_allocated_for_the_next_file() {
    let (blocks, store) = fresh();
    let discards = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = discards.clone();
    blocks.on_discard(Box::new(move || {
        seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }));
    let discarded = |name: &[u8], size: usize| {
        let ino = create(&store, name);
        store.write(ino, 0, &vec![1; size], NOW).unwrap();
        fsync(&store, ino);
        unlink(&store, name);
        fsync(&store, Ino::ROOT);
        store.empty_log().unwrap();
        let before = discards.swap(0, std::sync::atomic::Ordering::Relaxed);
        while store.release_some(u64::MAX).unwrap() {}
        before + discards.swap(0, std::sync::atomic::Ordering::Relaxed)
    };
    // Less than an eighth of the volume is left when this one takes it.
    let available = store.core_read().space.available();
    let rest = usize::try_from(available - 256).unwrap() * 4096;
    let filler = create(&store, b"filler");
    store.write(filler, 0, &vec![1; rest], NOW).unwrap();
    fsync(&store, filler);
    assert_eq!(discarded(b"small", MIB), 0);
    assert!(discarded(b"large", 16 * MIB) > 0);
}

#[test]
fn redb_error_never_reached_by_enospc() {
    assert_eq!(
        both(Rules { no_reserve: true, ..Rules::default() }, names_until_the_volume_is_full),
        (true, false)
    );
}

/// Whether the volume says that it is full in time, and goes on after deletions.
fn names_until_the_volume_is_full(rules: Rules) -> bool {
    let blocks = fresh_blocks(4096);
    let store = open(&blocks);
    with_rules(&store, rules);
    let mut made = 0;
    let full = loop {
        let mut op = store.begin();
        let ino = op.alloc_ino();
        op.put_inode(ino, &InodeRec::new(FileKind::File, NOW));
        let name = format!("{made:0200}");
        let made_one =
            op.put_dirent(Ino::ROOT, name.as_bytes(), Dirent { ino, kind: FileKind::File, cookie: 0 });
        match made_one.and_then(|()| op.finish()) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 200_000);
    };
    if full != FsError::NoSpace || store.checkpoint().is_err() {
        return false;
    }
    assert!(made > 4000, "only {made} names fitted");
    let again = open(&blocks.copy());
    assert_eq!(again.dirents_after(Ino::ROOT, 0, usize::MAX).unwrap().len(), made);
    for n in 0..made {
        unlink(&again, format!("{n:0200}").as_bytes());
    }
    again.close().unwrap();
    assert!(again.dir_is_empty(Ino::ROOT).unwrap());
    create(&again, b"room again");
    true
}

#[test]
fn a_full_volume_is_told_at_write_and_deletion_always_works() {
    let (blocks, store) = fresh();
    let keep = create(&store, b"keep");
    store.write(keep, 0, &[7; 10_000], NOW).unwrap();
    let big = create(&store, b"big");
    let mut at = 0u64;
    let error = loop {
        match store.write(big, at, &vec![8; MIB / 2], NOW) {
            Ok(()) => at += MIB as u64 / 2,
            Err(error) => break error,
        }
    };
    assert_eq!(error, FsError::NoSpace);
    assert!(at > 12 * MIB as u64, "only {at} bytes fitted");
    store.sync().unwrap();
    assert_eq!(read_all(&store, keep), vec![7; 10_000]);
    assert_eq!(store.inode(big).unwrap().unwrap().size, at);
    unlink(&store, b"big");
    let next = create(&store, b"next");
    store.write(next, 0, &vec![9; 8 * MIB], NOW).unwrap();
    store.sync().unwrap();
    let again = reopen_copy(&blocks);
    assert_eq!(read_all(&again, next), vec![9; 8 * MIB]);
    assert_eq!(read_all(&again, keep), vec![7; 10_000]);
}

#[test]
fn a_full_host_disk_is_no_space_and_nothing_else() {
    let blocks = mem::MemBlocks::with_host(65_536, 8);
    let opts = FormatOptions { ring_blocks: Some(1024), ..FormatOptions::default() };
    Store::format(blocks.clone(), &opts).unwrap();
    let store = open(&blocks);
    let ino = create(&store, b"f");
    let mut at = 0u64;
    let error = loop {
        match store.write(ino, at, &vec![1; MIB], NOW) {
            Ok(()) => at += MIB as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, FsError::NoSpace);
    store.sync().unwrap();
    store.checkpoint().unwrap();
    assert_eq!(read_all(&reopen_copy(&blocks), ino).len() as u64, at);
    assert!(store.statfs().available < 4096, "statfs must not promise what the host has not");
}

#[test]
fn a_truncated_tail_is_zero_after_growing_and_after_every_cut() {
    let story = |rules| {
        let (blocks, store) = fresh();
        with_rules(&store, rules);
        let ino = create(&store, b"f");
        store.write(ino, 0, &vec![b'A'; 200_000], NOW).unwrap();
        fsync(&store, ino);
        store.checkpoint().unwrap();
        let base = blocks.record();
        store.set_size(ino, 100, NOW).unwrap();
        store.set_size(ino, 4096, NOW).unwrap();
        assert_eq!(store.read(ino, 100, 4096).unwrap(), vec![0; 3996]);
        fsync(&store, ino);
        store.checkpoint().unwrap();
        let events = blocks.events();
        let mut player = Player::new(&base);
        (0..=events.len()).all(|upto| {
            let data = read_all(&open(&player.cut(&events, upto, Cut::Random(3))), ino);
            let old = data == vec![b'A'; 200_000];
            old || data.len() == 4096 && data[..100] == [b'A'; 100] && data[100..].iter().all(|b| *b == 0)
        })
    };
    assert_eq!(both(Rules { edge_goes_home: true, ..Rules::default() }, story), (true, false));
}

#[test]
fn rename_over_and_rewrite_take_the_data_along() {
    let (blocks, store) = fresh();
    let old = create(&store, b"config");
    store.write(old, 0, b"old content", NOW).unwrap();
    fsync(&store, old);
    let new = create(&store, b"config.tmp");
    store.write(new, 0, b"new content", NOW).unwrap();
    let mut op = store.begin();
    op.del_dirent(Ino::ROOT, b"config.tmp").unwrap();
    op.put_dirent(Ino::ROOT, b"config", Dirent { ino: new, kind: FileKind::File, cookie: 0 }).unwrap();
    op.pull_data(new);
    op.finish().unwrap();
    // Somebody else's fsync seals the rename.
    fsync(&store, Ino::ROOT);
    let again = reopen_copy(&blocks);
    let ino = again.dirent(Ino::ROOT, b"config").unwrap().unwrap().ino;
    assert_eq!(read_all(&again, ino), b"new content");
    store.set_size(new, 0, NOW).unwrap();
    store.write(new, 0, b"rewritten", NOW).unwrap();
    fsync(&store, Ino::ROOT);
    assert_eq!(read_all(&reopen_copy(&blocks), new), b"rewritten");
}

#[test]
fn a_failed_write_stops_all_changes_and_stays_failed() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    fsync(&store, ino);
    store.write(ino, 0, &[1; 4096], NOW).unwrap();
    blocks.fail_writes(true);
    store.fsync_ticket(Some(ino), false);
    assert!(store.commit().is_err());
    blocks.fail_writes(false);
    store.fsync_ticket(Some(ino), false);
    assert_eq!(store.commit(), Err(FsError::ReadOnly));
    assert_eq!(store.write(ino, 0, &[2; 4096], NOW), Err(FsError::ReadOnly));
    assert_eq!(read_all(&store, ino), vec![1; 4096]);
}

#[test]
fn foreign_bytes_are_an_error_and_never_a_panic() {
    let blank = mem::MemBlocks::new(8192);
    let error = Store::open(blank, &StoreOptions::default()).err().unwrap();
    assert!(matches!(error, FsError::Corrupt(_)), "{error}");
    let blocks = fresh_blocks(4096);
    let store = open(&blocks);
    let chunks = store.chunks.all();
    drop(store);
    for seed in 0..60u64 {
        let image = blocks.copy();
        let mut dice = mem::Dice(seed);
        let chunk = chunks[dice.below(2) as usize];
        let block = chunk.0 + dice.below(8);
        let mut bytes = image.peek(block);
        for _ in 0..20 {
            let at = if seed % 2 == 0 { dice.below(4096) } else { dice.below(320) } as usize;
            bytes[at] = dice.roll() as u8;
        }
        image.poke(block, &bytes);
        if let Err(error) = Store::open(image, &StoreOptions::default()) {
            assert!(matches!(error, FsError::Corrupt(_) | FsError::Io(_)), "{error}");
        }
    }
}

#[test]
fn holes_fallocate_and_seek() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    store.write(ino, 3 * 4096, &[1; 4096], NOW).unwrap();
    assert_eq!(store.seek_data(ino, 0).unwrap(), 3 * 4096);
    assert_eq!(store.seek_hole(ino, 3 * 4096).unwrap(), 4 * 4096);
    store.fallocate(ino, Fallocate::Allocate, 0, 10 * 4096, NOW).unwrap();
    assert_eq!(store.inode(ino).unwrap().unwrap().size, 10 * 4096);
    store.write(ino, 5000, b"hello", NOW).unwrap();
    fsync(&store, ino);
    store.fallocate(ino, Fallocate::PunchHole, 5002, 4096 * 2, NOW).unwrap();
    let mut expected = vec![0u8; 10 * 4096];
    expected[3 * 4096..4 * 4096].fill(1);
    expected[5000..5005].copy_from_slice(b"hello");
    expected[5002..5002 + 8192].fill(0);
    assert_eq!(read_all(&store, ino), expected);
    fsync(&store, ino);
    store.checkpoint().unwrap();
    assert_eq!(read_all(&reopen_copy(&blocks), ino), expected);
    assert_eq!(store.inode(ino).unwrap().unwrap().blocks, 9);
}

#[test]
fn a_removal_of_very_many_extents_goes_in_steps() {
    let blocks = fresh_blocks(32_768);
    let store = open(&blocks);
    let ino = create(&store, b"f");
    for n in 0..5000u64 {
        store.write(ino, n * 8192, &[1; 4096], NOW).unwrap();
    }
    store.sync().unwrap();
    store.checkpoint().unwrap();
    let free = store.statfs().free;
    unlink(&store, b"f");
    fsync(&store, Ino::ROOT);
    store.checkpoint().unwrap();
    assert!(store.statfs().free >= free + 5000);
    assert!(reopen_copy(&blocks).inode(ino).unwrap().is_none());
}

#[test]
fn a_hole_over_very_many_extents_is_a_hole_everywhere() {
    let blocks = fresh_blocks(65_536);
    let store = open(&blocks);
    let ino = create(&store, b"f");
    let extents = 20_000u64;
    for n in 0..extents {
        store.fallocate(ino, Fallocate::Allocate, n * 8192, 4096, NOW).unwrap();
    }
    store.write(ino, (extents - 1) * 8192, &[1; 4096], NOW).unwrap();
    fsync(&store, ino);
    assert_eq!(store.inode(ino).unwrap().unwrap().blocks, extents);
    store.fallocate(ino, Fallocate::PunchHole, 100, extents * 8192, NOW).unwrap();
    let last = store.read(ino, (extents - 1) * 8192, 4096).unwrap();
    assert!(last.iter().all(|byte| *byte == 0), "the last block kept its data");
    assert!(store.inode(ino).unwrap().unwrap().blocks <= 1);
    fsync(&store, ino);
    assert!(reopen_copy(&blocks).inode(ino).unwrap().unwrap().blocks <= 1);
}

#[test]
fn orphans_of_an_earlier_run_are_freed() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    store.write(ino, 0, &vec![1; MIB], NOW).unwrap();
    fsync(&store, ino);
    let mut op = store.begin();
    op.del_dirent(Ino::ROOT, b"f").unwrap();
    let mut rec = op.inode(ino).unwrap().unwrap();
    rec.nlink = 0;
    op.put_inode(ino, &rec);
    op.add_orphan(ino);
    op.finish().unwrap();
    fsync(&store, Ino::ROOT);
    let again = reopen_copy(&blocks);
    assert!(again.needs_writeback());
    again.writeback(false).unwrap();
    assert!(again.inode(ino).unwrap().is_none() && !again.needs_writeback());
}

#[test]
fn an_operation_that_is_dropped_changes_nothing_and_numbers_are_not_reused() {
    let (_, store) = fresh();
    let mut op = store.begin();
    let first = op.alloc_ino();
    op.put_inode(first, &InodeRec::new(FileKind::File, NOW));
    assert!(op.inode(first).unwrap().is_some());
    drop(op);
    assert!(store.inode(first).unwrap().is_none());
    assert!(create(&store, b"x") > first);
    let cookies: Vec<u64> = store.dirents_after(Ino::ROOT, 0, 9).unwrap().iter().map(|e| e.0).collect();
    assert_eq!(cookies, vec![3]);
}

#[test]
fn a_log_that_wraps_many_times_loses_nothing() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    for n in 0..3000u64 {
        store.write(ino, (n % 50) * 4096, &n.to_le_bytes(), NOW).unwrap();
        fsync(&store, ino);
        if n % 997 == 0 {
            let again = reopen_copy(&blocks);
            assert_eq!(read_all(&again, ino), read_all(&store, ino));
        }
    }
    assert_eq!(read_all(&reopen_copy(&blocks), ino), read_all(&store, ino));
}

#[test]
fn many_threads_at_once_end_with_what_each_wrote() {
    let blocks = fresh_blocks(16_384);
    let store = open(&blocks);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let files: Vec<Ino> = (0..4u8).map(|n| create(&store, &[b'0' + n])).collect();
    std::thread::scope(|scope| {
        let (store, stop) = (&store, &stop);
        for background in 0..3 {
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match background {
                        0 => store.writeback(false).unwrap(),
                        1 => store.checkpoint().unwrap(),
                        _ => drop(store.dirents_after(Ino::ROOT, 0, 1000).unwrap()),
                    }
                    #[allow(clippy::disallowed_methods, reason = "a stress test with real threads")]
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
            });
        }
        let workers: Vec<_> = (0..4u8)
            .zip(files.clone())
            .map(|(n, ino)| {
                scope.spawn(move || {
                    for round in 0..300u64 {
                        let at = (round * 7919) % 200 * 4096;
                        store.write(ino, at, &[n + 1; 6000], NOW).unwrap();
                        match round % 5 {
                            0 => fsync(store, ino),
                            1 => drop(create(store, format!("{n}-{round}").as_bytes())),
                            2 => store.set_size(ino, at + 6000, NOW).unwrap(),
                            3 => drop(read_all(store, ino)),
                            _ => unlink(store, format!("{n}-{}", round - 3).as_bytes()),
                        }
                    }
                    store.write(ino, 0, &vec![n + 1; 900_000], NOW).unwrap();
                    fsync(store, ino);
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let again = reopen_copy(&blocks);
    for (n, ino) in (0..4u8).zip(files) {
        assert_eq!(again.read(ino, 0, 900_000).unwrap(), vec![n + 1; 900_000]);
    }
    assert_eq!(again.dirents_after(Ino::ROOT, 0, 1000).unwrap().len(), 4);
}

/// The mount notes the access time and answers there: with a lock held it waited for itself, at the end of a file.
#[test]
fn who_gets_the_bytes_of_a_read_may_change_things_also_at_the_end() {
    let (_, store) = fresh();
    let ino = create(&store, b"f");
    store.write(ino, 0, &[1; 5000], NOW).unwrap();
    for (offset, len) in [(0, 5000), (4000, 5000), (5000, 1), (1 << 40, 10), (0, 0)] {
        let free = |_: &[u8]| store.core.try_write().is_ok() && store.gate.try_write().is_ok();
        assert!(store.read_with(ino, offset, len, free).unwrap(), "{len} bytes from {offset}");
    }
}
