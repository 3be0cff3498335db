//! Accepts streams on every address of this node. A stranger costs one of few slots for a bounded time.
//!
//! Does not know the volumes: the caller judges each opening. Invariant: at most `SLOTS_PEER + SLOTS_STRANGER`
//! handshakes are under way, and the peer's addresses keep slots that no stranger can take.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::connection::Connection;
use super::handshake::{self, Opening};
use super::{Identity, LinkError, socket};

/// Handshakes under way from the peer's addresses.
const SLOTS_PEER: usize = 8;
/// Handshakes under way from anywhere else.
const SLOTS_STRANGER: usize = 4;
/// For a whole handshake, from accept to the opening frame.
const HANDSHAKE_TIME: Duration = Duration::from_secs(4);
/// How soon a stopped listener notices.
const STOP_POLL: Duration = Duration::from_millis(200);

/// Says whether this node wants the stream; the reason of a refusal is shown on the peer.
pub type Judge = dyn Fn(&Opening) -> Result<(), String> + Send + Sync;
/// Takes an accepted stream. Runs on a thread of its own: it may block.
pub type Deliver = dyn Fn(Opening, Connection) + Send + Sync;

/// Listening sockets and their threads; dropping it stops them.
pub struct Listener {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    identity: Identity,
    peers: Vec<IpAddr>,
    judge: Box<Judge>,
    deliver: Box<Deliver>,
    stop: AtomicBool,
    peer_slots: AtomicUsize,
    stranger_slots: AtomicUsize,
    refused: AtomicUsize,
}

impl Listener {
    /// Listens on all `addresses`; `peers` are the IP addresses of the peer.
    pub fn bind(
        addresses: &[SocketAddr],
        peers: Vec<IpAddr>,
        identity: Identity,
        judge: Box<Judge>,
        deliver: Box<Deliver>,
    ) -> Result<Listener, LinkError> {
        let shared = Arc::new(Shared {
            identity,
            peers,
            judge,
            deliver,
            stop: AtomicBool::new(false),
            peer_slots: AtomicUsize::new(SLOTS_PEER),
            stranger_slots: AtomicUsize::new(SLOTS_STRANGER),
            refused: AtomicUsize::new(0),
        });
        let mut listener = Listener { addresses: Vec::new(), shared, threads: Vec::new() };
        for address in addresses {
            let fail = |source| LinkError::Bind { address: *address, source };
            let socket = socket::listen(*address).map_err(fail)?;
            // A listening socket's read timeout limits accept: no second descriptor is needed to stop it.
            socket.set_read_timeout(Some(STOP_POLL)).map_err(fail)?;
            let bound = socket.local_addr().map_err(fail)?;
            listener.addresses.extend(bound.as_socket());
            let shared = Arc::clone(&listener.shared);
            let thread = thread::Builder::new().name("link-accept".to_string());
            listener.threads.push(thread.spawn(move || accept_loop(&socket, &shared)).map_err(fail)?);
        }
        Ok(listener)
    }

    /// Where it listens (with the real ports, if one was asked for as 0).
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Sessions that ended before they were authentic, since the start: garbage, wrong keys, time-outs, no slot.
    pub fn refused_count(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn accept_loop(socket: &Socket, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Acquire) {
        let (stream, from) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => {
                // Out of descriptors, or the connection is gone already: neither is worth a busy loop.
                thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let known = from.as_socket().is_some_and(|from| shared.peers.contains(&from.ip()));
        let Some(slot) = Slot::take(shared, known) else {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let named = thread::Builder::new().name("link-open".to_string());
        // Without a thread the stream is dropped here, and with it the slot.
        let _ = named.spawn(move || serve(stream.into(), slot));
    }
}

fn serve(stream: TcpStream, slot: Slot) {
    let shared = Arc::clone(&slot.shared);
    match handshake::receive(stream, &shared.identity, Instant::now() + HANDSHAKE_TIME) {
        Err(_) => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok((opening, connection)) => {
            drop(slot);
            match (shared.judge)(&opening) {
                Err(reason) => handshake::refuse(&connection, &reason),
                Ok(()) if handshake::accept(&connection).is_ok() => (shared.deliver)(opening, connection),
                Ok(()) => {}
            }
        }
    }
}

/// One handshake's share of the limit; given back when dropped.
struct Slot {
    shared: Arc<Shared>,
    known: bool,
}

impl Slot {
    fn take(shared: &Arc<Shared>, known: bool) -> Option<Slot> {
        let counter = if known { &shared.peer_slots } else { &shared.stranger_slots };
        let taken = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(1));
        taken.ok().map(|_| Slot { shared: Arc::clone(shared), known })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let counter = if self.known { &self.shared.peer_slots } else { &self.shared.stranger_slots };
        counter.fetch_add(1, Ordering::AcqRel);
    }
}
