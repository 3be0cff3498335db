//! The tables against each other: inodes, names, cookies, extents, attributes, orphans.
//!
//! Decides what a sound set of tables is. Does not know where the tables lie. Reads each table once in order, plus one
//! look-up per name; never follows a chain without a bound, so garbage cannot make it hang.

use std::collections::BTreeMap;

use twinfs::base::limits::{NAME_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_BYTES_MAX};
use twinfs::base::{BlockNo, Ino};
use twinfs::format::{Dirent, ExtentRec, FileKind, InodeRec, TableId, ino_of_key, key_pair, second_of_key};

use twinfs::offline::Tables;

use crate::findings::Findings;
use crate::space::Space;

/// What is kept of an inode while the other tables are read.
struct Node {
    kind: FileKind,
    nlink: u32,
    size: u64,
    blocks: u64,
    parent: Ino,
    next_cookie: u64,
    names: u32,
    dirs: u32,
    mapped: u64,
    orphan: Option<u8>,
}

/// Checks all tables and puts the extents of all files into `space`.
pub fn check(tables: &dyn Tables, space: &mut Space, findings: &mut Findings) -> Result<u64, String> {
    let mut nodes = inodes(tables, findings)?;
    orphans(tables, &mut nodes, findings)?;
    names(tables, &mut nodes, findings)?;
    cookies(tables, &nodes, findings)?;
    extents(tables, &mut nodes, space, findings)?;
    attributes(tables, &nodes, findings)?;
    totals(&nodes, findings);
    reachable(&nodes, findings);
    Ok(nodes.len() as u64)
}

type Nodes = BTreeMap<Ino, Node>;

fn inodes(tables: &dyn Tables, findings: &mut Findings) -> Result<Nodes, String> {
    let mut nodes = Nodes::new();
    tables.scan(TableId::Inodes, &mut |key, value| {
        let (Some(ino), true) = (ino_of_key(key), key.len() == 8) else {
            return findings.add("inodes", format!("a key of {} bytes", key.len()));
        };
        let Some(rec) = InodeRec::decode(value) else {
            return findings.add("inodes", format!("inode {}: not readable ({} bytes)", ino.0, value.len()));
        };
        inode(ino, &rec, findings);
        nodes.insert(
            ino,
            Node {
                kind: rec.kind(),
                nlink: rec.nlink,
                size: rec.size,
                blocks: rec.blocks,
                parent: rec.parent,
                next_cookie: rec.next_cookie,
                names: 0,
                dirs: 0,
                mapped: 0,
                orphan: None,
            },
        );
    })?;
    match nodes.get(&Ino::ROOT) {
        None => findings.add("inodes", "there is no root directory"),
        Some(root) if root.kind != FileKind::Dir => findings.add("inodes", "the root is not a directory"),
        Some(_) => {}
    }
    Ok(nodes)
}

fn inode(ino: Ino, rec: &InodeRec, findings: &mut Findings) {
    let mut wrong = |text: String| findings.add("inodes", format!("inode {}: {text}", ino.0));
    if ino.0 == 0 {
        wrong("number 0 is never given".into());
    }
    if rec.mode & !0o177_777 != 0 {
        wrong(format!("mode {:o}", rec.mode));
    }
    if [rec.atime, rec.mtime, rec.ctime, rec.btime].iter().any(|time| time.nanos >= 1_000_000_000) {
        wrong("a time with more than a second of nanoseconds".into());
    }
    let target = rec.target.len();
    if rec.kind() == FileKind::Symlink {
        if target == 0 || target > SYMLINK_BYTES_MAX || rec.target.contains(&0) || rec.size != target as u64 {
            wrong(format!("a symlink of size {} with a target of {target} bytes", rec.size));
        }
    } else if target != 0 {
        wrong(format!("{target} bytes of symlink target, but it is no symlink"));
    }
    if rec.kind() != FileKind::File && rec.blocks != 0 {
        wrong(format!("{} blocks, but it is no regular file", rec.blocks));
    }
    if i64::try_from(rec.size).is_err() {
        wrong(format!("size {}", rec.size));
    }
}

fn names(tables: &dyn Tables, nodes: &mut Nodes, findings: &mut Findings) -> Result<(), String> {
    let mut failed = None;
    tables.scan(TableId::Dirents, &mut |key, value| {
        let Some(dir) = ino_of_key(key) else { return findings.add("names", "a key without a directory") };
        let name = &key[8..];
        let shown = format!("{} in directory {}", name.escape_ascii(), dir.0);
        if !is_name(name) {
            findings.add("names", format!("{shown}: not a possible name"));
        }
        let Some(entry) = Dirent::decode(value) else {
            return findings.add("names", format!("{shown}: not readable"));
        };
        match nodes.get_mut(&dir) {
            Some(node) if node.kind == FileKind::Dir => {
                if entry.cookie >= node.next_cookie || entry.cookie < twinfs::format::COOKIE_FIRST {
                    let (cookie, next) = (entry.cookie, node.next_cookie);
                    findings.add("names", format!("{shown}: cookie {cookie}, next is {next}"));
                }
                node.dirs += u32::from(entry.kind == FileKind::Dir);
            }
            _ => findings.add("names", format!("{shown}: there is no such directory")),
        }
        match nodes.get_mut(&entry.ino) {
            None => findings.add("names", format!("{shown}: inode {} does not exist", entry.ino.0)),
            Some(node) => {
                node.names = node.names.saturating_add(1);
                if node.kind != entry.kind {
                    findings
                        .add("names", format!("{shown}: is {:?}, inode says {:?}", entry.kind, node.kind));
                }
                if node.kind == FileKind::Dir && node.parent != dir {
                    findings.add("names", format!("{shown}: its inode says it is in {}", node.parent.0));
                }
            }
        }
        match tables.get(TableId::Cookies, &key_pair(dir, entry.cookie)) {
            Err(error) => failed = failed.take().or(Some(error)),
            Ok(found) => {
                if found.as_deref().and_then(cookie_name) != Some(name) {
                    findings
                        .add("names", format!("{shown}: cookie {} does not lead back to it", entry.cookie));
                }
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// The name in a value of the cookie table.
fn cookie_name(value: &[u8]) -> Option<&[u8]> {
    value.get(Dirent::BYTES..)
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(&b'/')
        && !name.contains(&0)
        && name != b"."
        && name != b".."
}

fn cookies(tables: &dyn Tables, nodes: &Nodes, findings: &mut Findings) -> Result<(), String> {
    let mut failed = None;
    tables.scan(TableId::Cookies, &mut |key, value| {
        let (Some(dir), Some(cookie)) = (ino_of_key(key), second_of_key(key)) else {
            return findings.add("cookies", format!("a key of {} bytes", key.len()));
        };
        let entry = value.get(..Dirent::BYTES).and_then(Dirent::decode);
        let (Some(entry), Some(name)) = (entry, cookie_name(value)) else {
            return findings.add("cookies", format!("{cookie} in directory {}: not readable", dir.0));
        };
        if !nodes.contains_key(&dir) {
            findings.add("cookies", format!("{cookie}: there is no directory {}", dir.0));
        }
        match tables.get(TableId::Dirents, &twinfs::format::key_name(dir, name)) {
            Err(error) => failed = failed.take().or(Some(error)),
            Ok(found) => {
                if found.as_deref().and_then(Dirent::decode) != Some(entry) || entry.cookie != cookie {
                    let name = name.escape_ascii();
                    findings
                        .add("cookies", format!("{cookie} in directory {}: {name} has no such entry", dir.0));
                }
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn extents(
    tables: &dyn Tables,
    nodes: &mut Nodes,
    space: &mut Space,
    findings: &mut Findings,
) -> Result<(), String> {
    let (mut file, mut end) = (Ino(0), 0u64);
    tables.scan(TableId::Extents, &mut |key, value| {
        let (Some(ino), Some(first)) = (ino_of_key(key), second_of_key(key)) else {
            return findings.add("extents", format!("a key of {} bytes", key.len()));
        };
        let Some(rec) = ExtentRec::decode(value) else {
            return findings.add("extents", format!("inode {}, block {first}: not readable", ino.0));
        };
        if ino != file {
            (file, end) = (ino, 0);
        }
        if first < end {
            findings.add(
                "extents",
                format!("inode {}, block {first}: overlaps the one before, up to {end}", ino.0),
            );
        }
        end = first.saturating_add(u64::from(rec.count));
        space.used(rec.start, u64::from(rec.count), &format!("inode {}", ino.0), findings);
        match nodes.get_mut(&ino) {
            Some(node) if node.kind == FileKind::File => {
                node.mapped = node.mapped.saturating_add(u64::from(rec.count));
                let inside = node.size.div_ceil(BlockNo::SIZE as u64);
                // A file that was being cut when the checkpoint was made still has what lies behind its size.
                if !rec.unwritten && end > inside && node.orphan.is_none() {
                    let text = format!("inode {}: data in block {}, size {}", ino.0, end - 1, node.size);
                    findings.add("extents", text);
                }
            }
            Some(_) => findings.add("extents", format!("inode {} is no regular file", ino.0)),
            None => findings.add("extents", format!("there is no inode {}", ino.0)),
        }
    })
}

fn attributes(tables: &dyn Tables, nodes: &Nodes, findings: &mut Findings) -> Result<(), String> {
    tables.scan(TableId::Xattrs, &mut |key, value| {
        let Some(ino) = ino_of_key(key) else { return findings.add("xattrs", "a key without an inode") };
        let name = &key[8..];
        let shown = format!("{} of inode {}", name.escape_ascii(), ino.0);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            findings.add("xattrs", format!("{shown}: not a possible name"));
        }
        if value.len() > XATTR_BYTES_MAX {
            findings.add("xattrs", format!("{shown}: {} bytes", value.len()));
        }
        if !nodes.contains_key(&ino) {
            findings.add("xattrs", format!("{shown}: the inode does not exist"));
        }
    })
}

fn orphans(tables: &dyn Tables, nodes: &mut Nodes, findings: &mut Findings) -> Result<(), String> {
    tables.scan(TableId::Orphans, &mut |key, value| {
        let (Some(ino), 8) = (ino_of_key(key), key.len()) else {
            return findings.add("orphans", format!("a key of {} bytes", key.len()));
        };
        let [state @ 0..=1] = value else {
            return findings.add("orphans", format!("inode {}: state {value:?}", ino.0));
        };
        match nodes.get_mut(&ino) {
            None => findings.add("orphans", format!("inode {} does not exist", ino.0)),
            Some(node) => node.orphan = Some(*state),
        }
    })
}

fn totals(nodes: &Nodes, findings: &mut Findings) {
    for (ino, node) in nodes {
        let mut wrong = |text: String| findings.add("inodes", format!("inode {}: {text}", ino.0));
        let unnamed = node.orphan == Some(0);
        let (names, dirs) = (node.names, node.dirs);
        let expected = match node.kind {
            FileKind::Dir if unnamed => 0,
            FileKind::Dir => dirs.saturating_add(2),
            _ => names,
        };
        if node.nlink != expected {
            wrong(format!("{} links, but {expected} are there", node.nlink));
        }
        if node.kind == FileKind::Dir && *ino != Ino::ROOT && names > 1 {
            wrong(format!("a directory with {names} names"));
        }
        if names == 0 && *ino != Ino::ROOT && !unnamed {
            wrong("has no name and is no orphan".into());
        }
        if names > 0 && unnamed {
            wrong(format!("has {names} names, but is in the list of unlinked files"));
        }
        if node.mapped != node.blocks {
            wrong(format!("says {} blocks, has {}", node.blocks, node.mapped));
        }
    }
}

/// Every directory leads to the root by its parents. Each is walked once: what led there leads there again.
fn reachable(nodes: &Nodes, findings: &mut Findings) {
    let mut known: BTreeMap<Ino, bool> = BTreeMap::from([(Ino::ROOT, true)]);
    for (ino, node) in nodes {
        if node.kind != FileKind::Dir || node.orphan.is_some() {
            continue;
        }
        let mut walked = Vec::new();
        let mut at = *ino;
        let good = loop {
            if let Some(good) = known.get(&at) {
                break *good;
            }
            // Until the walk has ended, a directory met again is a circle.
            known.insert(at, false);
            walked.push(at);
            match nodes.get(&at) {
                Some(node) => at = node.parent,
                None => break false,
            }
        };
        for ino in &walked {
            known.insert(*ino, good);
        }
        if !good {
            findings.add("names", format!("directory {} does not lead to the root", ino.0));
        }
    }
}

#[cfg(test)]
mod tests;
