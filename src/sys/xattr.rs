//! Extended attributes by path, without following symlinks.
//!
//! Decides nothing. Knows only system calls. Invariant: every buffer handed to the kernel is as long as it is told.

#![allow(unsafe_code, reason = "llistxattr, lgetxattr, lsetxattr")]

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::libc;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Calls `fill` with growing buffers until the answer fits.
fn read_all(mut fill: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    loop {
        let wanted = length(fill(&mut []))?;
        let mut buffer = vec![0_u8; wanted];
        match length(fill(&mut buffer)) {
            Ok(got) => {
                buffer.truncate(got);
                return Ok(buffer);
            }
            // It grew between the two calls.
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Names of the attributes of `path` itself; none where the filesystem has no attributes.
pub fn list(path: &Path) -> io::Result<Vec<OsString>> {
    let path = c_path(path)?;
    // SAFETY: the path ends with NUL and the buffer is writable for the length given.
    let fill = |b: &mut [u8]| unsafe { libc::llistxattr(path.as_ptr(), b.as_mut_ptr().cast(), b.len()) };
    match read_all(fill) {
        Ok(names) => Ok(names
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty())
            .map(|name| OsString::from_vec(name.to_vec()))
            .collect()),
        Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The value of one attribute of `path` itself.
pub fn get(path: &Path, name: &OsStr) -> io::Result<Vec<u8>> {
    let (path, name) = (c_path(path)?, c_path(Path::new(name))?);
    // SAFETY: both strings end with NUL and the buffer is writable for the length given.
    read_all(|b| unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), b.as_mut_ptr().cast(), b.len()) })
}

/// Sets one attribute of `path` itself.
pub fn set(path: &Path, name: &OsStr, value: &[u8]) -> io::Result<()> {
    let (path, name): (CString, CString) = (c_path(path)?, c_path(Path::new(name))?);
    let (path, name): (&CStr, &CStr) = (&path, &name);
    // SAFETY: both strings end with NUL and the value is readable for the length given.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn what_is_set_is_listed_and_read_back() {
        let file = std::env::temp_dir().join(format!("twinfs-xattr-{}", std::process::id()));
        std::fs::write(&file, b"x").unwrap();
        let name = OsStr::new("user.twinfs");
        match set(&file, name, b"value") {
            Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => {}
            other => {
                other.unwrap();
                assert!(list(&file).unwrap().contains(&name.to_os_string()));
                assert_eq!(get(&file, name).unwrap(), b"value");
            }
        }
        std::fs::remove_file(&file).unwrap();
    }
}
