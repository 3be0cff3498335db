//! Random operations that the model allows.

use twinfs::format::FileKind;
use twinfs::fs::Fallocate;

use super::images::Dice;
use super::tree::{ROOT, Tree};
use super::words::{List, Op};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const DEPTH_MAX: usize = 2;
/// Nothing is made while there are so many.
const NODES_MAX: usize = 14;
/// Largest offset of file data.
pub const REACH: u64 = 48 << 10;

/// Paths of everything that has a name.
fn paths(tree: &Tree) -> Vec<(String, u64)> {
    let mut found = vec![(String::new(), ROOT)];
    let mut at = 0;
    while at < found.len() {
        let (path, ino) = found[at].clone();
        for (name, child) in &tree.nodes[&ino].names {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            found.push((below, *child));
        }
        at += 1;
    }
    found
}

struct Picker<'a> {
    tree: &'a Tree,
    paths: Vec<(String, u64)>,
    dice: &'a mut Dice,
}

impl Picker<'_> {
    fn any(&mut self, wanted: impl Fn(FileKind) -> bool) -> Option<String> {
        let found: Vec<&str> = self
            .paths
            .iter()
            .filter(|(path, ino)| !path.is_empty() && wanted(self.tree.kind(*ino)))
            .map(|(path, _)| path.as_str())
            .collect();
        (!found.is_empty()).then(|| found[self.dice.below(found.len() as u64) as usize].to_string())
    }

    /// A name that may or may not exist.
    fn name(&mut self) -> String {
        let dirs: Vec<&str> = self
            .paths
            .iter()
            .filter(|(path, ino)| {
                self.tree.kind(*ino) == FileKind::Dir && path.matches('/').count() < DEPTH_MAX
            })
            .map(|(path, _)| path.as_str())
            .collect();
        let dir = dirs[self.dice.below(dirs.len() as u64) as usize];
        let name = NAMES[self.dice.below(NAMES.len() as u64) as usize];
        if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") }
    }

    fn range(&mut self) -> (u64, u64) {
        let from = self.dice.below(REACH - 1);
        let most = if self.dice.below(4) == 0 { REACH } else { 5000 };
        let to = (from + 1 + self.dice.below(most)).min(REACH);
        // Often at the borders of blocks.
        match self.dice.below(3) {
            0 => (from / 4096 * 4096, to.div_ceil(4096) * 4096),
            _ => (from, to),
        }
    }

    fn list(&mut self) -> List {
        [0; 5].map(|_| self.dice.below(8) as u8)
    }

    /// Flags mostly go again, so that most can be changed.
    fn flags(&mut self) -> Option<Op> {
        let marked =
            self.paths.iter().find(|(path, ino)| !path.is_empty() && self.tree.nodes[ino].flags != 0);
        let marked = marked.map(|(path, _)| path.clone());
        match marked.filter(|_| self.dice.below(4) > 0) {
            Some(path) => Some(Op::SetFlags(path, 0)),
            None => {
                let flags = [0x10, 0x20, 0x20, 0x40, 0x60][self.dice.below(5) as usize];
                Some(Op::SetFlags(self.any(|kind| matches!(kind, FileKind::File | FileKind::Dir))?, flags))
            }
        }
    }

    fn copy(&mut self) -> Option<Op> {
        let (from, to) = self.range();
        let (source, target) =
            (self.any(|kind| kind == FileKind::File)?, self.any(|kind| kind == FileKind::File)?);
        Some(Op::Copy(source, from, to, target, self.dice.below(REACH - (to - from) + 1)))
    }

    /// Attributes beside the mode.
    fn attribute(&mut self) -> Option<Op> {
        let dir = |kind: FileKind| kind == FileKind::Dir;
        Some(match self.dice.below(12) {
            0..2 => Op::Chown(self.any(|_| true)?, self.dice.below(3) as u32, self.dice.below(3) as u32),
            2..5 => {
                let seconds = |dice: &mut Dice| dice.below(1 << 33) as i64 - (1 << 31);
                Op::Times(self.any(|_| true)?, seconds(self.dice), seconds(self.dice))
            }
            5..7 => Op::SetList(false, self.any(|kind| kind != FileKind::Symlink)?, self.list()),
            7..8 => Op::RemoveList(false, self.any(|_| true)?),
            8..9 => Op::SetList(true, self.any(dir)?, self.list()),
            9..10 => Op::RemoveList(true, self.any(dir)?),
            _ => return self.flags(),
        })
    }

    fn op(&mut self) -> Option<Op> {
        let file = |kind: FileKind| kind == FileKind::File;
        Some(match self.dice.below(112) {
            0..14 => Op::Make(FileKind::File, self.name()),
            14..20 => Op::Make(FileKind::Dir, self.name()),
            20..22 => Op::Symlink("to/somewhere".to_string(), self.name()),
            22..23 => Op::Make(FileKind::Fifo, self.name()),
            23..28 => Op::Link(self.any(|kind| kind != FileKind::Dir)?, self.name()),
            28..35 => Op::Unlink(self.any(|kind| kind != FileKind::Dir)?),
            35..39 => Op::Rmdir(self.any(|kind| kind == FileKind::Dir)?),
            39..49 => Op::Rename(self.any(|_| true)?, self.name()),
            49..51 => Op::Exchange(self.any(|_| true)?, self.any(|_| true)?),
            51..72 => {
                let (from, to) = self.range();
                Op::Write(self.any(file)?, from, to)
            }
            72..78 => Op::Truncate(self.any(file)?, self.dice.below(REACH)),
            78..79 => Op::Truncate(self.any(file)?, 0),
            79..86 => {
                let how = [
                    Fallocate::PunchHole,
                    Fallocate::PunchHole,
                    Fallocate::ZeroRange,
                    Fallocate::ZeroRangeKeepSize,
                    Fallocate::Allocate,
                    Fallocate::AllocateKeepSize,
                ][self.dice.below(6) as usize];
                let (from, to) = self.range();
                Op::Range(how, self.any(file)?, from, to)
            }
            86..90 => {
                let name = format!("user.{}", NAMES[self.dice.below(3) as usize]);
                Op::SetXattr(self.any(|_| true)?, name, "v".repeat(self.dice.below(40) as usize + 1))
            }
            90..92 => {
                let name = format!("user.{}", NAMES[self.dice.below(3) as usize]);
                Op::RemoveXattr(self.any(|_| true)?, name)
            }
            92..93 => Op::Chmod(self.any(|kind| kind != FileKind::Symlink)?, self.dice.below(0o10000) as u32),
            93..97 => Op::Fsync(self.any(|kind| file(kind) || kind == FileKind::Dir)?),
            97..98 => Op::Fdatasync(self.any(file)?),
            98..99 => Op::Sync,
            99..100 => [Op::Writeback, Op::Writeback, Op::Checkpoint][self.dice.below(3) as usize].clone(),
            100..107 => return self.attribute(),
            107..109 => return self.copy(),
            109..110 => Op::RenameNew(self.any(|_| true)?, self.name()),
            110..111 => Op::RenameWhiteout(self.any(|_| true)?, self.name()),
            _ => Op::Timer,
        })
    }
}

/// The next operation that can be done.
pub fn next(tree: &Tree, dice: &mut Dice) -> Op {
    let paths = paths(tree);
    let mut picker = Picker { tree, paths, dice };
    loop {
        let Some(op) = picker.op() else { continue };
        let makes = matches!(op, Op::Make(..) | Op::Symlink(..) | Op::Link(..) | Op::RenameWhiteout(..));
        if makes && picker.paths.len() > NODES_MAX {
            continue;
        }
        if tree.clone().apply(&op, u64::MAX, 0).is_some() {
            return op;
        }
    }
}
