//! Options of TCP sockets, and reads with one deadline over many calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::LinkError;

/// Room in the kernel for one direction: a few slices of bulk, so that neither side waits for the other's scheduler.
const BUFFER_BYTES: usize = 4 << 20;

/// A listening socket at `address`.
pub(super) fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    buffers(&socket);
    socket.bind(&SockAddr::from(address))?;
    socket.listen(32)?;
    Ok(socket)
}

/// Connects to `remote`, from `local`'s IP if this machine has it.
pub(super) fn dial(
    local: Option<SocketAddr>,
    remote: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    buffers(&socket);
    if let Some(local) = local {
        match socket.bind(&SockAddr::from(SocketAddr::new(local.ip(), 0))) {
            // Behind address translation the configured address is not on this machine.
            Err(error) if error.kind() != ErrorKind::AddrNotAvailable => return Err(error),
            _ => {}
        }
    }
    socket.connect_timeout(&SockAddr::from(remote), timeout)?;
    Ok(socket.into())
}

/// What every stream of data needs: no delay of small frames, and an error instead of silence.
pub(super) fn tune(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let probe = (silence_max / 4).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(3))?;
    socket.set_tcp_user_timeout(Some(silence_max))
}

fn buffers(socket: &Socket) {
    // Must come before connect and listen to have an effect on the window; the kernel's limit may be lower.
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
}

/// A stream whose reads and writes together must be over at one moment, however slowly the bytes drip.
pub(super) struct Timed<'a> {
    pub stream: &'a TcpStream,
    pub deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> Result<Duration, LinkError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) { Err(LinkError::Timeout) } else { Ok(left) }
    }

    pub(super) fn read_exact(&mut self, out: &mut [u8]) -> Result<(), LinkError> {
        let mut done = 0;
        while done < out.len() {
            self.stream.set_read_timeout(Some(self.left()?)).map_err(LinkError::Io)?;
            match (&mut self.stream).read(&mut out[done..]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => done += count,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.stream.set_write_timeout(Some(self.left()?)).map_err(LinkError::Io)?;
        (&mut self.stream).write_all(bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => LinkError::Timeout,
            _ => LinkError::Io(error),
        })
    }

    /// Lifts the time limits: from now on the stream blocks.
    pub(super) fn release(self) -> Result<(), LinkError> {
        let lifted = self.stream.set_read_timeout(None).and_then(|()| self.stream.set_write_timeout(None));
        lifted.map_err(LinkError::Io)
    }
}

/// A read that failed: whether to go round again.
fn retry(error: io::Error) -> Result<(), LinkError> {
    match error.kind() {
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(LinkError::Timeout),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            Err(LinkError::Closed)
        }
        _ => Err(LinkError::Io(error)),
    }
}
