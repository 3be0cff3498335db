//! What a predecessor left behind when it died: services, addresses, a dead mount.
//!
//! Decides that all of it goes before anything new begins. Does not know whether this node will be primary again.
//! Invariant: bounded in time; nothing that is not ours is touched.

use std::path::Path;
use std::time::Duration;

use crate::base::Span;
use crate::config;
use crate::events::Event;
use crate::services::address::Addresses;
use crate::services::run::Services;
use crate::sys::mount;

const ADDRESS_LIMIT: Duration = Duration::from_secs(2);

/// Stops the services, removes the addresses, detaches the mount. Answers
/// what was found, in words.
pub fn remove(settings: &config::Volume, addresses: &Addresses, services: &Services) -> Vec<String> {
    let mut found = Vec::new();
    if !settings.services.is_empty() {
        // Always: a service may have survived a mount that is gone already. Stopping what is stopped does no harm.
        let each = settings.service_timeout.0.saturating_mul(settings.services.len() as u64);
        services.down(Span(each));
    }
    for address in addresses.list() {
        if let Ok(Some(present)) = crate::sys::address::present(address.ip) {
            found.push(format!("address {address} on {}", present.device));
        }
    }
    addresses.drop_and_wait(ADDRESS_LIMIT);
    while dead_mount(&settings.mount) && mount::detach(&settings.mount).is_ok() {
        found.push(format!("dead mount at {}", settings.mount.display()));
    }
    found
}

/// A mount of ours whose daemon is gone. A live one is another node's on the same machine.
fn dead_mount(place: &Path) -> bool {
    let line = mount::mounted_at(place).ok().flatten();
    line.is_some_and(|line| line.fs_type == mount::FS_TYPE) && mount::is_dead(place)
}

/// The events for what was removed.
pub fn events(found: Vec<String>) -> Vec<Event> {
    found.into_iter().map(|what| Event::LeftoverRemoved { what }).collect()
}
