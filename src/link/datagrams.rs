//! Datagrams to the peer over every path at once: heartbeats. Belongs to the control plane's runtime.
//!
//! Does not know what a datagram says and does not check who sent it: its MAC does (`wire`).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use super::LinkError;
use super::paths::Path;

/// Longest datagram that is looked at.
pub const DATAGRAM_BYTES_MAX: usize = 1024;
/// "Expedited": routers and the local queue let heartbeats pass before bulk.
const TRAFFIC_CLASS: u32 = 0xb8;

/// One socket a path.
pub struct Datagrams {
    sockets: Vec<(UdpSocket, SocketAddr)>,
}

impl Datagrams {
    /// Binds the local address of every path. Must be called within a tokio runtime.
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
        Ok(Datagrams { sockets })
    }

    /// Sends `bytes` over every path, without waiting; how many paths took it. A path that cannot is only counted: its
    /// silence is noticed on the other side.
    pub fn send_all(&self, bytes: &[u8]) -> usize {
        (0..self.sockets.len()).filter(|path| self.send(*path, bytes)).count()
    }

    /// Sends `bytes` over one path, without waiting; whether it took them.
    pub fn send(&self, path: usize, bytes: &[u8]) -> bool {
        self.sockets.get(path).is_some_and(|(socket, remote)| {
            // Past the runtime's readiness, which is unknown before the first turn of its loop: the socket does not
            // block, and a full buffer may lose a heartbeat.
            socket2::SockRef::from(socket).send_to(bytes, &(*remote).into()).is_ok()
        })
    }

    /// Waits for a datagram on any path: the number of the path, the sender, the bytes in `buffer`.
    /// Cancelling it loses nothing.
    pub async fn recv<'a>(&self, buffer: &'a mut [u8; DATAGRAM_BYTES_MAX]) -> (usize, SocketAddr, &'a [u8]) {
        let (index, from, len) = poll_fn(|context| {
            for (index, (socket, _)) in self.sockets.iter().enumerate() {
                let mut read = ReadBuf::new(buffer.as_mut_slice());
                // An error here is an earlier datagram's (port unreachable): it is taken off, and the next one looked
                // at.
                while let Poll::Ready(result) = socket.poll_recv_from(context, &mut read) {
                    match result {
                        Ok(from) => return Poll::Ready((index, from, read.filled().len())),
                        Err(_) => read.clear(),
                    }
                }
            }
            Poll::Pending
        })
        .await;
        (index, from, &buffer[..len])
    }

    /// Where path `index` is bound.
    pub fn local_addr(&self, index: usize) -> Option<SocketAddr> {
        self.sockets.get(index).and_then(|(socket, _)| socket.local_addr().ok())
    }
}

fn bind_one(local: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    if local.is_ipv4() {
        // Only a wish: some kernels and containers refuse it.
        let _ = socket2::SockRef::from(&socket).set_tos_v4(TRAFFIC_CLASS);
    }
    UdpSocket::from_std(socket)
}
