//! Whether bytes of a page that does not count can be an entry of a table, and which of two versions is believed.
//!
//! Pure. Decides nothing about entries of sound pages.

use twinfs::base::limits::{NAME_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_BYTES_MAX};
use twinfs::format::{Dirent, ExtentRec, FileKind, InodeRec, TableId, ino_of_key, second_of_key};

use crate::tables::cookie_name;
use crate::tree::Saved;

/// Numbers beyond this are none that counting up has reached.
const NUMBER_MAX: u64 = 1 << 56;

/// What names of extended attributes begin with.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// Whether this can be an entry of the table.
pub fn plausible(table: TableId, key: &[u8], value: &[u8]) -> bool {
    let Some(ino) = ino_of_key(key).filter(|ino| (1..NUMBER_MAX).contains(&ino.0)) else { return false };
    let name_fits = |name: &[u8]| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(&0);
    let entry_fits = |entry: Option<Dirent>| {
        entry.is_some_and(|e| (2..NUMBER_MAX).contains(&e.ino.0) && (3..NUMBER_MAX).contains(&e.cookie))
    };
    match table {
        TableId::Inodes => {
            key.len() == 8
                && InodeRec::decode(value).is_some_and(|rec| {
                    let symlink = rec.kind() == FileKind::Symlink;
                    (symlink || rec.target.is_empty())
                        && rec.target.len() <= SYMLINK_BYTES_MAX
                        && rec.size < NUMBER_MAX
                        && rec.blocks < NUMBER_MAX
                        && rec.next_cookie < NUMBER_MAX
                        && rec.mode & !0o177_777 == 0
                        && (rec.kind() == FileKind::Dir || rec.parent.0 < NUMBER_MAX)
                        && ino.0 < NUMBER_MAX
                })
        }
        TableId::Dirents => name_fits(&key[8..]) && entry_fits(Dirent::decode(value)),
        TableId::Cookies => {
            second_of_key(key).is_some()
                && entry_fits(value.get(..Dirent::BYTES).and_then(Dirent::decode))
                && cookie_name(value).is_some_and(name_fits)
        }
        TableId::Extents => {
            second_of_key(key).is_some_and(|first| first < NUMBER_MAX) && ExtentRec::decode(value).is_some()
        }
        TableId::Xattrs => {
            // The value may be anything: only the name tells, which has a namespace in front.
            name_fits(&key[8..])
                && NAMESPACES.iter().any(|space| key[8..].starts_with(space))
                && value.len() <= XATTR_BYTES_MAX
        }
        TableId::Orphans => key.len() == 8 && matches!(value, [0 | 1]),
    }
}

/// Whether `other` is believed rather than `known`. The earlier find is the better one, unless an inode tells its age.
pub fn choose(table: TableId, known: &Saved, other: &Saved) -> bool {
    let age = |saved: &Saved| InodeRec::decode(&saved.value).map(|rec| rec.txn);
    other.sure || (table == TableId::Inodes && age(other) > age(known))
}

#[cfg(test)]
mod tests {
    use twinfs::base::{BlockNo, Ino};
    use twinfs::format::{Time, key_ino, key_name, key_pair};

    use super::*;

    #[test]
    fn entries_of_a_table_are_plausible_and_those_of_another_are_not() {
        let inode = InodeRec::new(FileKind::File, Time::default()).encode();
        let entry = Dirent { ino: Ino(9), kind: FileKind::File, cookie: 3 }.encode();
        let row = [entry.as_slice(), b"name"].concat();
        let extent = ExtentRec { start: BlockNo(5), count: 1, unwritten: false }.encode();
        let good: [(TableId, Vec<u8>, Vec<u8>); 6] = [
            (TableId::Inodes, key_ino(Ino(9)), inode),
            (TableId::Dirents, key_name(Ino(1), b"name"), entry),
            (TableId::Cookies, key_pair(Ino(1), 3), row),
            (TableId::Extents, key_pair(Ino(9), 0), extent),
            (TableId::Xattrs, key_name(Ino(9), b"user.x"), b"y".to_vec()),
            (TableId::Orphans, key_ino(Ino(9)), vec![0]),
        ];
        for (table, key, value) in &good {
            for (other, _, _) in &good {
                assert_eq!(plausible(*other, key, value), table == other, "{table:?} as {other:?}");
            }
            assert!(!plausible(*table, &key[..7], value));
        }
    }
}
