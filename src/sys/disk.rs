//! An image's medium: a file or a block device, past the page cache where that is possible.
//!
//! Decides how bytes reach the medium: O_DIRECT with aligned buffers, through a bounce buffer otherwise, through the
//! page cache where the host filesystem knows no O_DIRECT or the range is not in whole 4 KiB. Does not know what they
//! mean.
//! Invariant: an error is reported with the path; a full host disk is `Full`, never a plain error.
#![allow(clippy::disallowed_methods, reason = "a shell: the machine's files")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::base::{PAGE, Pages};
use crate::image::{Disk, DiskError};

use super::aio::Writer;

/// Pages of a bounce buffer: 1 MiB.
const BOUNCE_PAGES: usize = 256;
/// Of one long write, what is in flight at a time. A small write and its flush beside a stream of 4 MiB writes took
/// 1.6 ms, beside parts of 512 KiB 0.2 ms (alone 0.15 ms), and the stream lost a tenth of its 4.2 GB/s.
const PART_BYTES: usize = 512 << 10;

/// A file or block device.
pub struct FileDisk {
    path: PathBuf,
    /// For ranges that are not whole pages, and for everything without O_DIRECT.
    plain: File,
    direct: Option<File>,
    /// For several writes at once; whoever finds it taken writes one after the other.
    writer: Option<Mutex<Writer>>,
    /// For streams; apart, so that nobody else finds a writer taken for as long as a stream lasts.
    streamer: Option<Mutex<Writer>>,
    len: AtomicU64,
    device: bool,
}

impl FileDisk {
    /// Opens an image. A block device that the kernel uses (mounted, part of an array) is refused for writing.
    pub fn open(path: &Path, writable: bool) -> io::Result<FileDisk> {
        let device = std::fs::metadata(path)?.file_type().is_block_device();
        let flags = if device && writable { nix::libc::O_EXCL } else { 0 } | nix::libc::O_CLOEXEC;
        let plain = OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path)?;
        let len = length(&plain, device)?;
        let direct = OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(nix::libc::O_DIRECT | nix::libc::O_CLOEXEC)
            .open(path)
            .ok()
            .filter(|file| len < PAGE as u64 || file.read_exact_at(&mut Pages::zeroed(1), 0).is_ok());
        let new_writer = || direct.as_ref().filter(|_| writable).and_then(|_| Writer::new()).map(Mutex::new);
        let (writer, streamer) = (new_writer(), new_writer());
        let len = AtomicU64::new(len);
        Ok(FileDisk { path: path.to_path_buf(), plain, direct, writer, streamer, len, device })
    }

    /// Makes a sparse file of `len` bytes; an existing one is refused.
    pub fn create(path: &Path, len: u64) -> io::Result<FileDisk> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        file.set_len(len)?;
        file.sync_all()?;
        // The name itself has to survive a power cut.
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
        FileDisk::open(path, true)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    fn error(&self, what: &str, error: &io::Error) -> DiskError {
        match error.raw_os_error() {
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => DiskError::Full,
            _ => DiskError::Io(format!("{}: {what}: {error}", self.path.display())),
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        match offset.checked_add(len).is_some_and(|end| end <= self.len_bytes()) {
            true => Ok(()),
            false => Err(DiskError::Io(format!(
                "{}: bytes {offset}+{len} lie beyond the end ({})",
                self.path.display(),
                self.len_bytes()
            ))),
        }
    }

    /// The O_DIRECT file if the range is whole pages.
    fn direct_for(&self, offset: u64, len: usize) -> Option<&File> {
        self.direct.as_ref().filter(|_| offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE))
    }
}

fn length(file: &File, device: bool) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    if device { (&*file).seek(SeekFrom::End(0)) } else { Ok(file.metadata()?.len()) }
}

impl Disk for FileDisk {
    fn len_bytes(&self) -> u64 {
        self.len.load(Ordering::SeqCst)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.check(offset, out.len() as u64)?;
        let done = match self.direct_for(offset, out.len()) {
            None => self.plain.read_exact_at(out, offset),
            Some(file) if Pages::is_aligned(out) => file.read_exact_at(out, offset),
            Some(file) => {
                let mut bounce = Pages::zeroed((out.len() / PAGE).min(BOUNCE_PAGES));
                let size = bounce.len().max(1);
                out.chunks_mut(size).zip((offset..).step_by(size)).try_for_each(|(part, at)| {
                    file.read_exact_at(&mut bounce[..part.len()], at)?;
                    part.copy_from_slice(&bounce[..part.len()]);
                    Ok(())
                })
            }
        };
        done.map_err(|error| self.error("read", &error))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check(offset, data.len() as u64)?;
        let done = match self.direct_for(offset, data.len()) {
            None => self.plain.write_all_at(data, offset),
            Some(file) if Pages::is_aligned(data) => {
                let mut parts = data.chunks(PART_BYTES).zip((offset..).step_by(PART_BYTES));
                parts.try_for_each(|(part, at)| file.write_all_at(part, at))
            }
            Some(file) => {
                let mut bounce = Pages::zeroed((data.len() / PAGE).min(BOUNCE_PAGES));
                let size = bounce.len().max(1);
                data.chunks(size).zip((offset..).step_by(size)).try_for_each(|(part, at)| {
                    bounce[..part.len()].copy_from_slice(part);
                    file.write_all_at(&bounce[..part.len()], at)
                })
            }
        };
        done.map_err(|error| self.error("write", &error))
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> Result<(), DiskError> {
        let whole = |(offset, data): &(u64, &[u8])| self.direct_for(*offset, data.len()).is_some();
        let writer = self.writer.as_ref().filter(|_| writes.len() > 1 && writes.iter().all(whole));
        let taken = writer.and_then(|writer| writer.try_lock().ok());
        let (Some(mut writer), Some(file)) = (taken, &self.direct) else {
            return writes.iter().try_for_each(|(offset, data)| self.write_at(*offset, data));
        };
        writes.iter().try_for_each(|(offset, data)| self.check(*offset, data.len() as u64))?;
        let copy =
            |data: &[u8]| if Pages::is_aligned(data) { Pages::default() } else { Pages::copy_of(data) };
        let copies: Vec<Pages> = writes.iter().map(|(_, data)| copy(data)).collect();
        let parts = writes.iter().zip(&copies);
        let parts: Vec<(u64, &[u8])> =
            parts.map(|((at, data), copy)| (*at, if copy.is_empty() { *data } else { &**copy })).collect();
        writer.write_all(file, &parts).map_err(|error| self.error("write", &error))
    }

    fn write_each(&self, parts: &mut dyn Iterator<Item = (u64, Pages)>) -> Result<(), DiskError> {
        let taken = self.streamer.as_ref().and_then(|streamer| streamer.try_lock().ok());
        let (Some(mut streamer), Some(file)) = (taken, &self.direct) else {
            for (offset, data) in parts {
                self.write_at(offset, &data)?;
            }
            return Ok(());
        };
        let mut outside = Ok(());
        let mut inside = parts.map_while(|(offset, data)| {
            outside = self.check(offset, data.len() as u64);
            outside.is_ok().then_some((offset, data))
        });
        let written = streamer.write_each(file, &mut inside).map_err(|error| self.error("write", &error));
        outside.and(written)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.plain.sync_data().map_err(|error| self.error("flush", &error))
    }

    fn extend(&self, len: u64) -> Result<(), DiskError> {
        if len <= self.len_bytes() {
            return Ok(());
        }
        let grown = match self.device {
            // Made longer by its owner meanwhile, or not.
            true => Ok(()),
            false => self.plain.set_len(len).and_then(|()| self.plain.sync_all()),
        };
        let found = grown.and_then(|()| length(&self.plain, self.device));
        let found = found.map_err(|error| self.error("make it longer", &error))?;
        self.len.fetch_max(found, Ordering::SeqCst);
        if found >= len {
            return Ok(());
        }
        let text = format!("{} has {found} bytes, {len} are needed: make it longer", self.path.display());
        Err(DiskError::Io(text))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.check(offset, len)?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (offset.cast_signed(), len.cast_signed());
        fallocate(self.plain.as_fd(), flags, offset, len).map_err(|error| self.error("punch", &error.into()))
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let zeros = Pages::zeroed(BOUNCE_PAGES);
        let mut at = offset;
        while at < offset + len {
            let part = (zeros.len() as u64).min(offset + len - at) as usize;
            self.write_at(at, &zeros[..part])?;
            at += part as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
