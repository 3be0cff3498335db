//! Serial devices: opened for this program alone, raw, at one speed, without modem control; nothing here waits.
//!
//! Decides nothing about what goes over a line. Invariants: what is opened is a terminal at the speed that was asked
//! for, or it is an error that says why not; an end that hung up is an error, never an empty read; what was not sent
//! when a port is closed is thrown away, so that closing does not wait for a line that takes nothing.
#![allow(unsafe_code, clippy::disallowed_methods, reason = "a shell: ioctl, opens devices")]

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::termios::{
    BaudRate, ControlFlags, FlushArg, SetArg, SpecialCharacterIndices, cfgetospeed, cfmakeraw, cfsetspeed,
    tcflush, tcgetattr, tcsetattr,
};

nix::ioctl_none_bad!(exclusive, libc::TIOCEXCL);
nix::ioctl_read_bad!(output_waiting, libc::TIOCOUTQ, libc::c_int);

const NO_TERMINAL: &str = "it is no terminal (tty), so no serial line";

/// An open serial device.
pub struct Port {
    file: Flock<File>,
}

impl Port {
    /// Opens `device` at `baud` bits a second and forgets what had arrived on it.
    pub fn open(device: &Path, baud: u32) -> io::Result<Port> {
        let speed =
            speed(baud).ok_or_else(|| io::Error::other(format!("no speed of {baud} baud is known")))?;
        let file = open_terminal(device)?;
        // Whatever respects one of them stays away; an administrator's program may not.
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EAGAIN => io::Error::other("another program uses it"),
            errno => errno.into(),
        })?;
        // SAFETY: takes no argument.
        unsafe { exclusive(file.as_raw_fd()) }?;
        let mut settings = tcgetattr(&*file)?;
        cfmakeraw(&mut settings);
        let off = ControlFlags::PARENB | ControlFlags::CSTOPB | ControlFlags::CRTSCTS | ControlFlags::HUPCL;
        settings.control_flags.remove(off | ControlFlags::CSIZE);
        settings.control_flags.insert(ControlFlags::CS8 | ControlFlags::CREAD | ControlFlags::CLOCAL);
        settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        cfsetspeed(&mut settings, speed)?;
        tcsetattr(&*file, SetArg::TCSANOW, &settings)?;
        // The call succeeds if any one of the wishes was granted.
        if cfgetospeed(&tcgetattr(&*file)?) != speed {
            return Err(io::Error::other(format!("it cannot be set to {baud} baud")));
        }
        tcflush(&*file, FlushArg::TCIOFLUSH)?;
        Ok(Port { file })
    }

    /// What has arrived; `WouldBlock`: nothing.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&*self.file).read(buffer)? {
            0 if !buffer.is_empty() => Err(io::Error::other("it hung up")),
            count => Ok(count),
        }
    }

    /// Hands bytes to the device, as many as it takes now; `WouldBlock`: none.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.file).write(bytes)
    }

    /// Bytes that the device has and has not sent.
    pub fn unsent(&self) -> usize {
        let mut count: libc::c_int = 0;
        // SAFETY: the kernel writes one int, which lives beyond the call.
        let done = unsafe { output_waiting(self.file.as_raw_fd(), &raw mut count) };
        done.ok().and_then(|_| usize::try_from(count).ok()).unwrap_or(0)
    }

    /// Throws away what was not sent.
    pub fn discard(&self) {
        // A device that is gone has nothing to throw away.
        let _ = tcflush(&*self.file, FlushArg::TCOFLUSH);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.discard();
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether `device` could be one end of a line; `InvalidInput`: it never will. Changes nothing about it.
pub fn check(device: &Path) -> io::Result<()> {
    open_terminal(device).map(drop)
}

fn open_terminal(device: &Path) -> io::Result<File> {
    // Without waiting for a carrier, and without becoming the terminal that sends signals to this process.
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let opened = File::options().read(true).write(true).custom_flags(flags).open(device);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => io::Error::other("another program uses it"),
        // The driver offers more devices than there are.
        Some(libc::EIO | libc::ENXIO) => {
            io::Error::new(ErrorKind::NotFound, "there is no such port on this machine")
        }
        _ => error,
    })?;
    if file.is_terminal() { Ok(file) } else { Err(io::Error::new(ErrorKind::InvalidInput, NO_TERMINAL)) }
}

fn speed(baud: u32) -> Option<BaudRate> {
    Some(match baud {
        9_600 => BaudRate::B9600,
        19_200 => BaudRate::B19200,
        38_400 => BaudRate::B38400,
        57_600 => BaudRate::B57600,
        115_200 => BaudRate::B115200,
        230_400 => BaudRate::B230400,
        460_800 => BaudRate::B460800,
        500_000 => BaudRate::B500000,
        576_000 => BaudRate::B576000,
        921_600 => BaudRate::B921600,
        1_000_000 => BaudRate::B1000000,
        1_152_000 => BaudRate::B1152000,
        1_500_000 => BaudRate::B1500000,
        2_000_000 => BaudRate::B2000000,
        2_500_000 => BaudRate::B2500000,
        3_000_000 => BaudRate::B3000000,
        3_500_000 => BaudRate::B3500000,
        4_000_000 => BaudRate::B4000000,
        _ => return None,
    })
}

/// A pair of devices that behave like the two ends of this port's cable, for tests: what one writes the other reads.
#[cfg(test)]
pub mod tests {
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;

    use nix::fcntl::OFlag;
    use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};

    use super::*;
    use crate::base::SerialLine;

    /// The far end of a line, without any setting, and the device that a program opens.
    pub fn pty() -> (File, PathBuf) {
        // A program that another test starts would keep it open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let master: PtyMaster = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let device = ptsname_r(&master).unwrap().into();
        (File::from(OwnedFd::from(master)), device)
    }

    #[test]
    fn every_known_speed_can_be_set_and_bytes_pass_unchanged() {
        for baud in SerialLine::BAUDS {
            let (mut far, device) = pty();
            let port = Port::open(&device, *baud).unwrap();
            let all: Vec<u8> = (0..=255).collect();
            assert_eq!(port.write(&all).unwrap(), 256);
            let mut got = [0; 512];
            assert_eq!(far.read(&mut got).unwrap(), 256, "{baud}");
            assert_eq!(got[..256], all);
            far.write_all(&all).unwrap();
            let mut got = [0; 512];
            let mut len = 0;
            while len < 256 {
                match port.read(&mut got[len..]) {
                    Ok(count) => len += count,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            assert_eq!(got[..256], all);
        }
    }

    #[test]
    fn what_is_no_free_line_is_an_error_that_says_why() {
        let why = |device: &Path| Port::open(device, 9_600).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why(Path::new("/dev/null")).contains("no terminal"), "{}", why(Path::new("/dev/null")));
        assert!(why(Path::new("/dev/there/is/none")).contains("No such file"));
        let (far, device) = pty();
        check(&device).unwrap();
        let port = Port::open(&device, 9_600).unwrap();
        assert!(why(&device).contains("another program uses it"), "{}", why(&device));
        assert_eq!(
            port.read(&mut [0; 8]).unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "nothing is no hang-up"
        );
        drop(far);
        let error = port.read(&mut [0; 8]).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "{error}");
        assert!(port.write(b"x").is_err());
    }
}
