//! The raw medium under an image: a file or a device, a simulated disk, or memory in a test.

use crate::base::Pages;

/// Why a medium failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// Read, write or flush failed. A failed flush is never retried as if it had not happened.
    #[error("{0}")]
    Io(String),
    /// The host filesystem is full.
    #[error("the disk under the image is full")]
    Full,
    /// The simulated machine died in the middle of the call.
    #[error("the machine stopped")]
    Dead,
}

/// A linear medium. Offsets and lengths are multiples of 512 or more; buffers need no alignment (an implementation
/// that needs it copies). A write that returned is *done* (a reader sees it); it is *stable* only after `flush`.
/// What was not flushed may be lost, kept or torn at 512 bytes in any subset when the power goes.
pub trait Disk: Send + Sync {
    /// Length in bytes.
    fn len_bytes(&self) -> u64;
    /// Reads exactly `out.len()` bytes.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError>;
    /// Writes all of `data`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError>;
    /// Writes all of several ranges that do not overlap, in any order; done on return. An error leaves any of them
    /// written, in part or whole.
    fn write_many(&self, writes: &[(u64, &[u8])]) -> Result<(), DiskError> {
        writes.iter().try_for_each(|(offset, data)| self.write_at(*offset, data))
    }
    /// Writes what `parts` yields: whole pages, at offsets of whole pages, that do not overlap. The next part may be
    /// asked for while earlier ones are on their way; done on return. An error leaves any of them written, in part or
    /// whole.
    fn write_each(&self, parts: &mut dyn Iterator<Item = (u64, Pages)>) -> Result<(), DiskError> {
        for (offset, data) in parts {
            self.write_at(offset, &data)?;
        }
        Ok(())
    }
    /// Makes every write done before the call stable.
    fn flush(&self) -> Result<(), DiskError>;
    /// Makes the medium at least so long, stable on return; a device cannot be made longer than it is.
    fn extend(&self, len: u64) -> Result<(), DiskError> {
        match self.len_bytes() >= len {
            true => Ok(()),
            false => {
                Err(DiskError::Io(format!("the medium has {} bytes, {len} are needed", self.len_bytes())))
            }
        }
    }
    /// Gives the range back to the host; what it reads as afterwards is undefined.
    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError>;
    /// Allocates the range for real by writing zeros to it.
    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError>;
}
