//! The walker against the library that writes the pages: the same entries, the same checksums; and against pages that
//! were damaged in every way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use redb::{StorageBackend, TableDefinition};

use super::*;

type Blob = &'static [u8];
const NAMES: TableDefinition<'static, Blob, Blob> = TableDefinition::new("names");
const RUNS: TableDefinition<'static, u64, u64> = TableDefinition::new("runs");

/// An address space in memory that the library writes and the walker reads.
#[derive(Clone, Default)]
pub(crate) struct Memory(pub(crate) Arc<Mutex<Vec<u8>>>);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap()[from..from + out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = offset as usize;
        self.0.lock().unwrap()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Bytes for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        let from = offset as usize;
        match self.get(from..from + out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return false,
        }
        true
    }
}

/// Everything that a walk met.
#[derive(Default)]
struct Met {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    broken: Vec<Broken>,
    pages: BTreeSet<PageNo>,
}

impl Visitor for Met {
    fn page(&mut self, page: PageNo, _: usize) -> bool {
        self.pages.insert(page)
    }
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        self.entries.push((key.to_vec(), value.to_vec()));
    }
    fn broken(&mut self, broken: Broken) {
        self.broken.push(broken);
    }
}

fn key(n: u32) -> Vec<u8> {
    let mut key = u64::from(n % 7).to_be_bytes().to_vec();
    key.extend_from_slice(format!("name{n:06}").as_bytes());
    key
}

/// `count` names and runs, in two commits, closed in order.
fn library(count: u32) -> (Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>) {
    let memory = Memory::default();
    let db = redb::Builder::new().create_with_backend(memory.clone()).unwrap();
    let mut expected = BTreeMap::new();
    for half in 0..2 {
        let mut txn = db.begin_write().unwrap();
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(true);
        {
            let mut names = txn.open_table(NAMES).unwrap();
            let mut runs = txn.open_table(RUNS).unwrap();
            for n in (half * count / 2)..((half + 1) * count / 2) {
                let value = vec![n as u8; (n % 90) as usize];
                names.insert(key(n).as_slice(), value.as_slice()).unwrap();
                expected.insert(key(n), value);
                runs.insert(u64::from(n) * 300, 5).unwrap();
            }
        }
        txn.commit().unwrap();
    }
    drop(db);
    let bytes = memory.0.lock().unwrap().clone();
    (bytes, expected)
}

fn trees(bytes: &Vec<u8>) -> Trees<'_> {
    Trees::new(bytes, Head::decode(bytes).unwrap())
}

fn table(trees: &Trees<'_>, name: &str) -> TableInfo {
    let catalog = read_catalog(trees, trees.head.commits[0].unwrap().user);
    assert!(catalog.broken.is_empty());
    catalog.tables[name]
}

fn met(trees: &Trees<'_>, info: &TableInfo) -> Met {
    let mut met = Met::default();
    trees.walk(info.root.unwrap(), info.widths, &mut met);
    met
}

#[test]
fn the_walker_meets_what_the_library_wrote() {
    let (bytes, expected) = library(20_000);
    let trees = trees(&bytes);
    let names = table(&trees, "names");
    let walked = met(&trees, &names);
    assert!(walked.broken.is_empty(), "{:?}", walked.broken[0].why);
    assert_eq!(walked.entries, expected.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(names.length, 20_000);
    for (key, value) in expected.iter().step_by(371) {
        assert_eq!(trees.get(names.root.unwrap(), names.widths, key).as_ref(), Some(value));
    }
    assert_eq!(trees.get(names.root.unwrap(), names.widths, b"nobody"), None);
    let runs = table(&trees, "runs");
    let walked = met(&trees, &runs);
    assert!(walked.broken.is_empty() && walked.entries.len() == 20_000);
    assert_eq!(walked.entries[300].0, (300u64 * 300).to_le_bytes());
    // The library's own tables hold together as well.
    let mut own = Trees::new(&bytes, Head::decode(&bytes).unwrap());
    own.ordered = false;
    let system = read_catalog(&own, own.head.commits[0].unwrap().system);
    assert!(!system.tables.is_empty() && system.broken.is_empty());
    for info in system.tables.values().filter(|info| info.plain && info.root.is_some()) {
        assert!(met(&own, info).broken.is_empty());
    }
}

/// What the library acts on without a look: what it wrote is right, anything else is counted.
#[test]
fn a_page_to_be_freed_lies_in_the_tables_and_is_listed_once() {
    let (bytes, _) = library(20_000);
    let mut own = Trees::new(&bytes, Head::decode(&bytes).unwrap());
    own.ordered = false;
    let system = read_catalog(&own, own.head.commits[0].unwrap().system);
    let listed = || {
        let mut freed = Freed::default();
        for info in LISTS.iter().filter_map(|name| system.tables.get(*name)) {
            if let Some(root) = info.root {
                own.walk(root, info.widths, &mut freed);
            }
        }
        freed
    };
    assert!(format!("{:?}", listed()).contains("PageNo"), "nothing is listed");
    assert_eq!(listed().wrong(&own), 0);
    let list = |pages: &[u64]| -> Vec<u8> {
        let count = (pages.len() as u16).to_le_bytes();
        count.into_iter().chain(pages.iter().flat_map(|page| page.to_le_bytes())).collect()
    };
    for (value, wrong) in [
        (list(&[7 << 20]), 1),
        (list(&[31 << 59, 0xF_FFFF, u64::MAX]), 3),
        (list(&[5, 5]), 1),
        (vec![9, 0, 1], 1),
        (vec![1], 1),
    ] {
        let mut freed = Freed::default();
        freed.entry(&[0; 16], &value);
        assert_eq!(freed.wrong(&own), wrong, "{value:?}");
    }
}

/// A tree of one leaf of one pair, so that the sealed part of a page has every length.
#[test]
fn the_checksum_is_the_librarys_for_every_length_of_a_page() {
    for len in (1..260).chain((260..3900).step_by(61)).chain([1005, 1006, 1007, 4050, 9000]) {
        let memory = Memory::default();
        let db = redb::Builder::new().create_with_backend(memory.clone()).unwrap();
        let txn = db.begin_write().unwrap();
        let value: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
        txn.open_table(NAMES).unwrap().insert(b"keys".as_slice(), value.as_slice()).unwrap();
        txn.commit().unwrap();
        drop(db);
        let bytes = memory.0.lock().unwrap().clone();
        let trees = trees(&bytes);
        let walked = met(&trees, &table(&trees, "names"));
        assert!(walked.broken.is_empty(), "length {len}");
        assert_eq!(walked.entries, [(b"keys".to_vec(), value)]);
    }
}

#[test]
fn leaves_below_a_broken_branch_are_saved_by_their_checksums() {
    let (bytes, expected) = library(20_000);
    let root = table(&trees(&bytes), "names").root.unwrap();
    let (at, _) = trees(&bytes).head.place(root.page, bytes.len() as u64).unwrap();
    // One pointer of the root is gone; all others still prove themselves.
    let mut damaged = bytes.clone();
    damaged[at as usize + 8] ^= 0x10;
    let trees = trees(&damaged);
    let info = table(&trees, "names");
    let walked = met(&trees, &info);
    assert_eq!((walked.broken.len(), walked.entries.len()), (1, 0));
    let mut seen = walked.pages;
    let saved = below_broken(&trees, &walked.broken[0], info.widths, None, &mut seen);
    assert!(saved.iter().all(|saved| saved.sure && expected[&saved.key] == saved.value));
    assert!(saved.len() > 10_000 && saved.len() < 20_000, "{}", saved.len());
    let mut all: BTreeMap<Vec<u8>, Vec<u8>> = saved.into_iter().map(|s| (s.key, s.value)).collect();
    let seen = seen.iter().map(|page| trees.head.place(*page, damaged.len() as u64).unwrap().0).collect();
    unreferenced(&trees, &walked.broken, info.widths, &seen, &mut |saved| {
        all.entry(saved.key).or_insert(saved.value);
    });
    for (key, value) in &expected {
        assert_eq!(all.get(key), Some(value));
    }
}

#[test]
fn leaves_below_a_branch_that_is_gone_are_found_where_nothing_refers_to_them() {
    let (bytes, expected) = library(4000);
    let root = table(&trees(&bytes), "names").root.unwrap();
    let (at, len) = trees(&bytes).head.place(root.page, bytes.len() as u64).unwrap();
    let mut damaged = bytes;
    damaged[at as usize..at as usize + len].fill(0);
    let trees = trees(&damaged);
    let info = table(&trees, "names");
    let walked = met(&trees, &info);
    assert_eq!(walked.broken.len(), 1);
    let mut all = BTreeMap::new();
    unreferenced(&trees, &walked.broken, info.widths, &BTreeSet::new(), &mut |saved| {
        all.insert(saved.key, saved.value);
    });
    assert!(expected.iter().all(|(key, value)| all.get(key) == Some(value)));
}

#[test]
fn a_broken_leaf_gives_what_its_offsets_still_say() {
    let (bytes, expected) = library(200);
    let trees_before = trees(&bytes);
    let info = table(&trees_before, "names");
    let leaf = met(&trees_before, &info);
    let page = *leaf.pages.iter().next_back().unwrap();
    let (at, _) = trees_before.head.place(page, bytes.len() as u64).unwrap();
    let mut damaged = bytes.clone();
    damaged[at as usize + 2000] ^= 0xFF;
    let trees = trees(&damaged);
    let walked = met(&trees, &info);
    assert_eq!(walked.broken.len(), 1, "{:?}", walked.entries.len());
    let mut seen = walked.pages.clone();
    let saved = below_broken(&trees, &walked.broken[0], info.widths, None, &mut seen);
    let right = saved.iter().filter(|saved| expected.get(&saved.key) == Some(&saved.value)).count();
    assert!(right + walked.entries.len() >= 198, "{right}");
    assert!(saved.iter().all(|saved| !saved.sure));
}

#[test]
fn a_leaf_without_its_offsets_is_read_by_the_shape_of_its_entries() {
    let count = 90_usize;
    let mut page = vec![0x77; 4096];
    for n in 0..count {
        let (key, value) = (4 + count * 8 + n * 16, 4 + count * 24 + n * 16);
        page[key..key + 16].copy_from_slice(&(n as u128 * 1000).to_be_bytes());
        page[value..value + 16].copy_from_slice(&[n as u8; 16]);
    }
    let entries = page::entries_of_shape(&page, 16, 16);
    assert_eq!(entries.len(), count);
    assert!(entries.iter().enumerate().all(|(n, (_, value))| page[value.clone()] == [n as u8; 16]));
    assert!(page::entries_of_shape(&[9; 4096], 16, 16).is_empty());
    assert!(page::entries_of_shape(&[], 16, 16).is_empty());
}

#[test]
fn no_bytes_make_the_walker_panic_or_loop() {
    let (bytes, _) = library(3000);
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { 20_000 } else { 400 };
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice as usize
    };
    for _ in 0..rounds {
        let mut damaged = bytes.clone();
        for _ in 0..1 + next() % 40 {
            let at = next() % damaged.len().min(if next() % 3 == 0 { 400 } else { usize::MAX });
            damaged[at] = next() as u8;
        }
        // A page somewhere else, so that pointers meet sound pages of a wrong place.
        let (from, to) = (next() % (damaged.len() / 4096) * 4096, next() % (damaged.len() / 4096) * 4096);
        damaged.copy_within(from..from + 4096, to);
        let Ok(head) = Head::decode(&damaged) else { continue };
        let trees = Trees::new(&damaged, head);
        for commit in trees.head.commits.into_iter().flatten() {
            for info in read_catalog(&trees, commit.user).tables.values() {
                let Some(root) = info.root else { continue };
                let mut walked = Met::default();
                trees.walk(root, info.widths, &mut walked);
                let mut seen = walked.pages;
                for broken in walked.broken.iter().take(3) {
                    below_broken(&trees, broken, info.widths, None, &mut seen);
                }
            }
        }
    }
}

#[test]
fn decoders_take_any_bytes() {
    let mut dice = 77_u64;
    for round in 0..20_000_usize {
        let bytes: Vec<u8> = (0..round % 700)
            .map(|n| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if n < 4 { (dice >> 62) as u8 } else { (dice >> 56) as u8 }
            })
            .collect();
        for widths in [Widths::default(), Widths { key: Some(8), value: Some(8) }] {
            let _ = page::Node::parse(&bytes, widths).map(|node| node.checksum(&bytes));
            page::loose_entries(&bytes, widths);
            page::children_of_broken(&bytes);
        }
        let _ = TableInfo::decode(&bytes);
        let _ = Head::decode(&bytes);
    }
}
