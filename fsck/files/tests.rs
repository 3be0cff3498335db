//! Each structure is damaged in turn in a sound set of tables, and must be named.

use std::collections::BTreeMap;

use twinfs::format::{Time, key_ino, key_name};

use super::*;

#[derive(Clone, Default)]
struct Memory(BTreeMap<TableId, BTreeMap<Vec<u8>, Vec<u8>>>);

impl Tables for Memory {
    fn scan(&self, table: TableId, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        self.0.get(&table).into_iter().flatten().for_each(|(key, value)| each(key, value));
        Ok(())
    }

    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.get(&table).and_then(|entries| entries.get(key)).cloned())
    }
}

impl Memory {
    fn put(&mut self, table: TableId, key: Vec<u8>, value: Vec<u8>) {
        self.0.entry(table).or_default().insert(key, value);
    }

    fn del(&mut self, table: TableId, key: &[u8]) {
        assert!(self.0.get_mut(&table).unwrap().remove(key).is_some());
    }

    fn name(&mut self, dir: u64, name: &str, ino: u64, kind: FileKind, cookie: u64) {
        let entry = Dirent { ino: Ino(ino), kind, cookie };
        self.put(TableId::Dirents, key_name(Ino(dir), name.as_bytes()), entry.encode());
        let mut value = entry.encode();
        value.extend_from_slice(name.as_bytes());
        self.put(TableId::Cookies, key_pair(Ino(dir), cookie), value);
    }

    fn inode(&mut self, ino: u64, kind: FileKind, change: impl FnOnce(&mut InodeRec)) {
        let mut rec = InodeRec::new(kind, Time::default());
        change(&mut rec);
        self.put(TableId::Inodes, key_ino(Ino(ino)), rec.encode());
    }

    fn edit(&mut self, ino: u64, change: impl FnOnce(&mut InodeRec)) {
        let key = key_ino(Ino(ino));
        let mut rec = InodeRec::decode(&self.0[&TableId::Inodes][&key]).unwrap();
        change(&mut rec);
        self.put(TableId::Inodes, key, rec.encode());
    }

    fn extent(&mut self, ino: u64, first: u64, start: u64, count: u32) {
        let rec = ExtentRec { start: BlockNo(start), count, unwritten: false };
        self.put(TableId::Extents, key_pair(Ino(ino), first), rec.encode());
    }
}

/// / holds `dir` (2) and `link` (5); dir holds `sub` (3) and `file` (4), which is also `/hard`; 6 is an orphan.
fn sound() -> Memory {
    let mut memory = Memory::default();
    memory.inode(1, FileKind::Dir, |rec| {
        (rec.nlink, rec.next_cookie, rec.parent) = (3, 6, Ino(1));
    });
    memory.inode(2, FileKind::Dir, |rec| (rec.nlink, rec.next_cookie, rec.parent) = (3, 5, Ino(1)));
    memory.inode(3, FileKind::Dir, |rec| (rec.nlink, rec.parent) = (2, Ino(2)));
    memory.inode(4, FileKind::File, |rec| (rec.nlink, rec.size, rec.blocks) = (2, 5000, 2));
    memory.inode(5, FileKind::Symlink, |rec| {
        rec.target = b"dir/file"[..].into();
        rec.size = 8;
    });
    memory.inode(6, FileKind::File, |rec| (rec.nlink, rec.size, rec.blocks) = (0, 4096, 1));
    memory.name(1, "dir", 2, FileKind::Dir, 3);
    memory.name(1, "link", 5, FileKind::Symlink, 4);
    memory.name(1, "hard", 4, FileKind::File, 5);
    memory.name(2, "sub", 3, FileKind::Dir, 3);
    memory.name(2, "file", 4, FileKind::File, 4);
    memory.extent(4, 0, 20, 1);
    memory.extent(4, 1, 30, 1);
    memory.extent(6, 0, 40, 1);
    memory.put(TableId::Xattrs, key_name(Ino(4), b"user.x"), b"1".to_vec());
    memory.put(TableId::Orphans, key_ino(Ino(6)), vec![0]);
    memory
}

fn found(memory: &Memory) -> Vec<String> {
    let mut findings = Findings::default();
    check(memory, &mut Space::new(1000), &mut findings).unwrap();
    findings.report()
}

#[test]
fn a_sound_tree_is_clean() {
    assert_eq!(found(&sound()), [""; 0]);
}

#[test]
fn every_damage_is_named() {
    type Damage = fn(&mut Memory);
    let cases: &[(Damage, &str)] = &[
        (|m| m.del(TableId::Inodes, &key_ino(Ino(1))), "no root directory"),
        (|m| m.del(TableId::Inodes, &key_ino(Ino(4))), "inode 4 does not exist"),
        (|m| m.put(TableId::Inodes, key_ino(Ino(4)), vec![1; 20]), "inode 4: not readable"),
        (|m| m.edit(4, |rec| rec.nlink = 3), "inode 4: 3 links, but 2 are there"),
        (|m| m.edit(1, |rec| rec.nlink = 2), "inode 1: 2 links, but 3 are there"),
        (|m| m.edit(4, |rec| rec.blocks = 7), "inode 4: says 7 blocks, has 2"),
        (|m| m.edit(4, |rec| rec.size = 4096), "inode 4: data in block 1, size 4096"),
        (|m| m.edit(5, |rec| rec.size = 9), "symlink of size 9"),
        (|m| m.edit(4, |rec| rec.mtime.nanos = u32::MAX), "nanoseconds"),
        (|m| m.edit(4, |rec| rec.mode |= 1 << 20), "mode"),
        (|m| m.edit(2, |rec| rec.next_cookie = 4), "cookie 4, next is 4"),
        (|m| m.del(TableId::Dirents, &key_name(Ino(2), b"file")), "4 in directory 2: file has no such entry"),
        (|m| m.del(TableId::Cookies, &key_pair(Ino(2), 4)), "cookie 4 does not lead back"),
        (|m| m.name(2, "a/b", 4, FileKind::File, 4), "not a possible name"),
        (|m| m.name(9, "x", 4, FileKind::File, 4), "there is no such directory"),
        (|m| m.name(2, "file", 4, FileKind::Fifo, 4), "is Fifo, inode says File"),
        (|m| m.name(1, "again", 3, FileKind::Dir, 5), "its inode says it is in 2"),
        (|m| m.inode(7, FileKind::File, |_| {}), "inode 7: has no name and is no orphan"),
        (|m| m.extent(4, 1, 20, 1), "are also of inode 4"),
        (|m| m.extent(4, 0, 20, 2), "overlaps the one before"),
        (|m| m.extent(4, 1, 999, 2), "of 1000"),
        (|m| m.extent(3, 0, 50, 1), "inode 3 is no regular file"),
        (|m| m.extent(99, 0, 50, 1), "there is no inode 99"),
        (|m| m.put(TableId::Extents, vec![1], vec![]), "a key of 1 bytes"),
        (|m| m.put(TableId::Xattrs, key_name(Ino(99), b"user.x"), vec![]), "the inode does not exist"),
        (|m| m.put(TableId::Xattrs, key_name(Ino(4), b""), vec![]), "not a possible name"),
        (|m| m.put(TableId::Xattrs, key_name(Ino(4), b"user.y"), vec![0; 70_000]), "70000 bytes"),
        (|m| m.put(TableId::Orphans, key_ino(Ino(77)), vec![0]), "inode 77 does not exist"),
        (|m| m.put(TableId::Orphans, key_ino(Ino(4)), vec![0]), "has 2 names, but is in the list"),
        (|m| m.put(TableId::Orphans, key_ino(Ino(4)), vec![7]), "state [7]"),
    ];
    for (damage, expected) in cases {
        let mut memory = sound();
        damage(&mut memory);
        let lines = found(&memory);
        assert!(lines.iter().any(|line| line.contains(expected)), "`{expected}` not in {lines:#?}");
    }
}

#[test]
fn directories_in_a_circle_are_named_and_do_not_hang() {
    let mut memory = sound();
    // 2 and 3 hold each other; nothing leads there from the root.
    memory.del(TableId::Dirents, &key_name(Ino(1), b"dir"));
    memory.del(TableId::Cookies, &key_pair(Ino(1), 3));
    memory.name(3, "up", 2, FileKind::Dir, 3);
    memory.edit(2, |rec| rec.parent = Ino(3));
    memory.edit(3, |rec| (rec.nlink, rec.next_cookie) = (3, 4));
    memory.edit(1, |rec| rec.nlink = 2);
    let lines = found(&memory);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains("does not lead to the root")), "{lines:#?}");
}

#[test]
fn garbage_in_any_table_is_reported_and_never_panics() {
    let mut dice = 1_u64;
    let mut next = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize
    };
    for _ in 0..2_000 {
        let mut memory = sound();
        let table = TableId::ALL[next() % 6];
        let keys: Vec<Vec<u8>> = memory.0[&table].keys().cloned().collect();
        let mut key = keys[next() % keys.len()].clone();
        let mut value = memory.0[&table][&key].clone();
        match next() % 4 {
            0 => value.truncate(next() % (value.len() + 1)),
            1 => key.truncate(next() % (key.len() + 1)),
            2 if !value.is_empty() => {
                let at = next() % value.len();
                value[at] ^= 1 << (next() % 8);
            }
            _ => {
                let at = next() % key.len();
                key[at] = next() as u8;
            }
        }
        memory.put(table, key, value);
        found(&memory);
    }
}
