//! Whether any of some machines answers an ICMP echo.
//!
//! Does not know why it matters. Invariant: an answer counts only with the number of a request of this process.
#![allow(clippy::disallowed_methods, reason = "a shell: sockets and the clock")]

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

const ECHO_V4: [u8; 2] = [8, 0];
const ECHO_V6: [u8; 2] = [128, 129];
/// Between two looks at one socket while the other may have something.
const SLICE: Duration = Duration::from_millis(20);

/// Raw sockets, one for each IP version that is wanted.
pub struct Pinger {
    targets: Vec<IpAddr>,
    v4: Option<Socket>,
    v6: Option<Socket>,
    id: u16,
    seq: u16,
}

impl Pinger {
    /// Needs the right to open raw sockets.
    pub fn new(targets: &[IpAddr]) -> std::io::Result<Pinger> {
        let open = |wanted: bool, domain, protocol| -> std::io::Result<Option<Socket>> {
            if !wanted {
                return Ok(None);
            }
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            socket.set_read_timeout(Some(SLICE))?;
            Ok(Some(socket))
        };
        let v4 = open(targets.iter().any(IpAddr::is_ipv4), Domain::IPV4, Protocol::ICMPV4)?;
        let v6 = open(targets.iter().any(IpAddr::is_ipv6), Domain::IPV6, Protocol::ICMPV6)?;
        let [low, high, ..] = std::process::id().to_le_bytes();
        Ok(Pinger { targets: targets.to_vec(), v4, v6, id: u16::from_le_bytes([low, high]), seq: 0 })
    }

    /// Asks all of them; whether one answers within `wait`. Blocks until then.
    pub fn any(&mut self, wait: Duration) -> bool {
        self.seq = self.seq.wrapping_add(1);
        for target in &self.targets {
            let (socket, kind) = match target {
                IpAddr::V4(_) => (&self.v4, ECHO_V4[0]),
                IpAddr::V6(_) => (&self.v6, ECHO_V6[0]),
            };
            if let Some(socket) = socket {
                // No route: as good as no answer.
                let _ =
                    socket.send_to(&request(kind, self.id, self.seq), &SocketAddr::new(*target, 0).into());
            }
        }
        let end = Instant::now() + wait;
        while Instant::now() < end {
            if self.heard(&self.v4, ECHO_V4[1]) || self.heard(&self.v6, ECHO_V6[1]) {
                return true;
            }
        }
        false
    }

    fn heard(&self, socket: &Option<Socket>, kind: u8) -> bool {
        let Some(mut socket) = socket.as_ref() else { return false };
        let mut buffer = [0_u8; 256];
        let Ok(len) = socket.read(&mut buffer) else { return false };
        let packet = &buffer[..len];
        // IPv4 comes with its header, IPv6 without.
        let skip = if kind == ECHO_V4[1] { packet.first().map_or(0, |b| usize::from(b & 15) * 4) } else { 0 };
        let Some([found, _, _, _, i0, i1, s0, s1]) = packet.get(skip..skip + 8) else { return false };
        let number = (u16::from_be_bytes([*i0, *i1]), u16::from_be_bytes([*s0, *s1]));
        *found == kind && number == (self.id, self.seq)
    }
}

/// An echo request with its checksum (which the kernel overwrites for IPv6).
fn request(kind: u8, id: u16, seq: u16) -> [u8; 16] {
    let mut bytes = [0_u8; 16];
    bytes[0] = kind;
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes[6..8].copy_from_slice(&seq.to_be_bytes());
    bytes[8..].copy_from_slice(b"twinfs\0\0");
    let mut sum: u32 = bytes.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    bytes[2..4].copy_from_slice(&(!u16::try_from(sum).unwrap_or(0)).to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_the_checksum_of_the_protocol() {
        let bytes = request(8, 0x1234, 7);
        let sum: u32 = bytes.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn this_machine_answers_and_nobody_else_counts() {
        let here: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap()];
        let Ok(mut pinger) = Pinger::new(&here) else { return };
        assert!(pinger.any(Duration::from_secs(2)));
        // An address of this machine's that nothing routes to.
        let nowhere: Vec<IpAddr> = vec!["240.0.0.1".parse().unwrap()];
        let mut pinger = Pinger::new(&nowhere).unwrap();
        assert!(!pinger.any(Duration::from_millis(300)));
    }
}
