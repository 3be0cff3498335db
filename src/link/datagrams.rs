//! Datagrams to the peer over every path at once: heartbeats and probes.
//!
//! Does not know what a datagram says and does not check who sent it: its MAC does (`wire`). Any thread posts, one
//! thread turns: it waits for whatever there is to send or to receive. Invariants: no call but `turn` waits; of what
//! one sender posted only the newest is kept, and it leaves once on each path. **Nothing is ever repeated**: a machine
//! that has stopped deciding is silent from its last decision on, however well the thread that sends is scheduled. (A
//! repetition would count as heard where the first one was lost, and a stuck node would look alive.)

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::LinkError;
use super::paths::Path;
use crate::sys::arrival;

/// Longest datagram that is looked at.
pub const DATAGRAM_BYTES_MAX: usize = 1024;
/// "Expedited": routers and the local queue let heartbeats pass before bulk.
const TRAFFIC_CLASS: u32 = 0xb8;

/// One socket a path.
pub struct Datagrams {
    sockets: Vec<(UdpSocket, SocketAddr)>,
    /// What waits to be sent, by who posted it.
    posted: Mutex<Vec<(u128, Vec<u8>)>>,
    wake: EventFd,
}

impl Datagrams {
    /// Binds the local address of every path.
    pub fn bind(paths: &[Path]) -> Result<Datagrams, LinkError> {
        let mut sockets = Vec::new();
        for path in paths {
            let local = path.local.unwrap_or(match path.remote {
                SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], path.remote.port())),
                SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], path.remote.port())),
            });
            let socket = bind_one(local).map_err(|source| LinkError::Bind { address: local, source })?;
            sockets.push((socket, path.remote));
        }
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let wake = wake.map_err(|errno| LinkError::Io(errno.into()))?;
        Ok(Datagrams { sockets, posted: Mutex::default(), wake })
    }

    /// How many paths there are.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Leaves `bytes` to be sent over every path, in the place of what `sender` posted before and was not sent yet.
    pub fn post(&self, sender: u128, bytes: Vec<u8>) {
        {
            let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
            match posted.iter_mut().find(|(other, _)| *other == sender) {
                Some(waiting) => waiting.1 = bytes,
                None => posted.push((sender, bytes)),
            }
        }
        self.wake();
    }

    /// Ends the `turn` that is waiting, or the next one.
    pub fn wake(&self) {
        // Full is as good as written.
        let _ = self.wake.write(1);
    }

    /// Sends `bytes` over one path now, without waiting; whether it took them. A path that cannot is noticed by its
    /// silence on the other side.
    pub fn send(&self, path: usize, bytes: &[u8]) -> bool {
        // The socket does not block, and a full buffer may lose a heartbeat.
        self.sockets.get(path).is_some_and(|(socket, remote)| socket.send_to(bytes, *remote).is_ok())
    }

    /// Waits for something to send or to receive, `patience` at most, and sends what was posted.
    pub fn turn(&self, patience: Duration) {
        let mut polled = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.sockets.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            // No memory, most likely: not in circles.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        let _ = self.wake.read();
        self.send_posted();
    }

    fn send_posted(&self) {
        let posted = std::mem::take(&mut *self.posted.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, bytes) in posted {
            for path in 0..self.sockets.len() {
                self.send(path, &bytes);
            }
        }
    }

    /// The next datagram that came over `path`, without waiting: its length, and how long ago it arrived.
    pub fn recv(&self, path: usize, buffer: &mut [u8; DATAGRAM_BYTES_MAX]) -> Option<(usize, Duration)> {
        let (socket, _) = self.sockets.get(path)?;
        loop {
            match arrival::recv(socket, buffer) {
                Ok(received) => return Some(received),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                // An earlier datagram's (port unreachable): it is taken off, and the next one looked at.
                Err(error) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Where path `index` is bound.
    pub fn local_addr(&self, index: usize) -> Option<SocketAddr> {
        self.sockets.get(index).and_then(|(socket, _)| socket.local_addr().ok())
    }
}

fn bind_one(local: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    // Without stamps a datagram counts from when it is looked at.
    let _ = arrival::note(&socket);
    if local.is_ipv4() {
        // Only a wish: some kernels and containers refuse it.
        let _ = socket2::SockRef::from(&socket).set_tos_v4(TRAFFIC_CLASS);
    }
    Ok(socket)
}
