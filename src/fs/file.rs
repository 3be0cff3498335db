//! The content of files: reads, writes, preallocation, holes and copies.
//!
//! Decides what a change of content drags along; the bytes themselves belong to the store. Does not know permissions.
//! Invariant: a write is whole or an error, never short.

use crate::base::Ino;
use crate::fs::Fallocate;
use crate::fs::FsError;
use crate::fs::attr::{drop_rights, may_write};
use crate::fs::fs::{Ctx, Fs, Result};
use crate::fs::modes::{is_dir, is_file, without_set_id};

/// Most bytes of one copy_file_range: the caller asks again for the rest.
const COPY_BYTES_MAX: u64 = 4 << 20;
const COPY_CHUNK: usize = 256 << 10;

/// One part of a file.
#[derive(Clone, Copy, Debug)]
pub struct FilePart {
    pub ino: Ino,
    pub offset: u64,
}

impl Fs {
    /// Up to `len` bytes; fewer only at the end of the file. May wait for the disk.
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.read_with(ino, offset, len, <[u8]>::to_vec)
    }

    /// `read`, with the bytes given to `then` where they lie.
    pub fn read_with<T>(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        then: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let rec = self.inode(ino)?;
        if is_dir(&rec) {
            return Err(FsError::IsDir);
        }
        self.store.read_with(ino, offset, len, then)
    }

    /// Writes all of `data`. `drop_set_id`: the caller has no right to leave set-id bits on a file it changes.
    /// `WouldBlock` at the dirty limit: nothing happened; write something back and try again.
    pub fn write(&self, ctx: &Ctx, ino: Ino, offset: u64, data: &[u8], drop_set_id: bool) -> Result<()> {
        self.may_change()?;
        let rec = self.inode(ino)?;
        may_write(&rec, offset)?;
        offset.checked_add(data.len() as u64).ok_or(FsError::FileTooLarge)?;
        self.store.write(ino, offset, data, ctx.now)?;
        if drop_set_id && without_set_id(rec.mode) != rec.mode {
            self.change(|op| {
                let mut rec = op.inode(ino)?.ok_or(FsError::Stale)?;
                drop_rights(op, ino, &mut rec)?;
                op.put_inode(ino, &rec);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Reserves, punches or zeroes a range.
    pub fn fallocate(&self, ctx: &Ctx, ino: Ino, offset: u64, len: u64, how: Fallocate) -> Result<()> {
        if len == 0 {
            return Err(FsError::Invalid);
        }
        offset.checked_add(len).ok_or(FsError::FileTooLarge)?;
        self.may_change()?;
        let rec = self.inode(ino)?;
        may_write(&rec, offset)?;
        self.store.fallocate(ino, how, offset, len, ctx.now)
    }

    /// First offset at or after this one with data; `NoData` behind the last.
    pub fn seek_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seekable(ino, offset)?;
        self.store.seek_data(ino, offset)
    }

    /// First offset at or after this one in a hole; the end of the file is one.
    pub fn seek_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seekable(ino, offset)?;
        self.store.seek_hole(ino, offset)
    }

    fn seekable(&self, ino: Ino, offset: u64) -> Result<()> {
        let rec = self.inode(ino)?;
        if !is_file(&rec) {
            return Err(FsError::Invalid);
        }
        if offset >= rec.size { Err(FsError::NoData) } else { Ok(()) }
    }

    /// Copies up to `len` bytes and answers how many; 0 at the end of the source. May wait for the disk.
    pub fn copy_range(&self, ctx: &Ctx, from: FilePart, to: FilePart, len: u64) -> Result<u64> {
        // The end of the source is where it is now: a copy behind it in the same file is no more to copy.
        let len = len.min(self.inode(from.ino)?.size.saturating_sub(from.offset));
        let overlap = from.offset.abs_diff(to.offset) < len;
        if from.ino == to.ino && overlap {
            return Err(FsError::Invalid);
        }
        let mut done = 0;
        while done < len.min(COPY_BYTES_MAX) {
            let step = usize::try_from(len.min(COPY_BYTES_MAX) - done).unwrap_or(COPY_CHUNK).min(COPY_CHUNK);
            let data = self.read(from.ino, from.offset.saturating_add(done), step)?;
            if data.is_empty() {
                break;
            }
            match self.write(ctx, to.ino, to.offset.saturating_add(done), &data, false) {
                Err(_) if done > 0 => break,
                other => other?,
            }
            done += data.len() as u64;
        }
        Ok(done)
    }
}
