//! Which files of a kept copy are not in another tree as they are here.
//!
//! Decides when two files are the same: by type, content, target, owner and mode. Does not know which side is right.
//! Invariants: nothing is changed on either side; what cannot be read counts as different, and is said; symbolic links
//! are not followed.
#![allow(clippy::disallowed_methods, reason = "a shell: reads files")]

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How a file of the kept copy stands to the other tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The other tree has nothing of that name.
    OnlyHere,
    /// Both have it; the kept one was written later.
    Newer,
    Older,
    /// Only owner or mode differ.
    Attributes,
    /// One of both cannot be read.
    Unreadable,
}

impl Change {
    pub fn word(self) -> &'static str {
        match self {
            Change::OnlyHere => "only-here",
            Change::Newer => "newer-here",
            Change::Older => "older-here",
            Change::Attributes => "attributes",
            Change::Unreadable => "unreadable",
        }
    }
}

/// Every file below `kept` that is not the same below `other`, in order of their names; a folder that only `kept` has
/// is told once, as a whole. `None`: everything counts. Paths are relative.
pub fn differences(kept: &Path, other: Option<&Path>, told: &mut dyn FnMut(&Path, Change)) -> io::Result<()> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(kept.join(&folder))? {
            names.push(entry?.file_name());
        }
        names.sort();
        let mut below = Vec::new();
        for name in names {
            let path = folder.join(&name);
            let there = other.map(|other| other.join(&path));
            match compare(&kept.join(&path), there.as_deref()) {
                Ok(Some(change)) => told(&path, change),
                Ok(None) if std::fs::symlink_metadata(kept.join(&path)).is_ok_and(|meta| meta.is_dir()) => {
                    below.push(path);
                }
                Ok(None) => {}
                Err(_) => told(&path, Change::Unreadable),
            }
        }
        folders.extend(below.into_iter().rev());
    }
    Ok(())
}

/// `None`: the same. Two folders are the same whatever is in them.
fn compare(kept: &Path, other: Option<&Path>) -> io::Result<Option<Change>> {
    let here = std::fs::symlink_metadata(kept)?;
    let Some(other) = other else { return Ok(Some(Change::OnlyHere)) };
    let there = match std::fs::symlink_metadata(other) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Some(Change::OnlyHere));
        }
        found => found?,
    };
    if here.is_dir() && there.is_dir() || untouched(&here, &there) {
        return Ok(None);
    }
    let same_type = here.mode() & 0o170_000 == there.mode() & 0o170_000;
    if !same_type || !same_content(kept, &here, other, &there)? {
        let time = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec());
        return Ok(Some(if time(&here) >= time(&there) { Change::Newer } else { Change::Older }));
    }
    let owner = |meta: &Metadata| (meta.uid(), meta.gid(), meta.mode());
    Ok((owner(&here) != owner(&there)).then_some(Change::Attributes))
}

/// The same inode with the same times: neither side touched it since both were one.
fn untouched(here: &Metadata, there: &Metadata) -> bool {
    let key = |meta: &Metadata| {
        (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
    };
    key(here) == key(there)
}

fn same_content(kept: &Path, here: &Metadata, other: &Path, there: &Metadata) -> io::Result<bool> {
    let kind = here.file_type();
    if kind.is_symlink() {
        return Ok(std::fs::read_link(kept)? == std::fs::read_link(other)?);
    }
    if kind.is_block_device() || kind.is_char_device() {
        return Ok(here.rdev() == there.rdev());
    }
    if !kind.is_file() {
        return Ok(true);
    }
    if here.size() != there.size() {
        return Ok(false);
    }
    let (mut one, mut two) = (File::open(kept)?, File::open(other)?);
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let (read, theirs_read) = (fill(&mut one, &mut ours)?, fill(&mut two, &mut theirs)?);
        if ours[..read] != theirs[..theirs_read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

/// Reads until `out` is full or the file ends.
fn fill(file: &mut File, out: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match file.read(&mut out[done..])? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn found(kept: &Path, other: Option<&Path>) -> Vec<String> {
        let mut found = Vec::new();
        differences(kept, other, &mut |path, change| {
            found.push(format!("{} {}", path.display(), change.word()));
        })
        .unwrap();
        found
    }

    #[test]
    fn every_difference_is_told_and_nothing_else() {
        let root = std::env::temp_dir().join(format!("twinfs-compare-{}", std::process::id()));
        let (kept, other) = (root.join("kept"), root.join("other"));
        let (old, new) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1), SystemTime::now());
        let write = |side: &Path, name: &str, text: &str, time: SystemTime| {
            fs::create_dir_all(side.join(name).parent().unwrap()).unwrap();
            fs::write(side.join(name), text).unwrap();
            File::options().write(true).open(side.join(name)).unwrap().set_modified(time).unwrap();
        };
        for (name, here, there) in [("same", "a", "a"), ("d/newer", "ab", "a"), ("d/older", "x", "y")] {
            let newer = name == "d/newer";
            write(&kept, name, here, if newer { new } else { old });
            write(&other, name, there, if newer { old } else { new });
        }
        write(&kept, "only/deep/file", "a", old);
        write(&other, "theirs", "a", old);
        write(&kept, "mode", "a", old);
        write(&other, "mode", "a", old);
        fs::set_permissions(kept.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(other.join("mode"), fs::Permissions::from_mode(0o644)).unwrap();
        symlink("one", kept.join("link")).unwrap();
        symlink("two", other.join("link")).unwrap();
        symlink("/nowhere", kept.join("dangling")).unwrap();
        // A file here, a folder there.
        write(&kept, "kind", "a", new);
        fs::create_dir(other.join("kind")).unwrap();
        let told = found(&kept, Some(&other));
        let link = told.iter().find(|line| line.starts_with("link ")).unwrap();
        assert!(link.ends_with("older-here") || link.ends_with("newer-here"), "{link}");
        let kind = told.iter().find(|line| line.starts_with("kind ")).unwrap();
        assert!(kind.ends_with("older-here") || kind.ends_with("newer-here"), "{kind}");
        let rest: Vec<&String> = told.iter().filter(|line| *line != link && *line != kind).collect();
        assert_eq!(
            rest,
            [
                "dangling only-here",
                "mode attributes",
                "only only-here",
                "d/newer newer-here",
                "d/older older-here"
            ]
        );
        assert_eq!(found(&kept, None).len(), 7, "all that lies at the top");
        assert_eq!(found(&kept, Some(&kept)), Vec::<String>::new());
        fs::remove_dir_all(&root).unwrap();
    }
}
