//! Damage with right digests and right checksums, as a fault of a program would leave it.

use twinfs::base::{BlockNo, Ino};
use twinfs::format::{Dirent, ExtentRec, FileKind, TableId, key_ino, key_name, key_pair};

use super::kit::*;
use crate::options::Repair;

/// Inode numbers of the folders: made first, one in the other.
const DIRS: [u64; 3] = [2, 3, 4];
/// A file in the innermost folder, and its extents' blocks.
const FILE: u64 = 20;

fn name(n: u64) -> Vec<u8> {
    format!("file{:05}", n - 5).into_bytes()
}

struct Case {
    what: &'static str,
    words: &'static str,
    change: fn(&Editor<'_>),
    /// Paths that may differ afterwards.
    except: &'static [&'static str],
    lossless: bool,
}

const fn case(
    what: &'static str,
    words: &'static str,
    change: fn(&Editor<'_>),
    except: &'static [&'static str],
    lossless: bool,
) -> Case {
    Case { what, words, change, except, lossless }
}

const CASES: &[Case] = &[
    case("wrong link count", "7 links, but 1 are there", |e| e.inode(FILE, |rec| rec.nlink = 7), &[], true),
    case("wrong block count", "says 99 blocks", |e| e.inode(FILE, |rec| rec.blocks = 99), &[], true),
    case(
        "size too small",
        "but data up to block",
        |e| e.inode(FILE, |rec| rec.size = 1),
        &["file00015"],
        true,
    ),
    case("impossible mode", "mode", |e| e.inode(FILE, |rec| rec.mode |= 1 << 22), &[], true),
    case(
        "wrong parent",
        "says it is in directory 1",
        |e| e.inode(DIRS[2], |rec| rec.parent = Ino(1)),
        &[],
        true,
    ),
    case(
        "no kind at all",
        "inode 20 is gone",
        |e| {
            let key = key_ino(Ino(FILE));
            let mut value = e.get(TableId::Inodes, &key);
            value[..4].fill(0);
            e.put(TableId::Inodes, &key, &value);
        },
        &["file00015"],
        false,
    ),
    case(
        "lost name",
        "was lost, its cookie gives it back",
        |e| e.del(TableId::Dirents, &key_name(Ino(DIRS[2]), &name(FILE))),
        &[],
        true,
    ),
    case(
        "name of nothing",
        "inode 999999 does not exist",
        |e| {
            let entry = Dirent { ino: Ino(999_999), kind: FileKind::File, cookie: 90_000 };
            e.put(TableId::Dirents, &key_name(Ino(1), b"nothing"), &entry.encode());
        },
        &[],
        false,
    ),
    case(
        "name and cookie lost",
        "has no name: it goes to lost+found",
        |e| {
            let key = key_name(Ino(DIRS[2]), &name(FILE));
            let entry = Dirent::decode(&e.get(TableId::Dirents, &key)).unwrap();
            e.del(TableId::Dirents, &key);
            e.del(TableId::Cookies, &key_pair(Ino(DIRS[2]), entry.cookie));
        },
        &["file00015"],
        true,
    ),
    case(
        "duplicate blocks",
        "it gets a copy of them",
        |e| {
            let rec = e.get(TableId::Extents, &key_pair(Ino(FILE), 0));
            e.put(TableId::Extents, &key_pair(Ino(FILE + 1), 0), &rec);
        },
        &["file00016"],
        false,
    ),
    case(
        "blocks of the tables in a file",
        "also of the tables",
        |e| {
            let first = e.get(TableId::Extents, &key_pair(Ino(FILE), 0));
            let mut rec = ExtentRec::decode(&first).unwrap();
            // The chunks lie at the end of the volume.
            rec.start = BlockNo(TABLE_BLOCK.load(std::sync::atomic::Ordering::Relaxed));
            e.put(TableId::Extents, &key_pair(Ino(FILE), 0), &rec.encode());
        },
        &["file00015"],
        false,
    ),
    case(
        "extent outside",
        "lie outside",
        |e| {
            let rec = ExtentRec { start: BlockNo(1 << 40), count: 3, unwritten: false };
            e.put(TableId::Extents, &key_pair(Ino(FILE), 0), &rec.encode());
        },
        &["file00015"],
        false,
    ),
    case(
        "extents that overlap in the file",
        "overlaps the one before",
        |e| {
            let first = ExtentRec::decode(&e.get(TableId::Extents, &key_pair(Ino(FILE), 0))).unwrap();
            let rec = ExtentRec { count: 1, ..first };
            e.put(TableId::Extents, &key_pair(Ino(FILE), 0), &ExtentRec { count: 2, ..rec }.encode());
            e.put(TableId::Extents, &key_pair(Ino(FILE), 1), &rec.encode());
        },
        &["file00015", "file00016"],
        false,
    ),
    case(
        "free run lost",
        "neither used nor free",
        |e| e.free(FREE_RUN.load(std::sync::atomic::Ordering::Relaxed), None),
        &[],
        true,
    ),
    case("used blocks free", "are free,", |e| e.free(600, Some(40)), &[], true),
    case("garbage in the free list", "free space: the table", |e| e.free(u64::MAX - 4, Some(9)), &[], true),
    case(
        "a foreign log",
        "belongs to another log",
        |e| {
            let log = twinfs::format::LogMeta {
                applied: 1,
                next_pos: 0,
                next_seq: 2,
                log_id: 9,
                prev_hash: [0; 32],
                next_ino: 5000,
            };
            e.meta(&log.encode());
        },
        &["/late"],
        false,
    ),
    case("no log position", "log: no position", |e| e.meta(b"nonsense"), &["/late"], false),
    case(
        "stray attribute",
        "the inode does not exist",
        |e| {
            e.put(TableId::Xattrs, &key_name(Ino(888_888), b"user.x"), b"1");
        },
        &[],
        false,
    ),
    case(
        "stray orphan",
        "inode 888888 does not exist",
        |e| e.put(TableId::Orphans, &key_ino(Ino(888_888)), &[0]),
        &[],
        true,
    ),
    case(
        "a used inode among the unlinked",
        "is in the list of unlinked",
        |e| e.put(TableId::Orphans, &key_ino(Ino(FILE)), &[0]),
        &[],
        true,
    ),
    case(
        "the root is a file",
        "the root is not a directory",
        |e| e.inode(1, |rec| rec.mode = 0o100_644),
        &["/"],
        false,
    ),
    case(
        "garbage keys",
        "a key of 3 bytes",
        |e| {
            for table in [TableId::Inodes, TableId::Extents, TableId::Cookies, TableId::Orphans] {
                e.put(table, &[1, 2, 3], &[9; 5]);
            }
            e.put(TableId::Dirents, &[7; 4], &[1]);
            e.put(TableId::Xattrs, &[7; 4], &[1]);
        },
        &[],
        false,
    ),
    case(
        "a circle of directories",
        "does not lead to the root",
        |e| {
            let key = key_name(Ino(1), b"dir0");
            let entry = Dirent::decode(&e.get(TableId::Dirents, &key)).unwrap();
            e.del(TableId::Dirents, &key);
            e.del(TableId::Cookies, &key_pair(Ino(1), entry.cookie));
            let up = Dirent { ino: Ino(DIRS[0]), kind: FileKind::Dir, cookie: 80_000 };
            e.put(TableId::Dirents, &key_name(Ino(DIRS[2]), b"up"), &up.encode());
        },
        &["/dir0"],
        false,
    ),
];

static TABLE_BLOCK: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
static FREE_RUN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[test]
fn every_damage_of_the_tables_is_named_and_put_right_and_nothing_else_is_touched() {
    let image = make(true);
    let (expected, sup) = (tree(&image), fs_super(&image));
    let order = std::sync::atomic::Ordering::Relaxed;
    TABLE_BLOCK.store(sup.chunks[0].1, order);
    let opened = std::sync::Arc::new(
        twinfs::image::Image::open(disk(&image), &twinfs::image::OpenOptions::read_only()).unwrap(),
    );
    let volume = twinfs::offline::Volume::open(&opened, sup).unwrap();
    FREE_RUN.store(volume.free[0].0, order);
    for case in CASES {
        let damaged = copy(&image);
        edit(&damaged, |e| (case.change)(e));
        let said = find_and_repair(&damaged, case.words);
        assert_eq!(said.lossy == 0, case.lossless, "{}: {:#?}", case.what, said.lines);
        let after = tree(&damaged);
        same(&expected, &after, case.except, case.what);
        let lost =
            |path: &str| after.iter().find(|(at, _)| at.starts_with("/lost+found") && at.ends_with(path));
        match case.what {
            "name and cookie lost" => {
                assert_eq!(lost("#20").unwrap().1.bytes, expected["/dir0/dir1/dir2/file00015"].bytes);
            }
            "a circle of directories" => {
                let name = "/file00015";
                assert_eq!(lost(name).unwrap().1.bytes, expected["/dir0/dir1/dir2/file00015"].bytes);
            }
            "no kind at all" => {
                let (new, old) =
                    (&after["/dir0/dir1/dir2/file00015"].bytes, &expected["/dir0/dir1/dir2/file00015"].bytes);
                assert_eq!(&new[..old.len()], &old[..]);
            }
            "duplicate blocks" => {
                // Both have what lies in the shared block, and no longer share it.
                let (a, b) =
                    (&after["/dir0/dir1/dir2/file00015"].bytes, &after["/dir0/dir1/dir2/file00016"].bytes);
                assert_eq!(a[..4096], b[..4096]);
            }
            _ => {}
        }
    }
}

#[test]
fn safe_repairs_put_right_what_loses_nothing_and_refuse_the_rest_as_a_whole() {
    let image = make(true);
    let expected = tree(&image);
    for case in CASES {
        let damaged = copy(&image);
        if case.what.contains("tables in a file") || case.what == "free run lost" {
            continue;
        }
        edit(&damaged, |e| (case.change)(e));
        let before = damaged.allocated();
        let said = fsck(&damaged, &options(Repair::Safe));
        match case.lossless {
            true => {
                assert_eq!(said.end, "repaired", "{}: {:?}", case.what, said.lines);
                same(&expected, &tree(&damaged), case.except, case.what);
            }
            false => {
                assert_eq!(said.end, "left", "{}", case.what);
                assert!(before == damaged.allocated(), "{}", case.what);
            }
        }
    }
}

#[test]
fn pages_that_are_garbage_with_a_right_digest_are_told_by_their_checksum() {
    let image = make(true);
    let (sup, expected) = (fs_super(&image), tree(&image));
    let pages = sup.tables_len / 4096;
    let blocks: Vec<u64> = sup
        .chunks
        .iter()
        .filter(|(index, _)| index * 64 < pages)
        .flat_map(|(_, first)| *first..first + 64)
        .collect();
    let opened = twinfs::image::Image::open(disk(&image), &twinfs::image::OpenOptions::read_only()).unwrap();
    let mut tried = 0;
    for (n, block) in blocks.iter().enumerate() {
        let mut content = vec![0; 4096];
        opened.read(BlockNo(*block), &mut content).unwrap();
        if content.iter().all(|byte| *byte == 0) || n % 11 != 0 {
            continue;
        }
        let damaged = copy(&image);
        content[100..600].iter_mut().for_each(|byte| *byte = byte.wrapping_add(77));
        write_block(&damaged, BlockNo(*block), &content);
        let said = fsck(&damaged, &options(Repair::Nothing));
        if said.lines.is_empty() {
            // A page that is free.
            same(&expected, &tree(&damaged), &[], "free page");
            continue;
        }
        tried += 1;
        find_and_repair(&damaged, "tables: ");
        tree(&damaged);
    }
    assert!(tried > 3, "{tried}");
}

#[test]
fn the_whole_tables_head_may_be_gone() {
    let image = make(true);
    let (sup, expected) = (fs_super(&image), tree(&image));
    let damaged = copy(&image);
    write_block(&damaged, BlockNo(sup.chunks[0].1), &[0xEE; 4096]);
    let said = find_and_repair(&damaged, "the head of the tables is not there");
    assert!(said.lossy > 0);
    let after = tree(&damaged);
    let contents: std::collections::BTreeSet<&[u8]> =
        after.values().map(|thing| thing.bytes.as_slice()).collect();
    let kept = expected.values().filter(|thing| contents.contains(thing.bytes.as_slice())).count();
    assert!(kept + 30 > expected.len(), "{kept} of {}", expected.len());
}
