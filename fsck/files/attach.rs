//! The tree of directories: every one leads to the root, every file has a name; what has none goes to lost+found.

use std::collections::{BTreeMap, BTreeSet};

use twinfs::base::Ino;
use twinfs::format::{Dirent, FileKind, InodeRec, TableId, Time, ino_of_key, key_ino, key_name};

use super::{Node, Pass};

const LOST_FOUND: &str = "lost+found";
/// Names tried where one is taken.
const TRIES: u32 = 1000;

impl Pass<'_> {
    /// Directories with several names, and those that do not lead to the root, lose the names that are wrong.
    pub(super) fn reach(&mut self) {
        let mut surplus: BTreeSet<Ino> = BTreeSet::new();
        for (ino, node) in self.nodes.iter().filter(|(_, node)| node.kind == FileKind::Dir) {
            if node.names > 1 {
                let text = format!("a directory with {} names: all but one are removed", node.names);
                self.findings.lose("names", format!("inode {}: {text}", ino.0));
                surplus.insert(*ino);
            }
        }
        let circles = self.circles();
        for ino in &circles {
            let text = format!("directory {} does not lead to the root: it goes to {LOST_FOUND}", ino.0);
            self.findings.lose("names", text);
        }
        if surplus.is_empty() && circles.is_empty() {
            return;
        }
        let tables = self.tables;
        let mut names: BTreeMap<Ino, Vec<(Ino, Vec<u8>, Dirent)>> = BTreeMap::new();
        tables.scan(TableId::Dirents, &mut |key, value| {
            let (Some(dir), Some(entry)) = (ino_of_key(key), Dirent::decode(value)) else { return };
            if surplus.contains(&entry.ino) || circles.contains(&entry.ino) {
                names.entry(entry.ino).or_default().push((dir, key[8..].to_vec(), entry));
            }
        });
        for (ino, named) in names {
            let parent = self.nodes.get(&ino).map(|node| node.parent);
            let kept = match circles.contains(&ino) {
                true => None,
                false => Some(named.iter().position(|(dir, _, _)| Some(*dir) == parent).unwrap_or(0)),
            };
            for (n, (dir, name, entry)) in named.into_iter().enumerate() {
                if Some(n) != kept {
                    self.drop_name(dir, &name, entry);
                }
            }
        }
    }

    /// One directory of every circle. Each directory is walked once: what led to the root leads there again.
    fn circles(&self) -> BTreeSet<Ino> {
        // The walk on which a directory was first met.
        let mut known: BTreeMap<Ino, u64> = BTreeMap::from([(Ino::ROOT, 0)]);
        let mut found = BTreeSet::new();
        for ((ino, node), walk) in self.nodes.iter().zip(1..) {
            if node.kind != FileKind::Dir || node.orphan.is_some() {
                continue;
            }
            let mut at = *ino;
            loop {
                match known.get(&at) {
                    Some(met) if *met == walk => {
                        found.insert(at);
                        break;
                    }
                    Some(_) => break,
                    None => known.insert(at, walk),
                };
                match self.nodes.get(&at) {
                    Some(node) if node.names > 0 => at = node.named_in,
                    // Without a name it goes to lost+found anyway.
                    _ => break,
                }
            }
        }
        found
    }

    pub(super) fn attach_nameless(&mut self) {
        let nameless: Vec<Ino> = self
            .nodes
            .iter()
            .filter(|(ino, node)| node.names == 0 && **ino != Ino::ROOT && !node.is_unlinked())
            .map(|(ino, _)| *ino)
            .collect();
        // A new lost+found is named when it is made.
        for ino in nameless {
            self.findings.add("inodes", format!("inode {}: has no name: it goes to {LOST_FOUND}", ino.0));
            let Some(place) = self.lost_found() else {
                let text = format!("no {LOST_FOUND} can be made: its name and others like it are taken");
                return self.findings.lose("names", text);
            };
            let name = self.free_name(place, &format!("#{}", ino.0));
            if let Some(name) = name {
                self.attach(place, name.as_bytes(), ino);
            }
        }
    }

    fn free_name(&self, dir: Ino, name: &str) -> Option<String> {
        let tried = (0..TRIES).map(|n| if n == 0 { name.to_string() } else { format!("{name}.{n}") });
        tried.into_iter().find(|name| self.now(TableId::Dirents, &key_name(dir, name.as_bytes())).is_none())
    }

    /// The directory for what has no name, made if there is none.
    fn lost_found(&mut self) -> Option<Ino> {
        for n in 0..TRIES {
            let name = if n == 0 { LOST_FOUND.to_string() } else { format!("{LOST_FOUND}.{n}") };
            let found = self.now(TableId::Dirents, &key_name(Ino::ROOT, name.as_bytes()));
            let Some(found) = found else {
                let ino = Ino(self.next_ino);
                self.next_ino = self.next_ino.checked_add(1)?;
                let mut rec = InodeRec::new(FileKind::Dir, Time::default());
                rec.mode |= 0o700;
                (rec.nlink, rec.generation) = (2, 1);
                self.edits.put(TableId::Inodes, key_ino(ino), rec.encode());
                self.nodes.insert(ino, Node::of(&rec));
                self.attach(Ino::ROOT, name.as_bytes(), ino);
                return Some(ino);
            };
            let entry = Dirent::decode(&found);
            let dir = |ino: Ino| {
                let node = self.nodes.get(&ino)?;
                (node.kind == FileKind::Dir && node.names == 1 && ino != Ino::ROOT).then_some(ino)
            };
            if let Some(ino) = entry.and_then(|entry| dir(entry.ino)) {
                return Some(ino);
            }
        }
        None
    }

    /// Gives an inode a name, and both sides what follows from it.
    fn attach(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        let tables = self.tables;
        let (Some(kind), Some(cookie)) = (
            self.nodes.get(&ino).map(|node| node.kind),
            self.edits.inode(tables, dir).map(|rec| rec.next_cookie.max(3)),
        ) else {
            return;
        };
        let is_dir = kind == FileKind::Dir;
        self.edits.put_name(dir, name, Dirent { ino, kind, cookie });
        self.edits.change_inode(tables, dir, |rec| {
            rec.next_cookie = cookie.saturating_add(1);
            rec.nlink = rec.nlink.saturating_add(u32::from(is_dir));
        });
        self.edits.change_inode(tables, ino, |rec| {
            if is_dir {
                rec.parent = dir;
            } else {
                rec.nlink = 1;
            }
        });
        if let Some(node) = self.nodes.get_mut(&ino) {
            (node.names, node.named_in) = (1, dir);
        }
    }
}
