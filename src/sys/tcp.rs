//! What the kernel knows about the progress of a TCP stream (TCP_INFO of tcp(7)).
#![allow(unsafe_code, reason = "getsockopt")]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;

/// How far the other end follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Segments on their way that nobody has acknowledged.
    pub unacked: u32,
    /// Since the newest acknowledgement arrived.
    pub last_ack: Duration,
}

/// Asks the kernel; fails on a socket that is closed.
pub fn progress(stream: &TcpStream) -> io::Result<Progress> {
    // SAFETY: the structure holds numbers only, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes into `info`, which is as large and lives beyond the call.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Progress {
        unacked: info.tcpi_unacked,
        last_ack: Duration::from_millis(u64::from(info.tcpi_last_ack_recv)),
    })
}
