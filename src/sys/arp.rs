//! Announcements of an address that moved, as Ethernet frames: gratuitous ARP and unsolicited neighbour advertisement.
//!
//! Decides only the bytes. Does not know why the address moved.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Ethernet address of ff02::1, all nodes.
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Sends the announcement of `ip` out of `link`.
pub(super) fn announce(ip: IpAddr, link: &LinkAddr) -> io::Result<()> {
    let mac = link.addr().unwrap_or_default();
    // Neighbours differ in whether they believe a request or a reply: both are sent.
    let frames = match ip {
        IpAddr::V4(ip) => vec![arp_frame(ip, mac, 1), arp_frame(ip, mac, 2)],
        IpAddr::V6(ip) => vec![advertisement_frame(ip, mac)],
    };
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    for frame in frames {
        sendto(raw.as_raw_fd(), &frame, link, MsgFlags::empty())?;
    }
    Ok(())
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    [to.as_slice(), &from, &kind.to_be_bytes()].concat()
}

/// "`ip` is at `mac`", asked (operation 1) or told (2).
fn arp_frame(ip: Ipv4Addr, mac: [u8; 6], operation: u8) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, 0x0806);
    // Ethernet, IPv4, lengths 6 and 4, operation.
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ip.octets());
    frame.extend_from_slice(&BROADCAST);
    frame.extend_from_slice(&ip.octets());
    frame
}

/// Neighbour advertisement with the override flag, to all nodes.
fn advertisement_frame(ip: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Type 136, code 0, checksum, flags (override), target, option "target link-layer address".
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend_from_slice(&ip.octets());
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&mac);
    let sum = checksum(ip, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(ALL_NODES, mac, 0x86dd);
    // Version 6, payload of 32 bytes, ICMPv6, hop limit 255 (the receiver insists on it).
    frame.extend_from_slice(&[0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend_from_slice(&ip.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&message);
    frame
}

/// The ICMPv6 checksum over the pseudo header and the message (whose own field is 0).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(0);
    let all =
        [from.octets().as_slice(), &to.octets(), &length.to_be_bytes(), &[0, 0, 0, 58], message].concat();
    let (words, _) = all.as_chunks::<2>();
    let mut sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gratuitous_arp_names_the_address_as_sender_and_target() {
        let frame = arp_frame(Ipv4Addr::new(192, 0, 2, 9), [2, 0, 0, 0, 0, 7], 1);
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]);
        assert_eq!(&frame[28..32], [192, 0, 2, 9]);
        assert_eq!(&frame[38..42], [192, 0, 2, 9]);
    }

    #[test]
    fn an_advertisement_with_its_checksum_sums_to_all_ones() {
        let ip: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let frame = advertisement_frame(ip, [2, 0, 0, 0, 0, 7]);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        // Including a correct checksum the complement of the sum is 0.
        assert_eq!(checksum(ip, to, &frame[54..]), 0);
    }
}
