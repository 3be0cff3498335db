//! An image file or device that is only read: the medium below an offline volume.
//!
//! Invariant: every call that would change it is refused.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::image::{Disk, DiskError};

/// An image file or device, opened for reading only.
pub struct ReadOnlyFile {
    file: File,
    len: u64,
}

impl ReadOnlyFile {
    pub fn open(path: &Path) -> std::io::Result<ReadOnlyFile> {
        let mut file = File::open(path)?;
        // The length of a device is where its end is.
        let len = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
        Ok(ReadOnlyFile { file, len })
    }
}

fn refused() -> DiskError {
    DiskError::Io("opened for reading only".to_string())
}

impl Disk for ReadOnlyFile {
    fn len_bytes(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.file
            .read_exact_at(out, offset)
            .map_err(|error| DiskError::Io(format!("offset {offset}: {error}")))
    }
    fn write_at(&self, _: u64, _: &[u8]) -> Result<(), DiskError> {
        Err(refused())
    }
    fn flush(&self) -> Result<(), DiskError> {
        Err(refused())
    }
    fn punch(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Err(refused())
    }
    fn zero(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Err(refused())
    }
}
