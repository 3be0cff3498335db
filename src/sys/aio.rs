//! Several writes of one file at once: io_submit(2) and io_getevents(2).
//!
//! Decides nothing about what is written. Invariant: no call returns while the kernel may still read a caller's buffer.
#![allow(unsafe_code, reason = "io_setup, io_submit, io_getevents, io_destroy")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::libc;

use crate::base::Pages;

/// Writes in flight at most; more go in turns.
const DEPTH: usize = 32;
/// Parts of a stream in flight: one is written while the next is made. What else wants the disk waits for these, so
/// they are few: beside a stream with 4 MiB in flight a small write and its flush took 1.6 ms, with 512 KiB 0.2 ms
/// (alone 0.15 ms), and the stream lost a tenth of its 4.2 GB/s.
const STREAM_DEPTH: usize = 2;
const PWRITE: u16 = 1;

/// `struct iocb` of io_submit(2) on a little-endian machine.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Completion {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

const _: () = assert!(size_of::<Request>() == 64 && size_of::<Completion>() == 32);

/// A context of the kernel for writes in flight. One caller at a time.
pub(super) struct Writer {
    context: libc::c_ulong,
}

impl Writer {
    /// `None` where the kernel has none to give; then writes go one after the other.
    pub(super) fn new() -> Option<Writer> {
        if cfg!(target_endian = "big") {
            return None;
        }
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one unsigned long to the address of a live local.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH as libc::c_ulong, &raw mut context) };
        (done == 0).then_some(Writer { context })
    }

    /// Writes all ranges; on an error some may be written and some not.
    pub(super) fn write_all(&mut self, file: &File, writes: &[(u64, &[u8])]) -> io::Result<()> {
        writes.chunks(DEPTH).try_for_each(|part| self.write_part(file, part))
    }

    fn write_part(&mut self, file: &File, writes: &[(u64, &[u8])]) -> io::Result<()> {
        let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
        let mut requests = [Request::default(); DEPTH];
        let mut pointers = [std::ptr::null_mut::<Request>(); DEPTH];
        for (number, (offset, data)) in writes.iter().enumerate() {
            requests[number] = Request {
                data: number as u64,
                opcode: PWRITE,
                fd,
                buffer: data.as_ptr().addr() as u64,
                bytes: data.len() as u64,
                offset: *offset,
                ..Request::default()
            };
            pointers[number] = &raw mut requests[number];
        }
        let count = writes.len() as libc::c_long;
        // SAFETY: `count` pointers to live requests; their buffers are borrowed by `writes` until `gather` has seen
        // every completion, and the kernel only reads them.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.context, count, pointers.as_mut_ptr()) };
        let taken = usize::try_from(taken).unwrap_or(0);
        let done = self.gather(file, writes, taken);
        // Whatever the kernel did not take is written the plain way; so is everything where it takes nothing.
        let rest = writes[taken..].iter().try_for_each(|(offset, data)| file.write_all_at(data, *offset));
        done.and(rest)
    }

    /// Waits for `taken` writes and finishes those that were cut short.
    fn gather(&mut self, file: &File, writes: &[(u64, &[u8])], taken: usize) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut seen = 0;
        while seen < taken {
            let mut events = [Completion::default(); DEPTH];
            let left = (taken - seen) as libc::c_long;
            let no_limit = std::ptr::null_mut::<libc::timespec>();
            // SAFETY: room for `left` <= DEPTH events in a live array; no timeout.
            let got = unsafe {
                libc::syscall(libc::SYS_io_getevents, self.context, left, left, events.as_mut_ptr(), no_limit)
            };
            let Ok(got) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                // Nobody can say any more which buffers are still read: closing the context waits for them.
                self.close();
                return Err(error);
            };
            seen += got;
            for event in &events[..got] {
                let one = finish(file, writes, event);
                outcome = outcome.and(one);
            }
        }
        outcome
    }

    /// Writes parts as they are made, `STREAM_DEPTH` at a time; on an error some may be written and some not.
    pub(super) fn write_each(
        &mut self,
        file: &File,
        parts: &mut dyn Iterator<Item = (u64, Pages)>,
    ) -> io::Result<()> {
        let mut stream = Stream { writer: self, file, parts: VecDeque::with_capacity(STREAM_DEPTH) };
        for (offset, data) in parts {
            if stream.parts.len() == STREAM_DEPTH {
                stream.wait_for_first()?;
            }
            stream.submit(offset, data)?;
        }
        while !stream.parts.is_empty() {
            stream.wait_for_first()?;
        }
        Ok(())
    }

    /// One completion.
    fn next_completion(&mut self) -> io::Result<Completion> {
        let mut event = Completion::default();
        let no_limit = std::ptr::null_mut::<libc::timespec>();
        loop {
            // SAFETY: room for one event in a live local; no timeout.
            let got = unsafe {
                libc::syscall(libc::SYS_io_getevents, self.context, 1, 1, &raw mut event, no_limit)
            };
            if got == 1 {
                return Ok(event);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Waits for everything in flight and gives the context back.
    fn close(&mut self) {
        // SAFETY: no memory is passed; a context that is gone already is an error, not undefined.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

/// A part of a stream; `result` once the kernel is done with it.
struct Part {
    number: u64,
    offset: u64,
    data: Pages,
    result: Option<i64>,
}

/// Parts on their way. Dropped early, it waits until the kernel reads none of their buffers.
struct Stream<'a> {
    writer: &'a mut Writer,
    file: &'a File,
    parts: VecDeque<Part>,
}

impl Stream<'_> {
    fn submit(&mut self, offset: u64, data: Pages) -> io::Result<()> {
        let number = self.parts.back().map_or(0, |part| part.number + 1);
        let mut request = Request {
            data: number,
            opcode: PWRITE,
            fd: u32::try_from(self.file.as_raw_fd()).map_err(io::Error::other)?,
            buffer: data.as_ptr().addr() as u64,
            bytes: data.len() as u64,
            offset,
            ..Request::default()
        };
        let mut pointer = &raw mut request;
        // SAFETY: one pointer to a live request; its buffer is owned by the part that is kept until its completion was
        // seen, and the kernel only reads it. The bytes of `Pages` stay where they are when it is moved.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.writer.context, 1, &raw mut pointer) };
        if taken == 1 {
            self.parts.push_back(Part { number, offset, data, result: None });
            return Ok(());
        }
        // What the kernel does not take is written the plain way.
        self.file.write_all_at(&data, offset)
    }

    /// Waits for the oldest part and finishes it if it was cut short.
    fn wait_for_first(&mut self) -> io::Result<()> {
        while self.parts.front().is_some_and(|part| part.result.is_none()) {
            let event = self.writer.next_completion()?;
            if let Some(part) = self.parts.iter_mut().find(|part| part.number == event.data) {
                part.result = Some(event.result);
            }
        }
        let Some(part) = self.parts.pop_front() else { return Ok(()) };
        let event = Completion { result: part.result.unwrap_or_default(), ..Completion::default() };
        finish(self.file, &[(part.offset, &part.data[..])], &event)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        while self.parts.iter().any(|part| part.result.is_none()) {
            let Ok(event) = self.writer.next_completion() else {
                // Nobody can say any more which buffers are still read: closing the context waits for them.
                return self.writer.close();
            };
            if let Some(part) = self.parts.iter_mut().find(|part| part.number == event.data) {
                part.result = Some(event.result);
            }
        }
    }
}

fn finish(file: &File, writes: &[(u64, &[u8])], event: &Completion) -> io::Result<()> {
    let write = usize::try_from(event.data).ok().and_then(|number| writes.get(number));
    let (offset, data) = write.ok_or_else(|| io::Error::other("a completion of no write"))?;
    if event.result < 0 {
        let code = i32::try_from(-event.result).unwrap_or(libc::EIO);
        return Err(io::Error::from_raw_os_error(code));
    }
    let written = usize::try_from(event.result).unwrap_or(0).min(data.len());
    file.write_all_at(&data[written..], offset + written as u64)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}
