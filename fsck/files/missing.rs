//! Inodes that are gone while names, extents or entries still speak of them: made again as far as that tells.

use twinfs::base::limits::INO_MAX;
use twinfs::base::{BlockNo, Ino};
use twinfs::format::{Dirent, FileKind, InodeRec, TableId, Time, key_ino, key_name, key_pair};

use super::{Node, Pass};

/// What other tables say of an inode that is not there.
#[derive(Default)]
pub(super) struct Missing {
    /// Names of it: directory, name, entry.
    pub named: Vec<(Ino, Vec<u8>, Dirent)>,
    /// Names in it.
    pub entries: u32,
    pub dirs: u32,
    pub next_cookie: u64,
    pub extents: bool,
    pub mapped: u64,
    pub data_end: u64,
}

impl Missing {
    /// What it was, if that can be told and made again without inventing content.
    fn kind(&self, inodes_lost: bool) -> Option<FileKind> {
        let named = self.named.first().map(|(_, _, entry)| entry.kind);
        match named {
            _ if self.entries > 0 => Some(FileKind::Dir),
            _ if self.extents => Some(FileKind::File),
            Some(kind @ (FileKind::Dir | FileKind::File | FileKind::Fifo | FileKind::Socket))
                if inodes_lost =>
            {
                Some(kind)
            }
            // A target or a device number cannot be made again; a name of nothing stands for nothing.
            _ => None,
        }
    }
}

impl Pass<'_> {
    pub(super) fn make_missing(&mut self) {
        for (ino, missing) in std::mem::take(&mut self.missing) {
            match missing.kind(self.known.inodes_lost).filter(|_| ino.0 != 0 && ino.0 < INO_MAX) {
                Some(kind) => self.make(ino, kind, &missing),
                None => self.unname(ino, &missing),
            }
        }
    }

    fn make(&mut self, ino: Ino, kind: FileKind, missing: &Missing) {
        let mut rec = InodeRec::new(kind, Time::default());
        let dir = kind == FileKind::Dir;
        rec.mode |= if dir { 0o700 } else { 0o600 };
        rec.generation = 1;
        let mut names = 0;
        let mut named_in = Ino::ROOT;
        for (place, name, entry) in &missing.named {
            if dir && names > 0 {
                self.drop_name(*place, name, *entry);
                continue;
            }
            if names == 0 {
                named_in = *place;
            }
            names += 1;
            if entry.kind != kind {
                self.edits.put_name(*place, name, Dirent { kind, ..*entry });
            }
        }
        if dir {
            rec.parent = named_in;
            rec.nlink = missing.dirs.saturating_add(2);
            rec.next_cookie = rec.next_cookie.max(missing.next_cookie.min(1 << 62));
        } else {
            rec.nlink = names;
            rec.size = missing.data_end * BlockNo::SIZE as u64;
            rec.blocks = missing.mapped;
        }
        let what = if dir { "directory" } else { "file" };
        let text = format!(
            "inode {} is gone: made again as a {what} of size {}; owner, mode, times and exact size are lost",
            ino.0, rec.size
        );
        self.findings.lose("inodes", text);
        self.edits.put(TableId::Inodes, key_ino(ino), rec.encode());
        let node = Node {
            names,
            named_in,
            dirs: missing.dirs,
            mapped: missing.mapped,
            data_end: missing.data_end,
            ..Node::of(&rec)
        };
        self.nodes.insert(ino, node);
        self.next_ino = self.next_ino.max(ino.0.saturating_add(1));
    }

    /// Removes the names of an inode of which nothing is left.
    fn unname(&mut self, ino: Ino, missing: &Missing) {
        for (dir, name, entry) in &missing.named {
            let text = format!(
                "{} in directory {}: inode {} does not exist: removed",
                name.escape_ascii(),
                dir.0,
                ino.0
            );
            self.findings.lose("names", text);
            self.drop_name(*dir, name, *entry);
        }
    }

    pub(super) fn drop_name(&mut self, dir: Ino, name: &[u8], entry: Dirent) {
        self.edits.del(TableId::Dirents, &key_name(dir, name));
        self.edits.del(TableId::Cookies, &key_pair(dir, entry.cookie));
        if let Some(node) = self.nodes.get_mut(&dir) {
            node.dirs = node.dirs.saturating_sub(u32::from(entry.kind == FileKind::Dir));
        }
    }
}
