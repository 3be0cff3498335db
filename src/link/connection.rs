//! One authenticated stream of frames.
//!
//! Any thread may send; one frame is one piece on the wire. One thread receives. Who sends first, and how much, is the
//! callers' business. Invariants: a frame's length is checked before anything is allocated for it; after the first
//! failure in a direction every further call fails.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::sys::tcp;

use super::noise::{MESSAGE_BYTES_MAX, PLAIN_BYTES_MAX, Progress, Session, TAG_BYTES};
use super::socket::Timed;
use super::{FRAME_BYTES_MAX, LinkError};

/// Bytes of the length at the head of a frame.
const LENGTH_BYTES: usize = 4;
/// Ciphertext that is handed to the kernel at once: enough to make system calls cheap, little enough that the wire
/// works while the next piece is encrypted.
const WRITE_BYTES: usize = 256 << 10;

/// A stream to the peer, past its handshake.
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    session: Session,
    sender: Mutex<Sender>,
    receiver: Mutex<Receiver>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Sender {
    progress: Progress,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

struct Receiver {
    progress: Progress,
    sealed: Box<[u8]>,
    plain: Box<[u8]>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, session: Session) -> Result<Connection, LinkError> {
        let peer = stream.peer_addr().map_err(LinkError::Io)?;
        let receiver = Receiver {
            progress: Progress::default(),
            sealed: vec![0; MESSAGE_BYTES_MAX].into_boxed_slice(),
            plain: vec![0; MESSAGE_BYTES_MAX].into_boxed_slice(),
        };
        Ok(Connection {
            stream,
            peer,
            session,
            sender: Mutex::default(),
            receiver: Mutex::new(receiver),
            closed: AtomicBool::new(false),
        })
    }

    /// Where the peer's end is.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// How far the peer's kernel follows; `None` once the stream is closed.
    pub fn progress(&self) -> Option<tcp::Progress> {
        (!self.is_closed()).then(|| tcp::progress(&self.stream).ok())?
    }

    /// Sends one frame: the concatenation of `parts`. Blocks while the kernel's buffer is full; frames of several
    /// threads follow one another.
    pub fn send(&self, parts: &[&[u8]]) -> Result<(), LinkError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > FRAME_BYTES_MAX {
            return Err(LinkError::TooLong { len });
        }
        let mut sender = self.sender.lock().map_err(|_| LinkError::Closed)?;
        self.check_open()?;
        let sent = self.send_locked(&mut sender, len, parts);
        if sent.is_err() {
            // A frame may be half on the wire: nothing may follow it.
            self.close();
        }
        sent
    }

    fn send_locked(&self, sender: &mut Sender, len: usize, parts: &[&[u8]]) -> Result<(), LinkError> {
        let Sender { progress, plain, sealed } = sender;
        plain.clear();
        sealed.clear();
        let length = u32::try_from(len).map_err(|_| LinkError::TooLong { len })?;
        plain.extend_from_slice(&length.to_le_bytes());
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(PLAIN_BYTES_MAX - plain.len()));
                plain.extend_from_slice(now);
                rest = later;
                if plain.len() == PLAIN_BYTES_MAX {
                    self.seal_message(progress, plain, sealed)?;
                }
            }
        }
        if !plain.is_empty() {
            self.seal_message(progress, plain, sealed)?;
        }
        self.write(sealed)
    }

    fn seal_message(
        &self,
        progress: &mut Progress,
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<(), LinkError> {
        let len =
            u16::try_from(plain.len() + TAG_BYTES).map_err(|_| LinkError::TooLong { len: plain.len() })?;
        sealed.extend_from_slice(&len.to_be_bytes());
        self.session.seal(progress, plain, sealed)?;
        plain.clear();
        if sealed.len() >= WRITE_BYTES {
            self.write(sealed)?;
            sealed.clear();
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), LinkError> {
        (&self.stream).write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Waits for the next frame and puts it into `out` (whose old content goes; its memory is used again).
    pub fn recv(&self, out: &mut Vec<u8>) -> Result<(), LinkError> {
        self.recv_with(out, FRAME_BYTES_MAX, |bytes| self.read(bytes))
    }

    /// As `recv`, for a frame of at most `max` bytes that must be here at `deadline`; blocking mode afterwards.
    pub(super) fn recv_within(
        &self,
        out: &mut Vec<u8>,
        max: usize,
        deadline: Instant,
    ) -> Result<(), LinkError> {
        let mut timed = Timed { stream: &self.stream, deadline };
        self.recv_with(out, max, |bytes| timed.read_exact(bytes))?;
        timed.release()
    }

    fn recv_with(
        &self,
        out: &mut Vec<u8>,
        max: usize,
        mut read: impl FnMut(&mut [u8]) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        let mut receiver = self.receiver.lock().map_err(|_| LinkError::Closed)?;
        self.check_open()?;
        let received = self.recv_locked(&mut receiver, out, max, &mut read);
        if received.is_err() {
            out.clear();
            self.close();
        }
        received
    }

    fn recv_locked(
        &self,
        receiver: &mut Receiver,
        out: &mut Vec<u8>,
        max: usize,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        out.clear();
        let first = self.recv_message(receiver, read)?;
        let (length, data) =
            receiver.plain[..first].split_first_chunk::<LENGTH_BYTES>().ok_or(LinkError::Forged)?;
        let len = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if len > max {
            return Err(LinkError::TooLong { len });
        }
        if data.len() > len {
            return Err(LinkError::Forged);
        }
        out.reserve(len);
        out.extend_from_slice(data);
        while out.len() < len {
            let count = self.recv_message(receiver, read)?;
            if count == 0 || count > len - out.len() {
                return Err(LinkError::Forged);
            }
            out.extend_from_slice(&receiver.plain[..count]);
        }
        Ok(())
    }

    /// One Noise message into `receiver.plain`; its length.
    fn recv_message(
        &self,
        receiver: &mut Receiver,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), LinkError>,
    ) -> Result<usize, LinkError> {
        let mut length = [0u8; 2];
        read(&mut length)?;
        let len = usize::from(u16::from_be_bytes(length));
        if len < TAG_BYTES {
            return Err(LinkError::Forged);
        }
        let sealed = &mut receiver.sealed[..len];
        read(sealed)?;
        self.session.open(&mut receiver.progress, sealed, &mut receiver.plain)
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), LinkError> {
        (&self.stream).read_exact(bytes).map_err(|error| self.failed(error))
    }

    /// One message whose plaintext is `plain`, whatever it says.
    #[cfg(test)]
    pub(super) fn send_raw_for_tests(&self, plain: &[u8]) {
        let mut sender = self.sender.lock().unwrap();
        let Sender { progress, sealed, .. } = &mut *sender;
        sealed.clear();
        self.seal_message(progress, &mut plain.to_vec(), sealed).unwrap();
        self.write(sealed).unwrap();
    }

    fn failed(&self, error: std::io::Error) -> LinkError {
        match error.kind() {
            _ if self.closed.load(Ordering::Acquire) => LinkError::Closed,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                LinkError::Closed
            }
            _ => LinkError::Io(error),
        }
    }

    fn check_open(&self) -> Result<(), LinkError> {
        if self.closed.load(Ordering::Acquire) { Err(LinkError::Closed) } else { Ok(()) }
    }

    /// Ends the stream in both directions; calls that wait in it return. May be called from anywhere, any number of
    /// times.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Fails only when the peer was first.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Whether this side has ended the stream or seen it fail.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}
