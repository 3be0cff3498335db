//! Tables of foreign bytes under a right digest: opening, reading and changing end in an error, never in a panic.
//!
//! One way to die is left, and the test holds it to that one: redb panics a second time while it cleans up after a
//! panic in its own bookkeeping of freed pages, when a checkpoint commits; that ends the process.
#![allow(clippy::disallowed_methods, reason = "a case runs in a process of its own")]

use std::io::Write;
use std::process::Command;
use std::sync::Arc;

use crate::base::{BlockNo, Ino, PAGE};
use crate::format::CHUNK_BLOCKS;
use crate::image::Blocks;

use super::super::open::read_super;
use super::super::{Store, StoreOptions};
use super::mem::MemBlocks;
use super::{create, fresh};

/// Names the one case that a child process tries.
const CASE: &str = "TWINFS_TEST_FOREIGN";
const COMMITS: &str = "a checkpoint commits";

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
    writeln!(std::io::stderr(), "{COMMITS}").unwrap();
    good &= store.checkpoint().is_ok();
    good &= store.close().is_ok();
    good
}

#[test]
fn foreign_bytes_in_the_tables_end_in_an_error_and_never_in_a_panic() {
    let (blocks, store) = fresh();
    for n in 0..300 {
        create(&store, format!("name{n}").as_bytes());
    }
    store.sync().unwrap();
    store.checkpoint().unwrap();
    store.close().unwrap();
    drop(store);
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
    if !out.status.success() {
        let doubled = said.contains("panic in a destructor during cleanup") && said.contains(COMMITS);
        assert!(doubled, "{case}: an error, not a panic: {said}");
        return true;
    }
    assert!(told.contains("noticed: "), "{case}: {told}{said}");
    told.contains("noticed: true")
}
