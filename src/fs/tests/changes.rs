//! What changed since a record is told from the inodes, also after a crash.

use super::super::tests::{NOW, create, fresh, fsync, reopen_copy, unlink};
use super::*;

fn told(store: &Store, txn: u64) -> Vec<String> {
    let (found, count) = store.changed_since(txn, 100).unwrap();
    assert_eq!(found.len() as u64, count);
    let path = |inode: &ChangedInode| String::from_utf8(inode.path.clone().unwrap()).unwrap();
    found.iter().map(|inode| format!("{} {}", path(inode), inode.rec.size)).collect()
}

#[test]
fn what_was_changed_since_the_mark_is_told_and_nothing_else() {
    let (blocks, store) = fresh();
    for name in [b"old".as_slice(), b"written", b"gone"] {
        fsync(&store, create(&store, name));
    }
    let gone = store.dirent(Ino::ROOT, b"gone").unwrap().unwrap().ino;
    let gone_rec = store.inode(gone).unwrap().unwrap();
    let (txn, ino) = store.mark().next();
    assert!(told(&store, txn).is_empty(), "{:?}", told(&store, txn));
    let written = store.dirent(Ino::ROOT, b"written").unwrap().unwrap().ino;
    store.write(written, 0, &[7; 5000], NOW).unwrap();
    fsync(&store, written);
    let made = create(&store, b"made");
    fsync(&store, made);
    assert!(made.0 >= ino && written.0 < ino, "what was made since has a number of its own");
    unlink(&store, b"gone");
    fsync(&store, Ino::ROOT);
    for store in [&store, &reopen_copy(&blocks)] {
        let mut all = told(store, txn);
        all.retain(|line| !line.starts_with("/ "));
        assert_eq!(all, ["/written 5000", "/made 0"]);
        assert!(!store.has_inode(gone, gone_rec.generation).unwrap());
        assert!(store.has_inode(made, store.inode(made).unwrap().unwrap().generation).unwrap());
        assert!(!store.has_inode(made, 12345).unwrap(), "the number alone is not the file");
        let (children, all) = store.children(&[Ino::ROOT], 100).unwrap();
        let mut paths: Vec<_> = children.iter().map(|c| String::from_utf8(c.path.clone()).unwrap()).collect();
        paths.sort();
        assert!(all && paths == ["/made", "/old", "/written"], "{paths:?}");
        assert!(!store.children(&[Ino::ROOT], 2).unwrap().1);
        assert_eq!(store.changed_since(txn, 1).unwrap().0.len(), 1);
    }
}
