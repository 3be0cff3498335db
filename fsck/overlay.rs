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
    changed: Mutex<BTreeMap<u64, [u8; SECTOR_BYTES]>>,
}

impl Overlay {
    pub fn new(below: Arc<dyn Disk>) -> Overlay {
        Overlay { below, changed: Mutex::default() }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeMap<u64, [u8; SECTOR_BYTES]>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes everything to the medium and makes it stable.
    pub fn commit(&self) -> Result<(), DiskError> {
        for (sector, bytes) in self.changed().iter() {
            self.below.write_at(sector * SECTOR_BYTES as u64, bytes)?;
        }
        self.below.flush()
    }
}

impl Disk for Overlay {
    fn len_bytes(&self) -> u64 {
        self.below.len_bytes()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.below.read_at(offset, out)?;
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
        overlay.commit().unwrap();
        below.read_at(1024, &mut out[..512]).unwrap();
        assert_eq!(out[..512], [7; 512]);
    }
}
