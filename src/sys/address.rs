//! Service addresses: added with a lifetime that the kernel counts, refreshed, removed, announced.
//!
//! Does not know which node may hold one. Invariant: an address raised here goes by itself when it is not refreshed, so
//! that a stopped daemon loses it.
#![allow(clippy::disallowed_methods, reason = "a shell: netlink and a thread")]

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, SockaddrStorage};
use rtnetlink::Handle;

use super::arp;

/// Why an address could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("no network device has an address in the network of {0}: name one with \"device\"")]
    NoDevice(IpAddr),
    #[error("there is no network device \"{0}\": see \"ip link\"")]
    UnknownDevice(String),
    #[error("the kernel refused {what}: {why}")]
    Kernel { what: String, why: String },
    #[error("cannot talk to the kernel about addresses: {0}")]
    Netlink(io::Error),
}

/// An address as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub device: String,
    /// Seconds until it goes by itself; `None`: never.
    pub valid_secs: Option<u32>,
}

/// The device whose own network contains `ip` (the longest prefix wins); loopback and `ip` itself do not count.
pub fn device_for(ip: IpAddr) -> Result<String, AddressError> {
    let all = getifaddrs().map_err(|errno| AddressError::Netlink(errno.into()))?;
    let candidates = all.filter_map(|entry| {
        let (own, bits) = ip_of(entry.address.as_ref()?).zip(entry.netmask.as_ref().and_then(mask_bits))?;
        let near = own != ip && !own.is_loopback() && same_network(own, ip, bits);
        near.then_some((bits, entry.interface_name))
    });
    let best = candidates.max_by_key(|(bits, _)| *bits);
    best.map(|(_, name)| name).ok_or(AddressError::NoDevice(ip))
}

/// Where `ip` is on this machine, if it is.
pub fn present(ip: IpAddr) -> Result<Option<Present>, AddressError> {
    let names: Vec<(u32, String)> = devices()?.into_iter().map(|(name, link)| (index(&link), name)).collect();
    with_netlink(|handle| async move {
        let mut found = handle.address().get().set_address_filter(ip).execute();
        let mut first = None;
        // To the end of the list, so that nothing is left unread.
        while let Some(message) = found.try_next().await.map_err(|error| refused("a question", &error))? {
            let device = names.iter().find(|(index, _)| *index == message.header.index);
            let cache = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::CacheInfo(cache) => Some(cache.ifa_valid),
                _ => None,
            });
            first.get_or_insert(Present {
                device: device.map(|(_, name)| name.clone()).unwrap_or_default(),
                valid_secs: cache.filter(|valid| *valid != u32::MAX),
            });
        }
        Ok(first)
    })
}

/// Adds `ip/prefix` to `device` for `lifetime` (whole seconds, rounded up), or gives the address that is there a new
/// lifetime. Does not announce it.
pub fn raise(ip: IpAddr, prefix: u8, device: &str, lifetime: Duration) -> Result<(), AddressError> {
    let link = device_named(device)?;
    let secs = lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
    let secs = u32::try_from(secs).unwrap_or(u32::MAX - 1).max(1);
    with_netlink(|handle| async move {
        let mut request = handle.address().add(index(&link), ip, prefix).replace();
        let mut cache = CacheInfo::default();
        cache.ifa_valid = secs;
        cache.ifa_preferred = secs;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::CacheInfo(cache));
        if ip.is_ipv6() {
            // The other node has dropped it: no second to lose on asking whether somebody has it.
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|error| refused(&format!("{ip}/{prefix}"), &error))
    })
}

/// Removes `ip` from whatever device it is on; no error when it is not there.
pub fn remove(ip: IpAddr) -> Result<(), AddressError> {
    with_netlink(|handle| async move {
        let mut found = handle.address().get().set_address_filter(ip).execute();
        let mut messages = Vec::new();
        while let Some(message) = found.try_next().await.map_err(|error| refused("a question", &error))? {
            messages.push(message);
        }
        for message in messages {
            match handle.address().del(message).execute().await {
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.raw_code() == -nix::libc::EADDRNOTAVAIL => {}
                other => other.map_err(|error| refused(&format!("to remove {ip}"), &error))?,
            }
        }
        Ok(())
    })
}

/// Tells the network where `ip` is now: gratuitous ARP, or an unsolicited neighbour advertisement.
pub fn announce(ip: IpAddr, device: &str) -> Result<(), AddressError> {
    arp::announce(ip, &device_named(device)?).map_err(|error| AddressError::Kernel {
        what: format!("the announcement of {ip}"),
        why: error.to_string(),
    })
}

fn devices() -> Result<Vec<(String, LinkAddr)>, AddressError> {
    let all = getifaddrs().map_err(|errno| AddressError::Netlink(errno.into()))?;
    let links = all.filter_map(|entry| Some((entry.interface_name, *entry.address?.as_link_addr()?)));
    Ok(links.collect())
}

fn device_named(device: &str) -> Result<LinkAddr, AddressError> {
    let found = devices()?.into_iter().find(|(name, _)| name == device);
    found.map(|(_, link)| link).ok_or_else(|| AddressError::UnknownDevice(device.to_string()))
}

fn index(link: &LinkAddr) -> u32 {
    u32::try_from(link.ifindex()).unwrap_or(0)
}

fn refused(what: &str, error: &rtnetlink::Error) -> AddressError {
    let why = match error {
        rtnetlink::Error::NetlinkError(message) => {
            io::Error::from_raw_os_error(message.raw_code().saturating_neg()).to_string()
        }
        other => other.to_string(),
    };
    AddressError::Kernel { what: what.to_string(), why }
}

/// Runs one conversation with the kernel on a thread of its own: callers may or may not be inside a runtime.
fn with_netlink<T, F, Fut>(talk: F) -> Result<T, AddressError>
where
    T: Send,
    F: FnOnce(Handle) -> Fut + Send,
    Fut: Future<Output = Result<T, AddressError>>,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(AddressError::Netlink)?.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Netlink)?;
                tokio::spawn(connection);
                talk(handle).await
            })
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(AddressError::Netlink(io::Error::other("the helper thread died"))))
    })
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

fn mask_bits(mask: &SockaddrStorage) -> Option<u32> {
    match ip_of(mask)? {
        IpAddr::V4(mask) => Some(mask.to_bits().leading_ones()),
        IpAddr::V6(mask) => Some(mask.to_bits().leading_ones()),
    }
}

fn same_network(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
        _ => false,
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
