//! Datagrams to the peer over every path and serial line at once: heartbeats and probes.
//!
//! Does not know what a datagram says and does not check who sent it: its MAC does (`wire`). Any thread posts, one
//! thread turns: it waits for whatever there is to send or to receive. Invariants: no call but `turn` waits; of what
//! one sender posted only the newest is kept, and it leaves once on each path, and on a serial line if it fits there
//! soon. **Nothing is ever repeated**: a machine that has stopped deciding is silent from its last decision on, however
//! well the thread that sends is scheduled. (A repetition would count as heard where the first one was lost, and a
//! stuck node would look alive.)

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::LinkError;
use super::paths::Path;
use super::serial::{self, Line};
use crate::base::{SerialLine, Span};
use crate::sys::{arrival, clock};

/// Longest datagram that is looked at.
pub const DATAGRAM_BYTES_MAX: usize = 1024;
/// "Expedited": routers and the local queue let heartbeats pass before bulk.
const TRAFFIC_CLASS: u32 = 0xb8;

/// Whose word a datagram is: a newer one takes the place of what was not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A heartbeat of this volume.
    Volume(u128),
    Question,
    Answer,
}

/// A datagram that came.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Zero: what came over a line and was no datagram.
    pub len: usize,
    /// How long ago it arrived.
    pub age: Duration,
    /// The number that a serial line gave the heartbeat.
    pub number: Option<u16>,
}

impl Received {
    pub(super) fn from_line(len: usize, number: Option<u16>) -> Received {
        Received { len, age: Duration::ZERO, number }
    }
}

/// One socket a path, and the serial lines, whose numbers follow those of the paths.
pub struct Datagrams {
    sockets: Vec<(UdpSocket, SocketAddr)>,
    lines: Vec<Arc<Line>>,
    /// What waits to be sent, by who posted it.
    posted: Mutex<Vec<(Sender, Vec<u8>)>>,
    wake: Arc<EventFd>,
    /// Whoever opens the lines stops when it is gone.
    _open: mpsc::Sender<()>,
}

impl Datagrams {
    /// Binds the local address of every path, and opens the lines as soon as they are there. What waits for a line
    /// longer than the span beside it is not sent.
    pub fn bind(paths: &[Path], lines: &[(SerialLine, Span)]) -> Result<Datagrams, LinkError> {
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
        let wake = Arc::new(wake.map_err(|errno| LinkError::Io(errno.into()))?);
        let lines: Vec<_> = lines.iter().map(|(line, hold)| Arc::new(Line::new(line, *hold))).collect();
        let (open, ended) = mpsc::channel();
        if !lines.is_empty() {
            let (lines, wake) = (lines.clone(), Arc::clone(&wake));
            let thread = std::thread::Builder::new().name("twinfs-serial".to_string());
            let tell = move || {
                let _ = wake.write(1);
            };
            thread.spawn(move || serial::keep_open(&lines, &ended, tell)).map_err(LinkError::Io)?;
        }
        Ok(Datagrams { sockets, lines, posted: Mutex::default(), wake, _open: open })
    }

    /// How many paths and lines there are.
    pub fn count(&self) -> usize {
        self.sockets.len() + self.lines.len()
    }

    fn line(&self, path: usize) -> Option<&Line> {
        self.lines.get(path.checked_sub(self.sockets.len())?).map(Arc::as_ref)
    }

    /// Why a serial line cannot be used.
    pub fn trouble(&self, path: usize) -> Option<String> {
        self.line(path)?.trouble()
    }

    /// Leaves `bytes` to be sent over every path, in the place of what `sender` posted before and was not sent yet.
    pub fn post(&self, sender: Sender, bytes: Vec<u8>) {
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

    /// Sends `bytes` over one path without waiting: now, or over a line when it is free. A path that cannot is noticed
    /// by its silence on the other side.
    pub fn send(&self, path: usize, sender: Sender, bytes: &[u8]) {
        if let Some((socket, remote)) = self.sockets.get(path) {
            // The socket does not block, and a full buffer may lose a heartbeat.
            let _ = socket.send_to(bytes, *remote);
        } else if let Some(line) = self.line(path) {
            line.post(clock::now(), sender, bytes);
            self.wake();
        }
    }

    /// Waits for something to send or to receive, `patience` at most, and sends what was posted.
    pub fn turn(&self, patience: Duration) {
        let now = clock::now();
        let due = self.lines.iter().filter_map(|line| line.flush(now)).min();
        let due = due.map_or(patience, |due| due.since(now).as_duration().max(Duration::from_millis(1)));
        let ports: Vec<_> = self.lines.iter().filter_map(|line| line.port()).collect();
        let mut polled = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.sockets.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        polled.extend(ports.iter().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN)));
        let patience = PollTimeout::try_from(patience.min(due)).unwrap_or(PollTimeout::MAX);
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
        let now = clock::now();
        for (sender, bytes) in posted {
            for (socket, remote) in &self.sockets {
                let _ = socket.send_to(&bytes, *remote);
            }
            self.lines.iter().for_each(|line| line.post(now, sender, &bytes));
        }
        for line in &self.lines {
            line.flush(now);
        }
    }

    /// The next datagram that came over `path`, without waiting.
    pub fn recv(&self, path: usize, buffer: &mut [u8; DATAGRAM_BYTES_MAX]) -> Option<Received> {
        let Some((socket, _)) = self.sockets.get(path) else { return self.line(path)?.recv(buffer) };
        loop {
            match arrival::recv(socket, buffer) {
                Ok((len, age)) => return Some(Received { len, age, number: None }),
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
