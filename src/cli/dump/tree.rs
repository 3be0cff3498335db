//! All names of a volume, depth first.
//!
//! Decides order and form of the lines. Invariant: each directory is shown once, so a circle in damaged tables ends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::base::Ino;
use crate::format::{Dirent, FileKind, InodeRec, TableId, ino_of_key};
use crate::offline::Tables;

use super::super::{Exit, Failure, Output};

/// Prints the tree below the root.
pub(super) fn show(tables: &dyn Tables, output: &Output) -> anyhow::Result<()> {
    let broken = |text| Failure::new(Exit::CONFIG, text);
    let mut inodes = BTreeMap::new();
    tables
        .scan(TableId::Inodes, &mut |key, value| {
            if let (Some(ino), Some(rec)) = (ino_of_key(key), InodeRec::decode(value)) {
                inodes.insert(ino, rec);
            }
        })
        .map_err(broken)?;
    let mut names: BTreeMap<Ino, Vec<(Vec<u8>, Ino)>> = BTreeMap::new();
    tables
        .scan(TableId::Dirents, &mut |key, value| {
            if let (Some(dir), Some(entry)) = (ino_of_key(key), Dirent::decode(value)) {
                names.entry(dir).or_default().push((key[8..].to_vec(), entry.ino));
            }
        })
        .map_err(broken)?;
    let mut seen = BTreeSet::from([Ino::ROOT]);
    // Last in, first out: the entries of a directory follow its own line.
    let mut left = vec![(String::from("/"), Ino::ROOT)];
    while let Some((path, ino)) = left.pop() {
        let rec = inodes.get(&ino);
        line(&path, ino, rec, output);
        let is_dir = rec.is_some_and(|rec| rec.kind() == FileKind::Dir);
        if !is_dir || (ino != Ino::ROOT && !seen.insert(ino)) {
            continue;
        }
        let base = if path == "/" { "" } else { path.as_str() };
        for (name, inner) in names.get(&ino).into_iter().flatten().rev() {
            left.push((format!("{base}/{}", name.escape_ascii()), *inner));
        }
    }
    Ok(())
}

fn line(path: &str, ino: Ino, rec: Option<&InodeRec>, output: &Output) {
    let Some(rec) = rec else {
        output.line(format_args!("{:>8} (no such inode) {path}", ino.0));
        return output.object(json!({ "path": path, "inode": ino.0, "missing": true }));
    };
    let target = match rec.kind() {
        FileKind::Symlink => format!(" -> {}", rec.target.escape_ascii()),
        _ => String::new(),
    };
    output.line(format_args!(
        "{:>8} {:>6o} {:>3} {:>5}:{:<5} {:>12} {path}{target}",
        ino.0, rec.mode, rec.nlink, rec.uid, rec.gid, rec.size
    ));
    output.object(json!({
        "path": path,
        "inode": ino.0,
        "mode": rec.mode,
        "links": rec.nlink,
        "uid": rec.uid,
        "gid": rec.gid,
        "size": rec.size,
        "target": (rec.kind() == FileKind::Symlink).then(|| rec.target.escape_ascii().to_string()),
    }));
}
