//! Names and the cookies that lead back to them. Each of the two tables can be made again from the other.

use twinfs::base::Ino;
use twinfs::base::limits::NAME_BYTES_MAX;
use twinfs::format::{
    COOKIE_FIRST, Dirent, FileKind, TableId, ino_of_key, key_name, key_pair, second_of_key,
};

use super::Pass;
use crate::tables::cookie_name;

/// Cookies from here on are none that counting up has reached.
const COOKIE_MAX: u64 = 1 << 62;

pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(&b'/')
        && !name.contains(&0)
        && name != b"."
        && name != b".."
}

fn shown(dir: Ino, name: &[u8]) -> String {
    format!("{} in directory {}", name.escape_ascii(), dir.0)
}

impl Pass<'_> {
    pub(super) fn names(&mut self) {
        let tables = self.tables;
        tables.scan(TableId::Dirents, &mut |key, value| {
            if let Err(why) = self.name(key, value) {
                let text = match ino_of_key(key) {
                    Some(dir) => format!("{}: {why}: removed", shown(dir, &key[8..])),
                    None => format!("{why}: removed"),
                };
                self.findings.lose("names", text);
                self.edits.del(TableId::Dirents, key);
            }
        });
    }

    /// One name; the error says why it cannot stay.
    fn name(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let dir = ino_of_key(key).ok_or("a key without a directory")?;
        let name = &key[8..];
        if !is_name(name) {
            return Err("not a possible name".to_string());
        }
        let mut entry = Dirent::decode(value).ok_or("not readable")?;
        if entry.ino == Ino::ROOT || entry.ino.0 == 0 {
            return Err(format!("names inode {}", entry.ino.0));
        }
        let in_dir = self.nodes.get(&dir);
        if in_dir.is_some_and(|node| node.kind != FileKind::Dir || node.is_unlinked()) || dir.0 == 0 {
            return Err(format!("{} is no directory that has names", dir.0));
        }
        let before = entry;
        if let Some(node) = self.nodes.get(&entry.ino).filter(|node| node.kind != entry.kind) {
            let text = format!("{}: is {:?}, inode says {:?}", shown(dir, name), entry.kind, node.kind);
            self.findings.add("names", text);
            entry.kind = node.kind;
        }
        self.cookie_of(dir, name, before, &mut entry);
        if entry != before {
            self.edits.put_name(dir, name, entry);
        }
        self.count_name(dir, name, entry);
        Ok(())
    }

    /// Sees to it that the name has a cookie of its own that leads back to it.
    fn cookie_of(&mut self, dir: Ino, name: &[u8], stored: Dirent, entry: &mut Dirent) {
        let Some(next) = self.nodes.get(&dir).map(|node| node.next_cookie) else { return };
        let cookie = entry.cookie;
        let possible = (COOKIE_FIRST..COOKIE_MAX).contains(&cookie);
        let row = self.now(TableId::Cookies, &key_pair(dir, cookie));
        let leads_back = row.as_deref().is_some_and(|row| {
            cookie_name(row) == Some(name)
                && row.get(..Dirent::BYTES).and_then(Dirent::decode) == Some(stored)
        });
        let other = row.as_deref().and_then(cookie_name).filter(|other| *other != name && is_name(other));
        let taken = other.is_some_and(|other| {
            let found = self.now(TableId::Dirents, &key_name(dir, other));
            found.as_deref().and_then(Dirent::decode).is_some_and(|other| other.cookie == cookie)
        });
        if possible && cookie < next && leads_back {
            return;
        }
        let mut wrong = |text: String| self.findings.add("names", format!("{}: {text}", shown(dir, name)));
        if !possible || taken {
            wrong(format!("cookie {cookie} cannot be its own"));
            entry.cookie = next.clamp(COOKIE_FIRST, COOKIE_MAX);
        } else if !leads_back {
            wrong(format!("cookie {cookie} does not lead back to it"));
            self.edits.put_name(dir, name, *entry);
        }
        if entry.cookie >= next {
            if entry.cookie == cookie {
                wrong(format!("cookie {cookie}, next is {next}"));
            }
            let next = entry.cookie + 1;
            let tables = self.tables;
            self.edits.change_inode(tables, dir, |rec| rec.next_cookie = next);
            if let Some(node) = self.nodes.get_mut(&dir) {
                node.next_cookie = next;
            }
        }
    }

    /// Notes that `dir` names an inode.
    pub(super) fn count_name(&mut self, dir: Ino, name: &[u8], entry: Dirent) {
        let is_dir = entry.kind == FileKind::Dir;
        match self.nodes.get_mut(&dir) {
            Some(node) => node.dirs += u32::from(is_dir),
            None => {
                let missing = self.missing.entry(dir).or_default();
                missing.entries += 1;
                missing.dirs += u32::from(is_dir);
                missing.next_cookie = missing.next_cookie.max(entry.cookie.saturating_add(1));
            }
        }
        match self.nodes.get_mut(&entry.ino) {
            Some(node) => {
                if node.names == 0 || node.parent == dir {
                    node.named_in = dir;
                }
                node.names = node.names.saturating_add(1);
            }
            None => {
                let missing = self.missing.entry(entry.ino).or_default();
                missing.named.push((dir, name.to_vec(), entry));
            }
        }
    }

    /// Rows of the cookie table. A row whose name is gone gives the name back.
    pub(super) fn cookies(&mut self) {
        let tables = self.tables;
        tables.scan(TableId::Cookies, &mut |key, value| {
            if self.edits.find(TableId::Cookies, key).is_some() {
                return;
            }
            if let Err(text) = self.cookie(key, value) {
                self.findings.add("cookies", format!("{text}: removed"));
                self.edits.del(TableId::Cookies, key);
            }
        });
    }

    fn cookie(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let (Some(dir), Some(cookie)) = (ino_of_key(key), second_of_key(key)) else {
            return Err(format!("a key of {} bytes", key.len()));
        };
        let entry = value.get(..Dirent::BYTES).and_then(Dirent::decode);
        let (Some(mut entry), Some(name)) = (entry, cookie_name(value)) else {
            return Err(format!("{cookie} in directory {}: not readable", dir.0));
        };
        let place = key_name(dir, name);
        let no_such =
            || format!("{cookie} in directory {}: {} has no such entry", dir.0, name.escape_ascii());
        if let Some(found) = self.now(TableId::Dirents, &place) {
            let same = Dirent::decode(&found) == Some(entry) && entry.cookie == cookie;
            return if same { Ok(()) } else { Err(no_such()) };
        }
        let in_dir = self.nodes.get(&dir).filter(|node| node.kind == FileKind::Dir && !node.is_unlinked());
        let fits = in_dir.is_some_and(|node| (COOKIE_FIRST..node.next_cookie).contains(&cookie))
            && is_name(name)
            && entry.ino != Ino::ROOT
            && entry.cookie == cookie;
        let kind = match self.nodes.get(&entry.ino) {
            Some(node) if node.is_unlinked() || (node.kind == FileKind::Dir && node.names > 0) => None,
            Some(node) => Some(node.kind),
            None => Some(entry.kind).filter(|_| self.known.inodes_lost),
        };
        let Some(kind) = kind.filter(|_| fits) else { return Err(no_such()) };
        self.findings.add("names", format!("{}: was lost, its cookie gives it back", shown(dir, name)));
        entry.kind = kind;
        self.edits.put_name(dir, name, entry);
        self.count_name(dir, name, entry);
        Ok(())
    }
}
