//! The beginning of a stream: hello, Noise handshake, and which volume it is for.
//!
//! Does not know which volumes there are (the caller judges). Invariant: nothing here allocates more than a Noise
//! message, and all of it is over at one deadline.

use std::net::TcpStream;
use std::time::Instant;

use snow::HandshakeState;

use super::connection::Connection;
use super::noise::{Half, MESSAGE_BYTES_MAX, Session, Suite, handshake};
use super::socket::{Timed, tune};
use super::{Identity, LinkError};
use crate::base::NodeId;
use crate::sys::random;

/// Version of everything that two programs say to each other.
pub const PROTOCOL_VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"twinfs\r\n";
const HELLO_BYTES: usize = 32;
/// Longest opening and answer: a name or a reason.
const OPENING_BYTES_MAX: usize = 1024;
/// A side that refuses says why in at most so many bytes.
const REASON_BYTES_MAX: usize = 512;

/// What the dialling side says a stream is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// `config::Config::hash` of the dialling side.
    pub config_hash: [u8; 32],
    /// Tells several streams of one volume apart; the meaning is the caller's.
    pub channel: u8,
    /// Name of the volume.
    pub volume: String,
}

/// The plain first bytes of each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    version: u16,
    suite: u8,
    node: u8,
    cluster_id: u128,
}

impl Hello {
    fn bytes(self) -> [u8; HELLO_BYTES] {
        let mut out = [0u8; HELLO_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[10] = self.suite;
        out[11] = self.node;
        out[16..32].copy_from_slice(&self.cluster_id.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8; HELLO_BYTES]) -> Result<Hello, LinkError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(LinkError::NotTwinfs)?;
        if *magic != MAGIC {
            return Err(LinkError::NotTwinfs);
        }
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(LinkError::NotTwinfs)?;
        let version = u16::from_le_bytes(*version);
        if version != PROTOCOL_VERSION {
            return Err(LinkError::Version { ours: PROTOCOL_VERSION, theirs: version });
        }
        let ([suite, node, reserved @ ..], cluster) =
            rest.split_first_chunk::<6>().ok_or(LinkError::NotTwinfs)?;
        let cluster: [u8; 16] = cluster.try_into().map_err(|_| LinkError::NotTwinfs)?;
        if *reserved != [0; 4] {
            return Err(LinkError::NotTwinfs);
        }
        Ok(Hello { version, suite: *suite, node: *node, cluster_id: u128::from_le_bytes(cluster) })
    }

    fn check(self, identity: &Identity) -> Result<(), LinkError> {
        if self.cluster_id != identity.cluster_id {
            return Err(LinkError::Cluster);
        }
        match NodeId::from_index(self.node) {
            Some(node) if node == identity.node => Err(LinkError::SameNode),
            Some(_) => Ok(()),
            None => Err(LinkError::NotTwinfs),
        }
    }
}

/// Both hellos, in the order of the wire: a changed byte makes the handshake fail.
fn prologue(dialler: Hello, listener: Hello) -> Vec<u8> {
    [b"twinfs stream 1".as_slice(), &dialler.bytes(), &listener.bytes()].concat()
}

/// The dialling side, to its end: the peer has accepted the volume.
pub(super) fn open(
    stream: TcpStream,
    who: &Identity,
    opening: &Opening,
    until: Instant,
) -> Result<Connection, LinkError> {
    let suite = if who.encrypt { Suite::best() } else { Suite::Clear };
    let hello = |suite: u8| Hello {
        version: PROTOCOL_VERSION,
        suite,
        node: who.node.index(),
        cluster_id: who.cluster_id,
    };
    let mine = hello(suite.code());
    let mut timed = Timed { stream: &stream, deadline: until };
    timed.write_all(&mine.bytes())?;
    let theirs = read_hello(&mut timed)?;
    theirs.check(who)?;
    let mut noise = handshake(suite, true, &who.key_out, &prologue(mine, theirs))?;
    let mut message = [0u8; 256];
    let half = half(suite)?;
    let len = noise.write_message(&half, &mut message).map_err(|_| LinkError::Key)?;
    send_short(&mut timed, &message[..len])?;
    let reply = recv_short(&mut timed).map_err(|error| match error {
        // The listening side closes without a word when the key is wrong.
        LinkError::Closed => LinkError::Key,
        other => other,
    })?;
    let len = noise.read_message(&reply, &mut message).map_err(|_| LinkError::Key)?;
    tune(&stream, who.silence_max).map_err(LinkError::Io)?;
    let connection = Connection::new(stream, session(noise, suite, true, &half, &message[..len])?)?;
    connection.send(&[&opening.encode()?])?;
    let mut answer = Vec::new();
    connection.recv_within(&mut answer, OPENING_BYTES_MAX, until)?;
    match answer.split_first() {
        Some((1, [])) => Ok(connection),
        Some((0, reason)) => Err(LinkError::Refused(String::from_utf8_lossy(reason).into_owned())),
        _ => Err(LinkError::NotTwinfs),
    }
}

/// The listening side, to the moment when it knows what the stream is for; the caller answers with `accept` or
/// `refuse`.
pub(super) fn receive(
    stream: TcpStream,
    who: &Identity,
    until: Instant,
) -> Result<(Opening, Connection), LinkError> {
    let mut timed = Timed { stream: &stream, deadline: until };
    let theirs = read_hello(&mut timed);
    let suite = theirs.as_ref().map_or(0, |hello| hello.suite);
    let mine = Hello { version: PROTOCOL_VERSION, suite, node: who.node.index(), cluster_id: who.cluster_id };
    // Also a program of another version is told ours, so that its message can name both.
    if matches!(theirs, Ok(_) | Err(LinkError::Version { .. })) {
        timed.write_all(&mine.bytes())?;
    }
    let theirs = theirs?;
    theirs.check(who)?;
    let suite = Suite::from_code(theirs.suite).ok_or(LinkError::NotTwinfs)?;
    let mut noise = handshake(suite, false, &who.key_in, &prologue(theirs, mine))?;
    let first = recv_short(&mut timed)?;
    let mut message = [0u8; 256];
    let len = noise.read_message(&first, &mut message).map_err(|_| LinkError::Key)?;
    let (theirs, mine) = (message[..len].to_vec(), half(suite)?);
    let len = noise.write_message(&mine, &mut message).map_err(|_| LinkError::Key)?;
    send_short(&mut timed, &message[..len])?;
    tune(&stream, who.silence_max).map_err(LinkError::Io)?;
    let connection = Connection::new(stream, session(noise, suite, false, &mine, &theirs)?)?;
    let mut opening = Vec::new();
    connection.recv_within(&mut opening, OPENING_BYTES_MAX, until)?;
    let opening = Opening::decode(&opening).ok_or(LinkError::NotTwinfs)?;
    if (suite != Suite::Clear) != who.encrypt {
        // Also for a peer whose configuration is never compared with this one.
        refuse(&connection, "one node encrypts and the other does not: make twinfs.toml the same on both");
        return Err(LinkError::Encryption);
    }
    Ok((opening, connection))
}

/// What a side adds to its handshake message: half of the secret, where the keys do not come from the handshake alone.
fn half(suite: Suite) -> Result<Vec<u8>, LinkError> {
    if suite != Suite::Clear {
        return Ok(Vec::new());
    }
    Ok(random::bytes::<32>().to_vec())
}

/// The session behind a finished handshake. `theirs`: what the other side's message carried.
fn session(
    noise: HandshakeState,
    suite: Suite,
    dials: bool,
    mine: &[u8],
    theirs: &[u8],
) -> Result<Session, LinkError> {
    if suite != Suite::Clear {
        return Session::new(noise);
    }
    let (dialler, listener) = if dials { (mine, theirs) } else { (theirs, mine) };
    let half = |bytes: &[u8]| <Half>::try_from(bytes).map_err(|_| LinkError::NotTwinfs);
    Ok(Session::clear(&noise, dials, &half(dialler)?, &half(listener)?))
}

/// The answer to an opening: yes.
pub(super) fn accept(connection: &Connection) -> Result<(), LinkError> {
    connection.send(&[&[1]])
}

/// The answer to an opening: no, because.
pub(super) fn refuse(connection: &Connection, reason: &str) {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    // The stream is closed next; whether the reason arrived does not matter to this side.
    let _ = connection.send(&[&[0], &reason.as_bytes()[..end]]);
}

impl Opening {
    pub(super) fn encode(&self) -> Result<Vec<u8>, LinkError> {
        let len =
            u8::try_from(self.volume.len()).map_err(|_| LinkError::TooLong { len: self.volume.len() })?;
        Ok([self.config_hash.as_slice(), &[self.channel, len], self.volume.as_bytes()].concat())
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Opening> {
        let (config_hash, rest) = bytes.split_first_chunk::<32>()?;
        let ([channel, len], name) = rest.split_first_chunk::<2>()?;
        let volume = std::str::from_utf8(name).ok()?;
        (name.len() == usize::from(*len)).then(|| Opening {
            config_hash: *config_hash,
            channel: *channel,
            volume: volume.to_string(),
        })
    }
}

fn read_hello(timed: &mut Timed<'_>) -> Result<Hello, LinkError> {
    let mut bytes = [0u8; HELLO_BYTES];
    timed.read_exact(&mut bytes)?;
    Hello::parse(&bytes)
}

fn send_short(timed: &mut Timed<'_>, message: &[u8]) -> Result<(), LinkError> {
    let len = u16::try_from(message.len()).map_err(|_| LinkError::TooLong { len: message.len() })?;
    timed.write_all(&[&len.to_be_bytes(), message].concat())
}

/// A handshake message: at most 256 bytes, although its length could say up to 65,535.
fn recv_short(timed: &mut Timed<'_>) -> Result<Vec<u8>, LinkError> {
    const _: () = assert!(256 <= MESSAGE_BYTES_MAX);
    let mut len = [0u8; 2];
    timed.read_exact(&mut len)?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > 256 {
        return Err(LinkError::TooLong { len });
    }
    let mut message = vec![0u8; len];
    timed.read_exact(&mut message)?;
    Ok(message)
}
