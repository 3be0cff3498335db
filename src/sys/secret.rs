//! Files that only their owner may read: keys.
//!
//! Does not know what is in them. Invariants: a file that others could read is not read at all; a file is private from
//! its first byte, complete or absent, and never overwritten.
#![allow(clippy::disallowed_methods, reason = "a shell: files")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest secret that is read.
const SECRET_BYTES_MAX: u64 = 4096;

/// Why a secret is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} can be read by others (mode {mode:04o}): chmod 0600 {}", .path.display(), .path.display())]
    FileMode { path: PathBuf, mode: u32 },
    #[error(
        "{} lies in a directory that others may enter (mode {mode:04o}): chmod 0700 {}",
        .path.display(), .dir.display()
    )]
    DirMode { path: PathBuf, dir: PathBuf, mode: u32 },
    #[error("{} belongs to user {owner}, not to the user who runs this (user {me}): chown it", .path.display())]
    Owner { path: PathBuf, owner: u32, me: u32 },
    #[error("{} is no regular file of at most 4096 bytes", .path.display())]
    Kind { path: PathBuf },
    #[error("{} is not text", .path.display())]
    NotText { path: PathBuf },
    #[error("{} exists already and is left alone: remove it first if it shall be replaced", .path.display())]
    Exists { path: PathBuf },
}

/// Reads a secret: owner root or this user, mode 0600 or stricter, in a directory of mode 0700 or stricter.
pub fn read(path: &Path) -> Result<String, SecretError> {
    let fail = |source| SecretError::Io { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(fail)?;
    // From the open file, not the name: it cannot be exchanged in between.
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() || meta.len() > SECRET_BYTES_MAX {
        return Err(SecretError::Kind { path: path.to_path_buf() });
    }
    check_owner(path, meta.uid())?;
    if meta.mode() & 0o077 != 0 {
        return Err(SecretError::FileMode { path: path.to_path_buf(), mode: meta.mode() & 0o7777 });
    }
    check_dir(path)?;
    let mut text = Vec::new();
    (&mut file).take(SECRET_BYTES_MAX).read_to_end(&mut text).map_err(fail)?;
    String::from_utf8(text).map_err(|_| SecretError::NotText { path: path.to_path_buf() })
}

fn check_owner(path: &Path, owner: u32) -> Result<(), SecretError> {
    let me = nix::unistd::geteuid().as_raw();
    if owner == me || owner == 0 {
        return Ok(());
    }
    Err(SecretError::Owner { path: path.to_path_buf(), owner, me })
}

fn check_dir(path: &Path) -> Result<(), SecretError> {
    let dir = parent(path);
    let meta = fs::metadata(&dir).map_err(|source| SecretError::Io { path: dir.clone(), source })?;
    check_owner(&dir, meta.uid())?;
    if meta.mode() & 0o077 != 0 {
        return Err(SecretError::DirMode { path: path.to_path_buf(), dir, mode: meta.mode() & 0o7777 });
    }
    Ok(())
}

/// Writes a new secret, mode 0600, making its directory (0700) if need be. Stable on return.
pub fn create(path: &Path, text: &str) -> Result<(), SecretError> {
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => SecretError::Exists { path: path.to_path_buf() },
        _ => SecretError::Io { path: path.to_path_buf(), source },
    };
    let dir = parent(path);
    if !dir.exists() {
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir).map_err(fail)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let stable = written.and_then(|()| File::open(&dir)?.sync_all());
    stable.map_err(|error| {
        // Half a key is worse than none.
        let _ = fs::remove_file(path);
        fail(error)
    })
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_is_private_or_refused_with_the_command_that_mends_it() {
        let dir = std::env::temp_dir().join(format!("twinfs-secret-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let path = dir.join("key");
        create(&path, "hush").unwrap();
        assert_eq!(read(&path).unwrap(), "hush");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        let again = create(&path, "other").unwrap_err().to_string();
        assert!(again.contains("left alone"), "{again}");
        assert_eq!(read(&path).unwrap(), "hush");

        chmod(&path, 0o640);
        let loose = read(&path).unwrap_err().to_string();
        assert!(loose.contains("mode 0640") && loose.contains("chmod 0600"), "{loose}");
        chmod(&path, 0o600);
        chmod(&dir, 0o755);
        let loose = read(&path).unwrap_err().to_string();
        assert!(loose.contains("chmod 0700") && loose.contains(&dir.display().to_string()), "{loose}");
        chmod(&dir, 0o700);
        fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(matches!(read(&path), Err(SecretError::Kind { .. })));
        assert!(matches!(read(&dir), Err(SecretError::Kind { .. })));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read(&path), Err(SecretError::NotText { .. })));
        fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(read(&path), Err(SecretError::Io { .. })));
    }
}
