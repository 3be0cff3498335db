//! The filesystem as it should be: every operation that was issued, and what had to survive.
//!
//! Decides whether a tree found after a crash or a takeover is one that may be found. Does not know how the
//! filesystem works. Invariants held against it: names are those of one moment not before the last acknowledged
//! commit; each block of a file is one that it had at or after the file's last acknowledged fsync.

use std::collections::BTreeMap;

/// A file, directory or symlink of the model.
pub type Id = u64;

/// The root directory.
pub const ROOT: Id = 0;
/// An overwrite in place that nobody asked to be stable may be torn at this.
const SECTOR: usize = 512;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink(Vec<u8>),
}

/// A change of names.
#[derive(Clone, Debug)]
pub enum Change {
    Make { dir: Id, name: String, id: Id, kind: Kind },
    Link { dir: Id, name: String, id: Id },
    Remove { dir: Id, name: String },
    Rename { from: (Id, String), to: (Id, String) },
}

/// All names at one moment.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub dirs: BTreeMap<Id, BTreeMap<String, Id>>,
    pub kinds: BTreeMap<Id, Kind>,
}

/// What was found at a path.
#[derive(Clone, Debug)]
pub struct Seen {
    pub kind: Kind,
    pub ino: u64,
    pub links: u64,
    /// Content of a file; empty for everything else.
    pub content: Vec<u8>,
}

/// Everything found, by path ("" is the root, "a/b" a file in a directory).
pub type Tree = BTreeMap<String, Seen>;

/// The versions of one file that may be found.
#[derive(Clone, Debug)]
struct File {
    /// The last is the newest; the first is the one acknowledged as stable.
    versions: Vec<Vec<u8>>,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    stable: Names,
    since: Vec<Change>,
    pub now: Names,
    files: BTreeMap<Id, File>,
    next: Id,
}

impl Names {
    fn root() -> Names {
        let mut names = Names::default();
        names.dirs.insert(ROOT, BTreeMap::new());
        names.kinds.insert(ROOT, Kind::Dir);
        names
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Make { dir, name, id, kind } => {
                self.kinds.insert(*id, kind.clone());
                if *kind == Kind::Dir {
                    self.dirs.insert(*id, BTreeMap::new());
                }
                self.put(*dir, name, *id);
            }
            Change::Link { dir, name, id } => self.put(*dir, name, *id),
            Change::Remove { dir, name } => {
                let gone = self.dirs.get_mut(dir).and_then(|entries| entries.remove(name));
                if let Some(id) = gone.filter(|id| self.kinds.get(id) == Some(&Kind::Dir)) {
                    self.dirs.remove(&id);
                }
            }
            Change::Rename { from, to } => {
                let moved = self.dirs.get_mut(&from.0).and_then(|entries| entries.remove(&from.1));
                if let Some(id) = moved {
                    self.put(to.0, &to.1, id);
                }
            }
        }
    }

    fn put(&mut self, dir: Id, name: &str, id: Id) {
        if let Some(entries) = self.dirs.get_mut(&dir) {
            entries.insert(name.to_string(), id);
        }
    }

    /// Every path with its id.
    pub fn paths(&self) -> BTreeMap<String, Id> {
        let mut found = BTreeMap::from([(String::new(), ROOT)]);
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            for (name, id) in self.dirs.get(&dir).into_iter().flatten() {
                let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if self.kinds.get(id) == Some(&Kind::Dir) {
                    todo.push((below.clone(), *id));
                }
                found.insert(below, *id);
            }
        }
        found
    }

    /// Every directory that has a path, the root first.
    pub fn paths_of_dirs(&self) -> Vec<Id> {
        self.paths().into_values().filter(|id| self.kinds.get(id) == Some(&Kind::Dir)).collect()
    }

    /// Names of a file or symlink.
    pub fn links(&self, id: Id) -> u64 {
        self.dirs.values().flat_map(BTreeMap::values).filter(|entry| **entry == id).count() as u64
    }

    /// Why `tree` is not this, or `None` if it is (names, kinds, link counts, which names are one file).
    fn differs(&self, tree: &Tree) -> Option<String> {
        let paths = self.paths();
        if let Some(path) = tree.keys().find(|path| !paths.contains_key(*path)) {
            return Some(format!("{path:?} should not exist"));
        }
        let mut inos = BTreeMap::new();
        for (path, id) in &paths {
            let Some(seen) = tree.get(path) else { return Some(format!("{path:?} is missing")) };
            if self.kinds.get(id) != Some(&seen.kind) {
                return Some(format!("{path:?} is {:?}, should be {:?}", seen.kind, self.kinds.get(id)));
            }
            if seen.kind != Kind::Dir && seen.links != self.links(*id) {
                return Some(format!("{path:?} has {} links, should have {}", seen.links, self.links(*id)));
            }
            if *inos.entry(*id).or_insert(seen.ino) != seen.ino {
                return Some(format!("{path:?} is not the file its other name is"));
            }
        }
        None
    }
}

impl Default for Model {
    fn default() -> Model {
        let (stable, now) = (Names::root(), Names::root());
        Model { stable, since: Vec::new(), now, files: BTreeMap::new(), next: 1 }
    }
}

impl Model {
    pub fn fresh_id(&mut self) -> Id {
        self.next += 1;
        self.next - 1
    }

    /// A change of names is about to be asked for.
    pub fn issue(&mut self, change: Change) {
        if let Change::Make { id, kind: Kind::File, .. } = &change {
            self.files.insert(*id, File { versions: vec![Vec::new()] });
        }
        self.now.apply(&change);
        self.since.push(change);
    }

    /// Changes of names since the last commit.
    pub fn issued(&self) -> usize {
        self.since.len()
    }

    /// The changes from the `issued`th on were refused: they did not happen.
    pub fn retract(&mut self, issued: usize) {
        self.since.truncate(issued);
        self.now = self.stable.clone();
        self.since.iter().for_each(|change| self.now.apply(change));
    }

    /// A new content of a file is about to be written.
    pub fn write(&mut self, id: Id, content: Vec<u8>) {
        self.files.entry(id).or_insert_with(|| File { versions: vec![Vec::new()] }).versions.push(content);
    }

    /// The last write was done in part: what the file holds now.
    pub fn cut_short(&mut self, id: Id, content: Vec<u8>) -> Result<(), String> {
        let Some(file) = self.files.get_mut(&id) else { return Err("no such file".to_string()) };
        file.check(&content)?;
        file.versions.push(content);
        Ok(())
    }

    pub fn content(&self, id: Id) -> &[u8] {
        self.files.get(&id).and_then(|file| file.versions.last()).map_or(&[], Vec::as_slice)
    }

    /// A commit was acknowledged: all names issued so far are stable.
    pub fn committed(&mut self) {
        self.stable = self.now.clone();
        self.since.clear();
    }

    /// A sync was acknowledged: everything is stable.
    pub fn synced(&mut self) {
        self.committed();
        for file in self.files.values_mut() {
            let newest = file.versions.pop();
            file.versions = newest.into_iter().collect();
        }
    }

    /// An fsync of the file was acknowledged: its content and all names are stable.
    pub fn fsynced(&mut self, id: Id) {
        self.committed();
        if let Some(file) = self.files.get_mut(&id) {
            let newest = file.versions.pop();
            file.versions = newest.into_iter().collect();
        }
    }

    /// Checks a tree found by whoever serves now; the tree becomes the model's present if it may be.
    pub fn found(&mut self, tree: &Tree) -> Result<(), String> {
        let mut wrong = None;
        // The same names may stand at several moments for different files (a name removed and made again): the tree
        // has to fit one of them.
        let fit = self.moments(tree)?.into_iter().find(|names| match self.contents_fit(names, tree) {
            Ok(()) => true,
            Err(why) => {
                wrong.get_or_insert(why);
                false
            }
        });
        let Some(names) = fit else { return Err(wrong.unwrap_or_default()) };
        for (path, id) in names.paths() {
            if let (Some(seen), true) = (tree.get(&path), self.files.contains_key(&id)) {
                self.files.insert(id, File { versions: vec![seen.content.clone()] });
            }
        }
        self.stable = names.clone();
        self.now = names;
        self.since.clear();
        Ok(())
    }

    fn contents_fit(&self, names: &Names, tree: &Tree) -> Result<(), String> {
        for (path, id) in names.paths() {
            let (Some(seen), Some(file)) = (tree.get(&path), self.files.get(&id)) else { continue };
            if seen.kind == Kind::File {
                file.check(&seen.content).map_err(|why| format!("{path:?}: {why}"))?;
            }
        }
        Ok(())
    }

    /// The names at every moment since the last commit whose paths are those of the tree; never empty.
    fn moments(&self, tree: &Tree) -> Result<Vec<Names>, String> {
        let mut names = self.stable.clone();
        let first = names.differs(tree);
        let mut last = first.clone();
        let mut fitting: Vec<Names> = if first.is_none() { vec![names.clone()] } else { Vec::new() };
        for change in &self.since {
            names.apply(change);
            last = names.differs(tree);
            if last.is_none() {
                fitting.push(names.clone());
            }
        }
        if fitting.is_empty() {
            let (first, last, count) =
                (first.unwrap_or_default(), last.unwrap_or_default(), self.since.len());
            return Err(format!(
                "names fit no moment since the last commit ({first}; {count} changes later: {last})"
            ));
        }
        Ok(fitting)
    }
}

impl File {
    /// Length and each sector must be those of some version that may still be found.
    fn check(&self, content: &[u8]) -> Result<(), String> {
        let lens: Vec<usize> = self.versions.iter().map(Vec::len).collect();
        // A large append may have become stable in part.
        let (min, max) = (lens.iter().min(), lens.iter().max());
        if min.is_none_or(|min| content.len() < *min) || max.is_none_or(|max| content.len() > *max) {
            return Err(format!("{} bytes long, may be {lens:?}", content.len()));
        }
        for (index, block) in content.chunks(SECTOR).enumerate() {
            let fits = |version: &Vec<u8>| {
                let start = (index * SECTOR).min(version.len());
                let end = (index * SECTOR + block.len()).min(version.len());
                let had = &version[start..end];
                block.starts_with(had) && block[had.len()..].iter().all(|byte| *byte == 0)
            };
            if !self.versions.iter().any(fits) {
                let count = self.versions.len();
                let head = &block[..block.len().min(16)];
                return Err(format!(
                    "sector {index} is none of its {count} possible contents (found {head:?})"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(model: &mut Model, name: &str) -> Id {
        let id = model.fresh_id();
        model.issue(Change::Make { dir: ROOT, name: name.into(), id, kind: Kind::File });
        id
    }

    #[test]
    fn a_name_made_again_fits_with_the_newer_file() {
        let mut model = Model::default();
        let old = make(&mut model, "a");
        model.write(old, vec![1; 600]);
        model.fsynced(old);
        model.issue(Change::Remove { dir: ROOT, name: "a".into() });
        let new = make(&mut model, "a");
        model.write(new, vec![2; 600]);
        assert!(model.clone().found(&tree(&[("a", 7, &[3; 600])])).is_err());
        assert!(model.clone().found(&tree(&[("a", 7, &[1; 600])])).is_ok());
        assert_eq!(model.found(&tree(&[("a", 8, &[2; 600])])), Ok(()));
        assert_eq!(model.content(new), [2; 600]);
    }

    fn tree(files: &[(&str, u64, &[u8])]) -> Tree {
        let dir = Seen { kind: Kind::Dir, ino: 1, links: 2, content: Vec::new() };
        let mut tree = Tree::from([(String::new(), dir)]);
        for (path, ino, content) in files {
            let links = files.iter().filter(|file| file.1 == *ino).count() as u64;
            let seen = Seen { kind: Kind::File, ino: *ino, links, content: content.to_vec() };
            tree.insert((*path).to_string(), seen);
        }
        tree
    }

    #[test]
    fn an_fsynced_content_must_be_found_and_a_later_one_may_be() {
        let mut model = Model::default();
        let id = make(&mut model, "a");
        model.write(id, vec![1; 10]);
        model.fsynced(id);
        model.write(id, vec![2; 10]);
        assert!(model.clone().found(&tree(&[("a", 5, &[1; 10])])).is_ok());
        assert!(model.clone().found(&tree(&[("a", 5, &[2; 10])])).is_ok());
        assert!(model.clone().found(&tree(&[("a", 5, &[3; 10])])).is_err());
        assert!(model.clone().found(&tree(&[("a", 5, &[])])).is_err(), "lost");
        assert!(model.clone().found(&tree(&[])).is_err(), "the name is lost");
    }

    #[test]
    fn names_are_those_of_one_moment_and_a_rename_is_atomic() {
        let mut model = Model::default();
        make(&mut model, "a");
        model.committed();
        model.issue(Change::Rename { from: (ROOT, "a".into()), to: (ROOT, "b".into()) });
        make(&mut model, "c");
        assert!(model.clone().found(&tree(&[("a", 5, &[])])).is_ok());
        assert!(model.clone().found(&tree(&[("b", 5, &[])])).is_ok());
        assert!(model.clone().found(&tree(&[("b", 5, &[]), ("c", 6, &[])])).is_ok());
        assert!(model.clone().found(&tree(&[("a", 5, &[]), ("b", 5, &[])])).is_err(), "half a rename");
        assert!(
            model.clone().found(&tree(&[("a", 5, &[]), ("c", 6, &[])])).is_err(),
            "later without earlier"
        );
        assert!(model.found(&tree(&[])).is_err());
    }
}
