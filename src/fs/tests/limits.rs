//! What nothing may exceed: the size of a record, the time an fsync takes along from others; and what a cut in the
//! middle of something large leaves behind.

use super::mem::{Cut, Dice, MemBlocks, Player};
use super::*;
use crate::fs::{Atime, Ctx, Fs, FsError, Place, RenameHow};

const MIB: usize = 1 << 20;

fn try_open(blocks: &Arc<MemBlocks>) -> Result<Store, FsError> {
    Store::open(blocks.copy(), &StoreOptions { cache_bytes: 4 << 20, ..StoreOptions::default() })
}

#[test]
fn operations_begun_by_many_threads_at_once_fit_the_records_that_replay_takes() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    std::thread::scope(|scope| {
        let store = &store;
        let names = store.lock_names();
        for n in 0..24u8 {
            scope.spawn(move || {
                let mut op = store.begin();
                op.put_xattr(ino, &[b'a' + n], &[n; 60_000]);
                op.finish().unwrap();
            });
        }
        #[allow(clippy::disallowed_methods, reason = "lets the threads queue up")]
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(names);
    });
    fsync(&store, ino);
    assert_eq!(try_open(&blocks).unwrap().xattr_names(ino).unwrap().len(), 24);
}

#[test]
fn a_file_of_very_many_attributes_goes_in_steps() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    for n in 0..6000 {
        let mut op = store.begin();
        op.put_xattr(ino, format!("user.{n:0250}").as_bytes(), b"");
        op.finish().unwrap();
    }
    fsync(&store, ino);
    unlink(&store, b"f");
    let core = store.core_read();
    assert!(core.txn.bytes() <= core.ring.record_max(), "{} bytes in one record", core.txn.bytes());
    drop(core);
    fsync(&store, Ino::ROOT);
    let again = try_open(&blocks).unwrap();
    assert!(again.inode(ino).unwrap().is_none() && again.xattr_names(ino).unwrap().is_empty());
}

#[test]
fn what_lies_behind_the_end_of_a_file_after_a_cut_is_never_shown() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    store.write(ino, 0, &[1; 8292], NOW).unwrap();
    fsync(&store, ino);
    store.checkpoint().unwrap();
    // Appended data goes home in place; its record does not get that far.
    store.write(ino, 8292, &[0x5E; 2000], NOW).unwrap();
    store.writeback(true).unwrap();
    let again = reopen_copy(&blocks);
    assert_eq!(again.inode(ino).unwrap().unwrap().size, 8292);
    again.write(ino, 0, &[2], NOW).unwrap();
    again.set_size(ino, 12_000, NOW).unwrap();
    assert!(again.read(ino, 8292, 9999).unwrap().iter().all(|byte| *byte == 0), "shown before fsync");
    fsync(&again, ino);
    assert!(again.read(ino, 8292, 9999).unwrap().iter().all(|byte| *byte == 0), "shown after fsync");
}

#[test]
fn a_truncation_cut_short_never_gives_back_what_it_cut() {
    let blocks = fresh_blocks(65_536);
    let store = open(&blocks);
    let ino = create(&store, b"f");
    let count = 12_000u64;
    for n in 0..count {
        store.write(ino, n * 8192, &[0x5E; 4096], NOW).unwrap();
    }
    store.sync().unwrap();
    store.checkpoint().unwrap();
    let base = blocks.record();
    store.set_size(ino, 100, NOW).unwrap();
    fsync(&store, ino);
    let events = blocks.events();
    let mut player = Player::new(&base);
    let mut seen = 0;
    for upto in (0..=events.len()).step_by(5) {
        let again = open(&player.cut(&events, upto, Cut::KeepAll));
        if again.core_read().cleanups.is_empty() {
            continue;
        }
        seen += 1;
        // Something else is dirty; then the file grows before the rest of the cut is done.
        again.write(ino, 0, &[2], NOW).unwrap();
        again.write(ino, count * 8192, &[3], NOW).unwrap();
        fsync(&again, ino);
        let data = read_all(&again, ino);
        assert!(data[100..data.len() - 1].iter().all(|byte| *byte == 0), "cut at {upto}");
        again.writeback(true).unwrap();
        fsync(&again, ino);
        assert!(read_all(&again, ino) == data, "cut at {upto}: cleaning up changed the file");
    }
    assert!(seen > 0, "no cut hit the middle");
}

/// A file without a name is freed by whoever opens the volume, unless that is a successor whose kernel still holds it.
#[test]
fn what_the_kernel_holds_without_a_name_outlives_its_process_only_for_a_successor() {
    let (blocks, store) = fresh();
    let ino = create(&store, b"f");
    let gone = create(&store, b"gone");
    store.write(ino, 0, &[5; 9000], NOW).unwrap();
    let fs = Fs::new(store, Atime::Never);
    fs.remember(ino);
    fs.unlink(&Ctx::default(), Ino::ROOT, b"f").unwrap();
    // Left by somebody who had let it go already.
    fs.unlink(&Ctx::default(), Ino::ROOT, b"gone").unwrap();
    fs.store().sync().unwrap();
    let held = fs.held();
    let there = |fs: &Fs, ino| {
        fs.store().writeback(true).unwrap();
        fs.store().inode(ino).unwrap().is_some()
    };
    let crashed = Fs::new(try_open(&blocks).unwrap(), Atime::Never);
    assert!(!there(&crashed, ino));
    let next = Fs::new(try_open(&blocks).unwrap(), Atime::Never);
    next.take_over(&held).unwrap();
    assert!(there(&next, ino) && !there(&next, gone));
    assert_eq!(read_all(next.store(), ino), [5; 9000]);
    assert_eq!(next.reap().unwrap(), 0);
    assert!(next.forget(ino, 1) && next.reap().unwrap() == 1);
    assert!(!there(&next, ino));
}

#[test]
fn a_rename_over_takes_all_the_data_along_however_scattered_it_is() {
    let (blocks, store) = fresh();
    create(&store, b"config");
    let new = create(&store, b"config.tmp");
    for n in 0..1500u64 {
        store.write(new, n * 8192, &[7; 4096], NOW).unwrap();
    }
    let expected = read_all(&store, new);
    let fs = Fs::new(store, Atime::Never);
    let place = |name| Place { dir: Ino::ROOT, name };
    fs.rename(&Ctx::default(), place(b"config.tmp"), place(b"config"), RenameHow::default()).unwrap();
    fsync(fs.store(), Ino::ROOT);
    assert!(read_all(&reopen_copy(&blocks), new) == expected);
}

#[test]
fn an_fsync_does_not_chase_a_writer() {
    let (blocks, store) = fresh();
    let store = Arc::new(store);
    let ino = create(&store, b"stream");
    store.write(ino, 0, &vec![1; MIB], NOW).unwrap();
    let left = Arc::new(std::sync::atomic::AtomicU64::new(12));
    let (writer, rest) = (Arc::downgrade(&store), left.clone());
    // For every megabyte that goes home the writer has another one ready.
    blocks.on_write(Box::new(move |count| {
        use std::sync::atomic::Ordering::SeqCst;
        let more = count >= 256 && rest.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        if more && let Some(store) = writer.upgrade() {
            let at = store.inode(ino).unwrap().unwrap().size;
            store.write(ino, at, &vec![1; MIB], NOW).unwrap();
        }
    }));
    fsync(&store, ino);
    assert!(left.load(std::sync::atomic::Ordering::SeqCst) >= 10, "the fsync took along what came later");
    assert!(reopen_copy(&blocks).inode(ino).unwrap().unwrap().size >= MIB as u64);
}

/// S1: an fsync of one file, and of a directory, takes nothing of another file along; nor does the timer take a stream.
#[test]
fn fsync_4k_beside_streaming_writer_writes_its_own_record_only() {
    let (blocks, store) = fresh();
    let (mail, stream) = (create(&store, b"mail"), create(&store, b"stream"));
    fsync(&store, mail);
    store.write(stream, 0, &vec![1; 8 * MIB], NOW).unwrap();
    store.write(mail, 0, &[1; 4096], NOW).unwrap();
    let fs = Fs::new(store, Atime::Never);
    let written = |work: &dyn Fn()| {
        let before = blocks.writes().len();
        work();
        fs.store().commit().unwrap();
        blocks.writes()[before..].iter().map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!(
        written(&|| {
            fs.fsync(mail, false).unwrap();
        }),
        2,
        "one block of record, one of payload"
    );
    create(fs.store(), b"mail.1");
    assert_eq!(
        written(&|| {
            fs.fsync_names().unwrap();
        }),
        1,
        "one block of record"
    );
    create(fs.store(), b"mail.2");
    assert_eq!(written(&|| fs.store().ask_for_rest()), 1, "the stream is left to writeback");
    assert!(
        written(&|| {
            fs.fsync_all().unwrap();
        }) >= 2048,
        "sync takes everything"
    );
}

/// Tables give no chunk back, so what they once took must be enough for the same again.
#[test]
fn tables_that_emptied_are_filled_before_they_grow() {
    let blocks = fresh_blocks(16_384);
    let store = open(&blocks);
    let mut sizes = Vec::new();
    for round in 0..14 {
        for n in 0..1500 {
            create(&store, format!("{round}-{n:0100}").as_bytes());
        }
        store.checkpoint().unwrap();
        for n in 0..1500 {
            unlink(&store, format!("{round}-{n:0100}").as_bytes());
        }
        store.checkpoint().unwrap();
        sizes.push(store.chunks.bound_pages());
    }
    assert!(sizes[13] <= sizes[4] + sizes[4] / 4, "the tables grow without end: {sizes:?}");
}

/// W18: whatever fills the volume, the tables' reserve holds: the answer is "no space", never a failed checkpoint.
#[test]
fn a_volume_that_is_filled_in_every_way_never_fails_inside_the_tables() {
    for seed in 0..8 {
        let blocks = fresh_blocks(2600 + seed * 300);
        let store = open(&blocks);
        let mut dice = Dice(seed);
        let (mut files, mut full) = (Vec::new(), 0);
        for n in 0..1200u64 {
            let some = |dice: &mut Dice, files: &[Ino]| files[dice.below(files.len() as u64) as usize];
            let outcome = match dice.below(12) {
                0..=3 if files.len() < 900 => {
                    let mut op = store.begin();
                    let ino = op.alloc_ino();
                    op.put_inode(ino, &InodeRec::new(FileKind::File, NOW));
                    let name = format!("{ino}-{}", "n".repeat(dice.below(230) as usize), ino = ino.0);
                    let entry = Dirent { ino, kind: FileKind::File, cookie: 0 };
                    op.put_dirent(Ino::ROOT, name.as_bytes(), entry).unwrap();
                    let made = op.finish();
                    if made.is_ok() {
                        files.push(ino);
                    }
                    made
                }
                4..=6 if !files.is_empty() => {
                    let ino = some(&mut dice, &files);
                    let mut op = store.begin();
                    let size = 1 << dice.below(17).min(15);
                    op.put_xattr(ino, format!("user.{}", dice.below(6)).as_bytes(), &vec![n as u8; size]);
                    op.finish()
                }
                7..=9 if !files.is_empty() => {
                    let ino = some(&mut dice, &files);
                    let at = dice.below(400) * 8192;
                    let len = if dice.below(4) == 0 { 200_000 } else { 4096 };
                    store.write(ino, at, &vec![n as u8; len], NOW)
                }
                10 if files.len() > 20 => {
                    let ino = files.swap_remove(dice.below(files.len() as u64) as usize);
                    store.drop_named(ino)
                }
                _ => match dice.below(3) {
                    0 => store.checkpoint(),
                    1 => store.writeback(true),
                    _ => store.sync(),
                },
            };
            match outcome {
                Ok(()) => {}
                Err(FsError::NoSpace) => full += 1,
                Err(error) => panic!("seed {seed}, step {n}: {error}"),
            }
            assert_eq!(store.core_read().failed, None, "seed {seed}, step {n}");
        }
        assert!(full > 0, "seed {seed}: the volume did not fill");
        store.close().unwrap();
        let again = try_open(&blocks).unwrap();
        for ino in files {
            again.drop_named(ino).unwrap_or_else(|error| panic!("seed {seed}: removing: {error}"));
        }
        again.close().unwrap();
        assert!(again.dir_is_empty(Ino::ROOT).unwrap());
    }
}

impl Store {
    /// Takes the only name of `ino` away, and then `ino` itself.
    fn drop_named(&self, ino: Ino) -> Result<(), FsError> {
        let names = self.dirents_after(Ino::ROOT, 0, usize::MAX)?;
        let (_, name, _) = names.into_iter().find(|(_, _, entry)| entry.ino == ino).unwrap();
        let mut op = self.begin();
        op.del_dirent(Ino::ROOT, &name)?;
        let mut rec = op.inode(ino)?.unwrap();
        rec.nlink = 0;
        op.put_inode(ino, &rec);
        op.add_orphan(ino);
        op.finish()?;
        self.drop_inode(ino)
    }
}
