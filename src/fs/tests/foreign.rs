//! Tables of foreign bytes under a right digest: opening, reading and changing end in an error, never in a panic, and
//! never in the end of the process.
#![allow(clippy::disallowed_methods, reason = "a case runs in a process of its own")]

use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use crate::base::{BlockNo, Ino, PAGE};
use crate::format::CHUNK_BLOCKS;
use crate::fs::FsError;
use crate::image::Blocks;

use super::super::chunks::Chunks;
use super::super::freed;
use super::super::open::read_super;
use super::super::{Store, StoreOptions};
use super::mem::MemBlocks;
use super::{create, fresh};

/// Names the one case that a child process tries.
const CASE: &str = "TWINFS_TEST_FOREIGN";

/// Everything that a serving daemon does with its tables.
fn serve(blocks: &Arc<MemBlocks>) -> bool {
    let Ok(store) = Store::open(blocks.clone(), &StoreOptions::default()) else { return false };
    let mut good = true;
    for ino in 1..400 {
        good &= store.inode(Ino(ino)).is_ok();
        good &= store.xattr_names(Ino(ino)).is_ok();
        good &= store.dirents_after(Ino(ino), 0, usize::MAX).is_ok();
        good &= store.read(Ino(ino), 0, 5000).is_ok();
    }
    let mut op = store.begin();
    let ino = op.alloc_ino();
    op.put_xattr(ino, b"user.x", b"1");
    op.put_xattr(Ino(30), b"user.x", b"1");
    good &= op.finish().is_ok();
    good &= store.sync().is_ok();
    good &= store.checkpoint().is_ok();
    good &= store.close().is_ok();
    good
}

/// A volume with some names, as a power cut leaves it or closed.
fn some_names(closed: bool) -> Arc<MemBlocks> {
    let (blocks, store) = fresh();
    for n in 0..300 {
        create(&store, format!("name{n}").as_bytes());
    }
    store.sync().unwrap();
    store.checkpoint().unwrap();
    let cut = blocks.copy();
    store.close().unwrap();
    drop(store);
    if closed { blocks } else { cut }
}

/// The tables' address space, and what was read of it.
#[derive(Debug)]
struct Watched(Chunks, Mutex<Vec<u64>>);

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.lock().unwrap().push(offset);
        self.0.read(offset, out)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("nothing is written")
    }
    fn sync_data(&self) -> io::Result<()> {
        unreachable!("nothing is written")
    }
    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("nothing is written")
    }
}

/// What redb frees at the next commit is looked at before it does: a page of no region, of an order that none has,
/// behind the end, or listed twice.
#[test]
fn a_list_of_freed_pages_that_cannot_be_is_refused_before_redb_acts_on_it() {
    for closed in [false, true] {
        let blocks = some_names(closed);
        let sup = read_super(blocks.as_ref()).unwrap();
        let watched = Watched(Chunks::new(blocks.clone(), sup.clone(), usize::MAX), Mutex::default());
        freed::check(&watched).unwrap();
        // The last page read is a leaf of a list.
        let at = *watched.1.lock().unwrap().last().unwrap();
        let (_, first) = *sup.chunks.iter().find(|(n, _)| *n == at / PAGE as u64 / CHUNK_BLOCKS).unwrap();
        let home = first + at / PAGE as u64 % CHUNK_BLOCKS;
        let page = blocks.peek(home);
        let count = usize::from(u16::from_le_bytes([page[2], page[3]]));
        let list = 4 + count * 4 + count * 16;
        assert_eq!(page[0], 1, "a leaf");
        assert!(u16::from_le_bytes([page[list], page[list + 1]]) >= 2, "a list of some pages");
        let second = u64::from_le_bytes(page[list + 10..list + 18].try_into().unwrap());
        for wrong in [7 << 20, 31 << 59, 0xF_FFFF, 20 << 59, second, u64::MAX] {
            let copy = blocks.copy();
            let mut bytes = page.clone();
            bytes[list + 2..list + 10].copy_from_slice(&wrong.to_le_bytes());
            copy.poke(home, &bytes);
            match Store::open(copy, &StoreOptions::default()) {
                Err(FsError::Corrupt(what)) => assert!(what.contains("freed pages"), "{what}"),
                Err(other) => panic!("{wrong:x}: {other}"),
                Ok(_) => panic!("{wrong:x}: nobody notices"),
            }
        }
    }
}

#[test]
fn foreign_bytes_in_the_tables_end_in_an_error_and_never_in_a_panic() {
    let blocks = some_names(true);
    let sup = read_super(blocks.as_ref()).unwrap();
    let pages = sup.tables_len / PAGE as u64;
    let bound = sup.chunks.iter().filter(|(index, _)| index * CHUNK_BLOCKS < pages);
    let homes: Vec<BlockNo> =
        bound.flat_map(|(_, first)| (*first..first + CHUNK_BLOCKS).map(BlockNo)).collect();
    let (mut tried, mut failed) = (0, 0);
    for home in homes {
        let mut page = vec![0; PAGE];
        blocks.read(home, &mut page).unwrap();
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        for damage in 0..3 {
            let name = format!("{} {damage}", home.0);
            match std::env::var(CASE) {
                Ok(case) if case == name => {
                    let copy = blocks.copy();
                    copy.poke(home.0, &damaged(&page, damage));
                    let noticed = !serve(&copy);
                    return writeln!(std::io::stdout(), "noticed: {noticed}").unwrap();
                }
                Ok(_) => {}
                Err(_) => {
                    tried += 1;
                    failed += u32::from(in_child(&name));
                }
            }
        }
    }
    assert!(tried > 20 && failed > 5, "{failed} of {tried} were noticed");
}

fn damaged(page: &[u8], how: u32) -> Vec<u8> {
    let mut bytes = page.to_vec();
    match how {
        0 => bytes[2..40].fill(0xFF),
        1 => bytes.iter_mut().skip(4).for_each(|byte| *byte = byte.wrapping_mul(7).wrapping_add(3)),
        _ => bytes.fill(2),
    }
    bytes
}

/// Whether the damage was noticed.
fn in_child(case: &str) -> bool {
    let test = std::thread::current().name().expect("a test has a name").to_string();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let out = child.args([&test, "--exact", "--nocapture"]).env(CASE, case).output().unwrap();
    let (told, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && told.contains("noticed: "), "{case}: an error, not an end: {told}{said}");
    told.contains("noticed: true")
}
