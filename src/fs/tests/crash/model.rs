//! Random operations on the filesystem and on the model, compared after each; power cuts and remounts in between.
//!
//! After a power cut the run goes on from what was found, so that states pile up that no short workload reaches.

use std::sync::Arc;

use twinfs::base::Ino;
use twinfs::format::FileKind;

use super::disk::{CrashDisk, Event, Overlay};
use super::images::{Cut, Dice, one_image};
use super::judge::{Found, look};
use super::random;
use super::run::{History, Runner, Start, Style, nothing};
use super::tree::{Node, Tree};
use super::words::{Op, show};
use super::{Mounted, mount};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub ops: u64,
    pub cuts: u64,
    pub remounts: u64,
}

/// Every so many operations the whole tree is compared, else what the operation touched.
const WHOLE_EVERY: u64 = 24;

fn differs(found: &Found, tree: &Tree) -> Result<(), String> {
    let listing = tree.listing();
    if found.listing != listing {
        return Err(format!("names differ; found\n{}expected\n{listing}", found.listing));
    }
    for (ino, data) in &found.files {
        let (is, was) = (found.changed[ino], tree.nodes[ino].mtime);
        if is != was {
            return Err(format!("inode {ino} was changed at {is:?}, expected {was:?}"));
        }
        if *data != *tree.nodes[ino].data {
            let at = data.iter().zip(tree.nodes[ino].data.iter()).position(|(one, other)| one != other);
            return Err(format!("inode {ino} differs at {at:?}, {} bytes", data.len()));
        }
    }
    Ok(())
}

fn paths(op: &Op) -> Vec<&str> {
    match op {
        Op::Make(_, path) | Op::Symlink(_, path) | Op::Unlink(path) | Op::Rmdir(path) => vec![path],
        Op::Write(path, ..) | Op::Range(_, path, ..) | Op::Truncate(path, _) | Op::Chmod(path, _) => {
            vec![path]
        }
        Op::SetXattr(path, ..) | Op::RemoveXattr(path, _) => vec![path],
        Op::Chown(path, ..) | Op::Times(path, ..) | Op::SetFlags(path, _) => vec![path],
        Op::SetList(_, path, _) | Op::RemoveList(_, path) => vec![path],
        Op::Copy(one, _, _, other, _) => vec![one, other],
        Op::RenameNew(one, other) | Op::RenameWhiteout(one, other) => vec![one, other],
        Op::Fsync(path) | Op::Fdatasync(path) => vec![path],
        Op::Link(one, other) | Op::Rename(one, other) | Op::Exchange(one, other) => vec![one, other],
        _ => Vec::new(),
    }
}

/// Compares the paths of one operation: there or not, kind, links, attributes, content.
fn compare_touched(mounted: &Mounted, tree: &Tree, op: &Op) -> Result<(), String> {
    let fs = &mounted.fs;
    for path in paths(op) {
        let Some((dir, name)) = tree.place(path) else { continue };
        let entry = mounted.store().dirent(Ino(dir), name.as_bytes()).map_err(|error| error.to_string())?;
        let expected = tree.find(path).filter(|_| !name.is_empty());
        let found = entry.map(|entry| entry.ino.0);
        if !name.is_empty() && found != expected {
            return Err(format!("{path}: inode {found:?}, expected {expected:?}"));
        }
        let Some(ino) = expected else { continue };
        let rec = fs.getattr(Ino(ino)).map_err(|error| format!("{path}: {error}"))?.rec;
        let node = &tree.nodes[&ino];
        let links = match node.kind {
            FileKind::Dir => {
                2 + node.names.values().filter(|child| tree.kind(**child) == FileKind::Dir).count()
            }
            _ => tree.names_of(ino),
        };
        let same = rec.kind() == node.kind && rec.mode & 0o7777 == node.perms && rec.nlink as usize == links;
        let more = (rec.uid, rec.gid) == node.owner && rec.flags == node.flags;
        if !same || !more || (rec.atime, rec.mtime) != (node.atime, node.mtime) {
            let Node { perms, owner, flags, atime, mtime, .. } = &**node;
            return Err(format!(
                "{path}: {rec:?}, expected {links} links, mode {perms:o}, owner {owner:?}, flags {flags:x}, \
                 times {atime:?} {mtime:?}"
            ));
        }
        if node.kind == FileKind::File {
            let data = fs.read(Ino(ino), 0, usize::MAX >> 1).map_err(|error| format!("{path}: {error}"))?;
            if data != **node.data || rec.size != data.len() as u64 {
                let at = data.iter().zip(node.data.iter()).position(|(one, other)| one != other);
                let (have, want) = (data.len(), node.data.len());
                return Err(format!("{path} differs at {at:?}, {have} bytes of {want}"));
            }
        }
    }
    Ok(())
}

/// Runs `ops` operations from one seed.
pub fn run(empty: &Start, seed: u64, ops: u64) -> Result<Done, String> {
    let mut dice = Dice(seed);
    let mut done = Done::default();
    let mut start = empty.clone();
    while done.ops < ops {
        let style = match dice.below(8) {
            0 => Style::Writeback,
            1 => Style::CheckpointBehind,
            _ => Style::Idle,
        };
        let mut history = Vec::new();
        let length = 10 + dice.below(190);
        let outcome = part(&start, style, length.min(ops - done.ops), &mut dice, &mut history);
        done.ops += history.len() as u64;
        let told = |why: String| {
            format!("seed {seed}, after {} operations, {style:?}: {}\n{why}", done.ops, show(&history))
        };
        start = outcome.map_err(told)?;
        done.cuts += 1;
        done.remounts += history.iter().filter(|op| **op == Op::Remount).count() as u64;
    }
    Ok(done)
}

/// Some operations, then a power cut; answers what it left.
fn part(
    start: &Start,
    style: Style,
    length: u64,
    dice: &mut Dice,
    ops: &mut Vec<Op>,
) -> Result<Start, String> {
    let mut runner = Runner::start(start, style, &nothing)?;
    differs(&look(runner.live())?, &runner.tree)?;
    for number in 0..length {
        let op = if dice.below(150) == 0 { Op::Remount } else { random::next(&runner.tree, dice) };
        ops.push(op.clone());
        runner.step(&op)?;
        compare_touched(runner.live(), &runner.tree, &op)?;
        if number % WHOLE_EVERY == WHOLE_EVERY - 1 || op == Op::Remount {
            differs(&look(runner.live())?, &runner.tree)?;
        }
    }
    let seed = runner.seed();
    let history = runner.finish(ops);
    let (disk, cut) = power_cut(&history, dice);
    let mounted = mount(&disk)?;
    let found = look(&mounted)?;
    let state = history.explain(&found, &cut).map_err(|why| format!("{}\n{why}", cut.show()))?;
    drop(mounted);
    let mut tree = history.trees[state].clone();
    tree.held.clear();
    tree.forget_unnamed();
    for (ino, data) in found.files {
        tree.set_content(ino, data, found.changed[&ino]);
    }
    Ok(Start { image: disk.freeze(), tree, seed: seed + 1 })
}

/// A cut somewhere, mostly near the end.
fn power_cut(history: &History, dice: &mut Dice) -> (Arc<CrashDisk>, Cut) {
    let all = history.events.len();
    let at = if dice.below(3) == 0 { dice.below(all as u64 + 1) as usize } else { all };
    let from =
        history.events[..at].iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |n| n + 1);
    let mut base = history.base.clone();
    base.advance(&history.events[..from]);
    let (over, cut): (Overlay, Cut) = one_image(&base, &history.events[from..at], from, dice);
    (Arc::new(base.with(over)), cut)
}
