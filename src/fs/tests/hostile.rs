//! Structures that say anything under right hashes: opening and serving end in an answer, never in a panic.
//!
//! One field after another takes a number at which something ends. What lies behind a wrong hash is never looked at:
//! `format` and `foreign` see to that.

use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{Builder, ReadableTable};

use super::mem::{Dice, MemBlocks};
use super::*;
use crate::base::BlockNo;
use crate::format::{ExtentRec, FsSuper, LogMeta, LogOp, TableId, key_ino, key_name, key_pair, seal_record};
use crate::fs::chunks::Chunks;
use crate::fs::locks::lock;
use crate::fs::open::read_super;
use crate::fs::tables::{FREE, META, META_LOG, definition};
use crate::fs::{Atime, Ctx, Fallocate, Fs, FsError, SetAttr};

/// A number that was `old` in a sound structure.
fn edge(dice: &mut Dice, old: u64) -> u64 {
    match dice.below(12) {
        0 => 0,
        1 => 1,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        4 => old.wrapping_mul(2),
        5 => u64::MAX,
        6 => u64::MAX / 4096,
        7 => u64::MAX - dice.below(4096),
        8 => u64::from(u32::MAX) + dice.below(2),
        9 => 1 << dice.below(64),
        10 => dice.roll(),
        _ => dice.below(10_000),
    }
}

/// Files, a directory, a link, attributes; some in the tables, some only in the log.
fn volume() -> Arc<MemBlocks> {
    let (blocks, store) = fresh();
    assert!(!store.back_ahead(1 << 40).unwrap(), "all of the volume is backed now");
    let fs = Fs::new(store, Atime::Never);
    let ctx = Ctx::default();
    let file = fs.create(&ctx, Ino::ROOT, b"file", 0o644).unwrap().ino;
    fs.write(&ctx, file, 0, &[1; 300_000], false).unwrap();
    let dir = fs.mkdir(&ctx, Ino::ROOT, b"dir", 0o755).unwrap().ino;
    for n in 0..20 {
        let ino = fs.create(&ctx, dir, format!("n{n}").as_bytes(), 0o644).unwrap().ino;
        fs.write(&ctx, ino, n * 5000, &[2; 5000], false).unwrap();
    }
    fs.symlink(&ctx, Ino::ROOT, b"link", b"dir/n1").unwrap();
    fs.setxattr(&ctx, file, b"user.a", b"1", crate::fs::SetXattr::Either).unwrap();
    fs.store().sync().unwrap();
    fs.store().checkpoint().unwrap();
    fs.create(&ctx, Ino::ROOT, b"late", 0o644).unwrap();
    fs.store().sync().unwrap();
    blocks
}

/// What a mount does: looks at everything, changes everything, removes everything. Errors are answers.
fn serve(blocks: &Arc<MemBlocks>) -> Result<(), FsError> {
    let store =
        Store::open(blocks.clone(), &StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() })?;
    let fs = Fs::new(store, Atime::Never);
    let ctx = Ctx::default();
    let mut dirs = vec![Ino::ROOT];
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for (_, name, entry) in fs.store().dirents_after(dir, 0, 100).unwrap_or_default() {
            if found.len() < 100 {
                if entry.kind == FileKind::Dir && !found.iter().any(|(_, _, ino)| *ino == entry.ino) {
                    dirs.push(entry.ino);
                }
                found.push((dir, name, entry.ino));
            }
        }
    }
    for (dir, name, ino) in &found {
        let _ = (fs.lookup(*dir, name).map(|node| fs.forget(node.ino, 1)), fs.getattr(*ino));
        let _ = (fs.readdir(*ino, 0, 50), fs.read(*ino, 0, 400_000), fs.read(*ino, 1 << 45, 4096));
        let _ = (fs.store().xattr_names(*ino), fs.store().seek_data(*ino, 0), fs.store().seek_hole(*ino, 0));
        let _ = (fs.write(&ctx, *ino, 3000, &[7; 9000], false), fs.write(&ctx, *ino, 1 << 30, &[7], false));
        let _ = fs.setattr(&ctx, *ino, SetAttr { size: Some(5000), ..SetAttr::default() });
        for how in [Fallocate::Allocate, Fallocate::PunchHole, Fallocate::ZeroRange] {
            let _ = fs.fallocate(&ctx, *ino, 100, 40_000, how);
        }
        let _ = fs
            .link(&ctx, *ino, Ino::ROOT, format!("l{}", ino.0).as_bytes())
            .map(|node| fs.forget(node.ino, 1));
    }
    let _ = (fs.store().sync(), fs.store().checkpoint(), fs.statfs());
    for (dir, name, _) in found.iter().rev() {
        let _ = (fs.unlink(&ctx, *dir, name), fs.rmdir(&ctx, *dir, name), fs.reap());
    }
    let _ = fs.create(&ctx, Ino::ROOT, b"new", 0o644);
    fs.store().close()
}

/// Serves what `bend` made of the volume, many times; how often that was noticed.
fn survives(rounds: u64, bend: &dyn Fn(&Arc<MemBlocks>, &mut Dice) -> String) -> u64 {
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { rounds * 50 } else { rounds };
    let sound = volume();
    serve(&sound.copy()).unwrap();
    let (mut noticed, mut wrong) = (0, Vec::new());
    for seed in 0..rounds {
        let blocks = sound.copy();
        let what = bend(&blocks, &mut Dice(seed));
        match catch_unwind(AssertUnwindSafe(|| serve(&blocks))) {
            Ok(end) => noticed += u64::from(end.is_err()),
            Err(_) => wrong.push(format!("seed {seed}: {what}")),
        }
    }
    assert!(wrong.is_empty(), "{} panics:\n{}", wrong.len(), wrong.join("\n"));
    noticed
}

fn put_super(blocks: &Arc<MemBlocks>, sup: &FsSuper) {
    for seq in [sup.seq, sup.seq + 1] {
        let slot = FsSuper { seq, ..sup.clone() };
        let (head, cont) = slot.encode();
        blocks.poke(seq % 2, &head);
        let first = slot.cont_first[(seq % 2) as usize];
        for (n, block) in (0..).zip(cont.chunks(4096)) {
            blocks.poke(first.wrapping_add(n) % 8192, block);
        }
    }
}

#[test]
fn a_superblock_of_the_filesystem_may_say_anything() {
    let noticed = survives(400, &|blocks, dice| {
        let mut sup = read_super(blocks.as_ref()).unwrap();
        let chunks = sup.chunks.len() as u64;
        for _ in 0..1 + dice.below(2) {
            let pick = dice.below(13);
            let chunk = dice.below(chunks) as usize;
            let field = match pick {
                0 => &mut sup.block_count,
                1 => &mut sup.ring_first,
                2 => &mut sup.ring_blocks,
                3 => &mut sup.cont_first[0],
                4 => &mut sup.cont_blocks,
                5 => &mut sup.data_first,
                6..=8 => &mut sup.tables_len,
                9 | 10 => &mut sup.chunks[chunk].0,
                _ => &mut sup.chunks[chunk].1,
            };
            *field = edge(dice, *field);
        }
        put_super(blocks, &sup);
        format!("{sup:?}")
    });
    assert!(noticed > 100, "only {noticed} were noticed");
}

/// A value of a table, bent: any field of it.
fn bend_value(value: &mut Vec<u8>, dice: &mut Dice) {
    match dice.below(10) {
        0 => value.truncate(dice.below(value.len() as u64 + 1) as usize),
        1 => value.clear(),
        _ => {
            for _ in 0..1 + dice.below(2) {
                let width = [4, 8, 8][dice.below(3) as usize];
                let place = dice.below((value.len() / width).max(1) as u64) as usize * width;
                if let Some(bytes) = value.get_mut(place..place + width) {
                    let mut old = [0; 8];
                    old[..width].copy_from_slice(bytes);
                    let new = edge(dice, u64::from_le_bytes(old)).to_le_bytes();
                    bytes.copy_from_slice(&new[..width]);
                }
            }
        }
    }
}

/// A key and a value that the table might have.
fn entry(table: TableId, dice: &mut Dice) -> (Vec<u8>, Vec<u8>) {
    let ino = Ino(1 + dice.below(26));
    match table {
        TableId::Inodes => (key_ino(ino).to_vec(), InodeRec::new(FileKind::File, NOW).encode()),
        TableId::Dirents => {
            let entry = Dirent { ino: Ino(2 + dice.below(24)), kind: FileKind::File, cookie: dice.below(30) };
            (key_name(ino, b"n7"), entry.encode())
        }
        TableId::Cookies => {
            let entry = Dirent { ino: Ino(2 + dice.below(24)), kind: FileKind::Dir, cookie: dice.below(30) };
            let mut value = entry.encode();
            value.extend_from_slice(b"n7");
            (key_pair(ino, dice.below(30)).to_vec(), value)
        }
        TableId::Extents => {
            let start = BlockNo(1028 + dice.below(4000));
            let count = 1 + dice.below(40) as u32;
            let rec = ExtentRec { start, count, unwritten: dice.below(2) == 0 };
            (key_pair(ino, dice.below(80)).to_vec(), rec.encode())
        }
        TableId::Xattrs => (key_name(ino, b"user.b"), vec![1, 2, 3]),
        TableId::Orphans => (key_ino(ino).to_vec(), vec![dice.below(3) as u8]),
    }
}

fn any_entry(dice: &mut Dice) -> (TableId, Vec<u8>, Vec<u8>) {
    let table = TableId::ALL[dice.below(6) as usize];
    let (mut key, mut value) = entry(table, dice);
    if dice.below(6) == 0 {
        bend_value(&mut key, dice);
    }
    if dice.below(4) > 0 {
        bend_value(&mut value, dice);
    }
    (table, key, value)
}

#[test]
fn a_record_of_the_log_may_say_anything() {
    let noticed = survives(400, &|blocks, dice| {
        let store = open(blocks);
        let (seq, at) = (store.core_read().next_seq, store.core_read().ring.head);
        let (log_id, first, chain) = (store.log_id, store.ring_first, *lock(&store.chain));
        drop(store);
        let mut ops = Vec::new();
        for _ in 0..1 + dice.below(4) {
            let (start, count) = (BlockNo(edge(dice, 3000)), edge(dice, 10));
            match dice.below(4) {
                0 => LogOp::Alloc { start, count }.encode(&mut ops),
                1 => LogOp::Free { start, count }.encode(&mut ops),
                _ => {
                    let (table, key, value) = any_entry(dice);
                    let value = (dice.below(5) > 0).then_some(value.as_slice());
                    LogOp::Set { table, key: &key, value }.encode(&mut ops);
                }
            }
        }
        let home = BlockNo(if dice.below(3) == 0 { edge(dice, 3000) } else { 3000 });
        let payload = [(home, &[9; 4096])];
        let (record, _) = seal_record(log_id, seq, &chain, &ops, payload.into_iter());
        for (n, block) in (0..).zip(record.chunks(4096)) {
            blocks.poke(first + at + n, block);
        }
        format!("{ops:x?} {home:?}")
    });
    assert!(noticed > 50, "only {noticed} were noticed");
}

#[test]
fn entries_of_the_tables_may_say_anything() {
    let noticed = survives(400, &|blocks, dice| {
        let chunks = Chunks::new(blocks.clone(), read_super(blocks.as_ref()).unwrap(), usize::MAX);
        let db = Builder::new().create_with_backend(chunks).unwrap();
        let txn = db.begin_write().unwrap();
        let mut told = String::new();
        for _ in 0..1 + dice.below(3) {
            match dice.below(8) {
                0 => {
                    let (start, count) = (edge(dice, 4000), edge(dice, 50));
                    txn.open_table(FREE).unwrap().insert(start, count).unwrap();
                    told += &format!("free {start}+{count} ");
                }
                1 => {
                    let mut meta = txn.open_table(META).unwrap();
                    let mut value = meta.get(META_LOG).unwrap().unwrap().value().to_vec();
                    bend_value(&mut value, dice);
                    told += &format!("{:?} ", LogMeta::decode(&value));
                    meta.insert(META_LOG, value.as_slice()).unwrap();
                }
                _ => {
                    let (table, key, value) = any_entry(dice);
                    let mut stored = txn.open_table(definition(table)).unwrap();
                    stored.insert(key.as_slice(), value.as_slice()).unwrap();
                    told += &format!("{table:?} {key:x?} {value:x?} ");
                }
            }
        }
        txn.commit().unwrap();
        drop(db);
        told
    });
    assert!(noticed > 50, "only {noticed} were noticed");
}
