//! Blocks that are not what was written there: whose they are, and what is done with them.
//!
//! Decides what is told of them. A single flipped bit is put right; content of a file stays as it lies, because nobody
//! here can tell what it was, and its name is told; what nobody uses is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use twinfs::base::{BlockNo, Ino};
use twinfs::format::{Dirent, ExtentRec, FileKind, TableId, ino_of_key, second_of_key};

use crate::findings::{Findings, Progress};
use crate::medium::Medium;
use crate::source::{BLOCK, Bad, Source, Stale};
use crate::space::{Owner, Space};
use crate::tables::Tables;

/// Longest path that is told.
const DEPTH_MAX: usize = 64;

/// Reads what has to be compared with its digests.
pub fn compare(medium: &Medium, contents: bool, findings: &mut Findings, progress: &mut Progress) {
    let extents = medium.to_compare(contents);
    for (done, extent) in extents.iter().enumerate() {
        progress.at(done as u64, extents.len() as u64);
        if let Err(error) = medium.source.compare(*extent) {
            findings.lose("content", error.to_string());
        }
    }
    progress.at(1, 1);
}

/// Reads blocks of files that their digests, which may be old, call never written.
pub fn compare_stale(source: &Source, space: &Space) {
    if source.stale == Stale::default() {
        return;
    }
    let mut content = vec![0; BLOCK];
    for (start, end, _) in space.runs().filter(|(_, _, owner)| matches!(owner, Owner::File(_))) {
        for block in (start..end).map(BlockNo) {
            if source.stale.has(block.extent()) {
                source.block(block, &mut content);
            }
        }
    }
}

/// Tells of every block that is not right. `tables` is absent where there are none to ask.
pub fn tell(source: &Source, space: Option<&Space>, tables: Option<&dyn Tables>, findings: &mut Findings) {
    let bad = source.bad();
    let owner = |block: u64| space.and_then(|space| space.owner(BlockNo(block)));
    let places = tables.map(|tables| places(&bad, tables)).unwrap_or_default();
    let names = match tables {
        Some(tables) => paths(&places.values().map(|(ino, _)| *ino).collect(), tables),
        None => BTreeMap::new(),
    };
    let mut unknown: BTreeMap<Ino, u64> = BTreeMap::new();
    for (block, bad) in &bad {
        let owner = owner(*block);
        let whose = match (owner, places.get(block)) {
            (Some(Owner::File(ino)), Some((_, inside))) => {
                let name = names.get(&ino).map_or(String::new(), |path| format!(" {path}"));
                format!(" of inode {}{name}, bytes from {}", ino.0, inside * BLOCK as u64)
            }
            (Some(owner), _) => format!(" of {owner}"),
            (None, _) => String::new(),
        };
        let shown = format!("block {block}{whose}");
        match (bad, owner) {
            (Bad::Flipped(_), _) => {
                findings.add("content", format!("{shown}: one bit is flipped: put right"))
            }
            (Bad::Rotten, Some(Owner::File(_))) => findings.lose(
                "content",
                format!("{shown}: does not match its digest: stays as it lies, unless a peer has it"),
            ),
            (Bad::Rotten, Some(_)) => findings.add("content", format!("{shown}: does not match its digest")),
            (Bad::Rotten, None) => {
                findings.add("content", format!("{shown}: does not match its digest: free, forgotten"));
            }
            (Bad::Unknown, Some(Owner::File(ino))) => *unknown.entry(ino).or_default() += 1,
            (Bad::Unknown, _) => {}
        }
    }
    for (ino, count) in unknown {
        let name = names.get(&ino).map_or(String::new(), |path| format!(" {path}"));
        let text =
            format!("digests of {count} blocks of inode {}{name} are lost: they stay as they lie", ino.0);
        findings.lose("content", text);
    }
    if source.suspects() > 0 {
        findings.note(format!(
            "{} blocks were being written when the machine stopped; mounting settles them",
            source.suspects()
        ));
    }
}

/// File and block in it of every bad block that a file has.
fn places(bad: &BTreeMap<u64, Bad>, tables: &dyn Tables) -> BTreeMap<u64, (Ino, u64)> {
    let mut out = BTreeMap::new();
    if bad.is_empty() {
        return out;
    }
    tables.scan(TableId::Extents, &mut |key, value| {
        let (Some(ino), Some(first)) = (ino_of_key(key), second_of_key(key)) else { return };
        let Some(rec) = ExtentRec::decode(value) else { return };
        let end = rec.start.0.saturating_add(rec.count.into());
        for (block, _) in bad.range(rec.start.0..end) {
            out.insert(*block, (ino, first.saturating_add(block - rec.start.0)));
        }
    });
    out
}

/// A path of each of these inodes.
fn paths(wanted: &BTreeSet<Ino>, tables: &dyn Tables) -> BTreeMap<Ino, String> {
    let mut named: BTreeMap<Ino, (Ino, String)> = BTreeMap::new();
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    tables.scan(TableId::Dirents, &mut |key, value| {
        let (Some(dir), Some(entry)) = (ino_of_key(key), Dirent::decode(value)) else { return };
        if entry.kind == FileKind::Dir || wanted.contains(&entry.ino) {
            named.entry(entry.ino).or_insert_with(|| (dir, key[8..].escape_ascii().to_string()));
        }
    });
    wanted
        .iter()
        .filter_map(|ino| {
            let (mut at, mut path) = (*ino, String::new());
            for _ in 0..DEPTH_MAX {
                if at == Ino::ROOT {
                    return Some((*ino, path));
                }
                let (dir, name) = named.get(&at)?;
                path = format!("/{name}{path}");
                at = *dir;
            }
            None
        })
        .collect()
}

/// Whether blocks that the tables or the fixed areas have are not right: then they are written anew.
pub fn touches_tables(source: &Source, space: &Space) -> bool {
    source.bad().iter().any(|(block, bad)| {
        !matches!(bad, Bad::Flipped(_))
            && matches!(space.owner(BlockNo(*block)), Some(Owner::Tables | Owner::Fixed))
    })
}
