//! Handing open descriptors to a program that takes this process over: execve(2), memfd, dup3(2), and threads that
//! are woken out of a read.
//!
//! Decides nothing about mounts. Invariants: a descriptor that is adopted was checked to be what it is said to be; what
//! is not named in `become_program` does not reach the next program.
#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "a shell: system calls on descriptors and threads"
)]

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

/// /dev/fuse.
const FUSE_DEVICE: (u64, u64) = (10, 229);
/// Ends a read(2) of a thread, and nothing else: ignored by default, so that one too many does no harm.
const POKE: Signal = Signal::SIGURG;
/// Held back while one program becomes another: whoever sends one means the service, not the moment.
const HELD_BACK: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
/// Bit n: signal n was noted.
static NOTED: AtomicU64 = AtomicU64::new(0);

/// An anonymous file with these bytes that nobody can change any more.
pub fn sealed_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("twinfs-handover", flags)?);
    file.write_all(bytes)?;
    file.rewind()?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Takes descriptor `number`, which this process was started with; from now on it is closed at the next exec. Once
/// for each number.
pub fn adopt(number: u32) -> io::Result<OwnedFd> {
    let raw = i32::try_from(number).ok().filter(|raw| *raw > 2).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: only borrowed to ask whether it is open; a closed one is an error of the call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        // Opened by this program: somebody else's.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open and was not opened by this program, and the flag just set keeps it from being adopted twice.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What `sealed_file` holds; at most `max` bytes.
pub fn read_sealed(file: OwnedFd, max: usize) -> io::Result<Vec<u8>> {
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS)?;
    if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_WRITE) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (mut file, mut bytes) = (File::from(file), Vec::new());
    file.rewind()?;
    let limit = u64::try_from(max).unwrap_or(u64::MAX);
    (&mut file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Whether this is /dev/fuse.
pub fn is_fuse_device(device: &OwnedFd) -> bool {
    let Ok(meta) = device.try_clone().map(File::from).and_then(|file| file.metadata()) else { return false };
    let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    meta.file_type().is_char_device() && (major, minor) == FUSE_DEVICE
}

/// Two ends between which whole messages go.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message.
pub fn send_message(end: &OwnedFd, message: &[u8]) -> io::Result<()> {
    send(end.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// The next message if there is one.
pub fn next_message(end: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; 64 << 10];
    match recv(end.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(Errno::EAGAIN) => Ok(None),
        Ok(len) => {
            bytes.truncate(len);
            Ok(Some(bytes))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads one request of the kernel; waits for it.
pub fn read_request(device: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        match nix::unistd::read(device, &mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                return Ok(bytes);
            }
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes one answer to the kernel.
pub fn write_answer(device: &OwnedFd, answer: &[u8]) -> io::Result<()> {
    nix::sys::uio::writev(device, &[IoSlice::new(answer)])?;
    Ok(())
}

/// From now on the number of `place` stands for what `source` stands for. Whoever is in a call with the old one ends
/// that call with it.
pub fn put_in_place(source: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open for the call, and the number of `place` stays open, so that its owner still closes it once.
    let done = unsafe { libc::dup3(source.as_raw_fd(), place.as_raw_fd(), OFlag::O_CLOEXEC.bits()) };
    Errno::result(done)?;
    Ok(())
}

/// A descriptor that something else owns and keeps open for as long as this lives.
#[derive(Clone, Copy, Debug)]
pub struct Place(RawFd);

impl Place {
    /// Whoever calls keeps `owner` open until no `put` can follow.
    pub fn of(owner: BorrowedFd<'_>) -> Place {
        Place(owner.as_raw_fd())
    }

    /// As `put_in_place`; an error if the owner has closed it after all.
    pub fn put(self, source: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: only borrowed to ask whether it is open.
        let place = unsafe { BorrowedFd::borrow_raw(self.0) };
        fcntl(place, FcntlArg::F_GETFD)?;
        put_in_place(source, place)
    }
}

/// Ends the calls in which threads whose names begin with `prefix` wait: they get EINTR.
pub fn poke_threads(prefix: &str) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any moment.
        if let Err(error) = unsafe { sigaction(POKE, &action) } {
            tracing::error!("no handler for {POKE}: {error}");
        }
    });
    let process = nix::unistd::getpid().as_raw();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        // A thread may end meanwhile.
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let thread = entry.file_name().to_str().and_then(|n| n.parse::<libc::pid_t>().ok());
        if let Some(thread) = thread.filter(|_| name.starts_with(prefix)) {
            // SAFETY: three numbers; a thread that is gone is an error of the call.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, POKE as libc::c_int) };
        }
    }
    Ok(())
}

/// This process becomes `program`, which gets `args` (the first is its own name) and these descriptors under the
/// numbers that they have now. Comes back only with the reason why not.
pub fn become_program(program: &Path, args: Vec<OsString>, keep: &[u32]) -> io::Error {
    let prepared = || -> io::Result<(CString, Vec<CString>)> {
        let text = |word: OsString| CString::new(word.into_vec()).map_err(io::Error::other);
        let args = args.into_iter().map(text).collect::<io::Result<_>>()?;
        let program = text(program.as_os_str().to_os_string())?;
        SigSet::from_iter(HELD_BACK).thread_block()?;
        for number in keep {
            let raw = i32::try_from(*number).map_err(io::Error::other)?;
            // SAFETY: only borrowed for a flag; a closed one is an error of the call.
            fcntl(unsafe { BorrowedFd::borrow_raw(raw) }, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok((program, args))
    };
    match prepared() {
        Ok((program, args)) => match nix::unistd::execv(&program, &args) {
            Err(error) => error.into(),
            Ok(never) => match never {},
        },
        Err(error) => error,
    }
}

/// The signals that a predecessor held back arrive from now on, and do nothing but to be noted, until somebody handles
/// them. To be called while this is the only thread: others, and other programs, must not find them blocked.
pub fn note_signals() -> io::Result<()> {
    extern "C" fn note(signal: libc::c_int) {
        NOTED.fetch_or(1 << signal, Ordering::SeqCst);
    }
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in HELD_BACK {
        // SAFETY: the handler changes one atomic, which is safe at any moment.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(SigSet::from_iter(HELD_BACK).thread_unblock()?)
}

/// Whether one came that ends a service.
pub fn noted_an_end() -> bool {
    let ends = [Signal::SIGTERM, Signal::SIGINT].map(|signal| 1 << signal as i32).iter().sum::<u64>();
    NOTED.load(Ordering::SeqCst) & ends != 0
}

/// The number of a descriptor, for the next program.
pub fn number(descriptor: &impl AsRawFd) -> u32 {
    u32::try_from(descriptor.as_raw_fd()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_read_and_what_was_not_is_refused() {
        let file = sealed_file(b"state").unwrap();
        assert!(nix::unistd::write(&file, b"x").is_err());
        assert_eq!(read_sealed(file.try_clone().unwrap(), 5).unwrap(), b"state");
        assert!(read_sealed(file, 4).is_err());
        let open = memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(read_sealed(open, 100).is_err());
    }

    #[test]
    fn a_descriptor_is_adopted_once_and_only_if_it_was_left_for_that() {
        let file = sealed_file(b"x").unwrap();
        assert!(adopt(number(&file)).is_err(), "opened by this program");
        assert!(adopt(1 << 20).is_err() && adopt(1).is_err() && adopt(u32::MAX).is_err());
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let raw = number(&file);
        std::mem::forget(file);
        let adopted = adopt(raw).unwrap();
        assert!(adopt(raw).is_err());
        assert!(!is_fuse_device(&adopted));
    }

    #[test]
    fn a_reader_is_woken_onto_what_was_put_in_place() {
        let (here, there) = message_pair().unwrap();
        let (other, far) = message_pair().unwrap();
        let place = here.as_raw_fd();
        let reader = std::thread::Builder::new().name("poked-0".to_string()).spawn(move || {
            let mut bytes = [0; 8];
            loop {
                match nix::unistd::read(&here, &mut bytes) {
                    Ok(len) => return (len, bytes[0]),
                    Err(error) => assert_eq!(error, Errno::EINTR),
                }
            }
        });
        let reader = reader.unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        send_message(&far, &[7; 3]).unwrap();
        // SAFETY: the reader owns it until it is joined.
        put_in_place(std::os::fd::AsFd::as_fd(&other), unsafe { BorrowedFd::borrow_raw(place) }).unwrap();
        while !reader.is_finished() {
            poke_threads("poked-").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(reader.join().unwrap(), (3, 7));
        drop(there);
    }
}
