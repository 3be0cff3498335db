//! When a datagram arrived: the kernel's own timestamp (SO_TIMESTAMPNS), not the moment at which somebody looked.
//!
//! The stamp is wall time, the only clock that the kernel stamps with; it is turned into an age at once. Invariant: an
//! age may be wrong when wall time was set meanwhile, so nobody decides on it who may serve; it is for measuring.
#![allow(clippy::disallowed_methods, reason = "sockets and their time")]

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// From now on the kernel notes when each datagram of `socket` arrives.
pub fn note(socket: &UdpSocket) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true).map_err(io::Error::from)
}

/// The next datagram, without waiting: its length, and how long ago it arrived.
pub fn recv(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Duration)> {
    let mut space = nix::cmsg_space!(TimeSpec);
    let mut into = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let stamp = message.cmsgs()?.find_map(|said| match said {
        ControlMessageOwned::ScmTimestampns(at) => Some(at),
        _ => None,
    });
    Ok((message.bytes, stamp.map_or(Duration::ZERO, age)))
}

fn age(stamp: TimeSpec) -> Duration {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
    now.saturating_sub(Duration::from(stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_that_waited_says_for_how_long() {
        let (near, far) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        note(&far).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(recv(&far, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // The kernel begins to stamp a moment after the first socket asked for it.
        for attempt in 0.. {
            near.send_to(b"warm", far.local_addr().unwrap()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            if recv(&far, &mut buffer).unwrap().1 >= Duration::from_millis(15) {
                break;
            }
            assert!(attempt < 100, "it stamps nothing");
        }
        near.send_to(b"old", far.local_addr().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        near.send_to(b"new", far.local_addr().unwrap()).unwrap();
        let (len, old) = recv(&far, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"old");
        let (_, new) = recv(&far, &mut buffer).unwrap();
        assert!(old >= Duration::from_millis(190) && old < Duration::from_secs(60), "{old:?}");
        assert!(old - new >= Duration::from_millis(150), "{old:?} and {new:?}");
    }
}
