//! Writes kept in memory over a medium: a check sees the image as its repair would leave it, and changes nothing.
//!
//! Invariant: the medium below is written by `commit` only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twinfs::format::SECTOR_BYTES;
use twinfs::image::{Disk, DiskError};

/// A medium with private changes, in sectors.
pub struct Overlay {
    below: Arc<dyn Disk>,
    /// What lies behind the end of the medium reads as zeros.
    len: u64,
    changed: Mutex<BTreeMap<u64, [u8; SECTOR_BYTES]>>,
}

impl Overlay {
    pub fn new(below: Arc<dyn Disk>) -> Overlay {
        let len = below.len_bytes();
        Overlay { below, len, changed: Mutex::default() }
    }

    /// Over a medium that lost its end.
    pub fn longer(below: Arc<dyn Disk>, len: u64) -> Overlay {
        Overlay { len, ..Overlay::new(below) }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeMap<u64, [u8; SECTOR_BYTES]>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes everything to the medium, or to what it has become, and makes it stable.
    pub fn commit(&self, medium: &dyn Disk) -> Result<(), DiskError> {
        for (sector, bytes) in self.changed().iter() {
            medium.write_at(sector * SECTOR_BYTES as u64, bytes)?;
        }
        medium.flush()
    }
}

impl Disk for Overlay {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        let there = self.below.len_bytes().saturating_sub(offset).min(out.len() as u64) as usize;
        let (head, behind) = out.split_at_mut(there);
        if self.below.len_bytes() < self.len {
            behind.fill(0);
            if !head.is_empty() {
                self.below.read_at(offset, head)?;
            }
        } else {
            self.below.read_at(offset, out)?;
        }
        let end = offset + out.len() as u64;
        let sectors = offset / SECTOR_BYTES as u64..end.div_ceil(SECTOR_BYTES as u64);
        for (sector, bytes) in self.changed().range(sectors) {
            let start = sector * SECTOR_BYTES as u64;
            let (from, to) = (start.max(offset), (start + SECTOR_BYTES as u64).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let (sectors, rest) = data.as_chunks::<SECTOR_BYTES>();
        if !offset.is_multiple_of(SECTOR_BYTES as u64) || !rest.is_empty() {
            return Err(DiskError::Io("only whole sectors are written".to_string()));
        }
        let first = offset / SECTOR_BYTES as u64;
        self.changed().extend((first..).zip(sectors.iter().copied()));
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.zero(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let zeros = vec![0; usize::try_from(len).map_err(|_| DiskError::Full)?];
        self.write_at(offset, &zeros)
    }
}

#[cfg(test)]
mod tests {
    use twinfs::image::MemDisk;

    use super::*;

    #[test]
    fn changes_are_seen_at_any_offset_and_reach_the_medium_by_commit_only() {
        let below = Arc::new(MemDisk::new(1 << 20));
        let overlay = Overlay::new(below.clone());
        overlay.write_at(1024, &[7; 1024]).unwrap();
        let mut out = vec![1; 3000];
        overlay.read_at(1000, &mut out).unwrap();
        assert!(out[..24].iter().all(|b| *b == 0) && out[24..1048].iter().all(|b| *b == 7));
        assert!(out[1048..].iter().all(|b| *b == 0));
        below.read_at(1024, &mut out[..512]).unwrap();
        assert_eq!(out[0], 0);
        assert!(overlay.write_at(100, &[0; 512]).is_err());
        overlay.commit(&*below).unwrap();
        below.read_at(1024, &mut out[..512]).unwrap();
        assert_eq!(out[..512], [7; 512]);
    }

    #[test]
    fn what_lies_behind_the_end_is_zeros_and_can_be_written() {
        let below: Arc<dyn Disk> = Arc::new(MemDisk::new(4096));
        below.write_at(0, &[1; 4096]).unwrap();
        let overlay = Overlay::longer(below, 1 << 20);
        overlay.write_at(8192, &[7; 512]).unwrap();
        let mut out = vec![9; 8192];
        overlay.read_at(2048, &mut out).unwrap();
        assert!(out[..2048].iter().all(|b| *b == 1) && out[2048..6144].iter().all(|b| *b == 0));
        assert!(out[6144..6656].iter().all(|b| *b == 7) && out[6656..].iter().all(|b| *b == 0));
        overlay.read_at(8192, &mut out[..512]).unwrap();
        assert_eq!(out[0], 7);
    }
}
