//! Tests of the addresses, each in a network namespace of its own.

use std::io::Write as _;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Seen past the capture of the test runner; in CI a failure.
fn skipped(name: &str, reason: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "SKIPPED {name}: {reason}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} was skipped in CI: {reason}");
}

/// Runs `test` on a thread with its own network namespace and a device with 192.0.2.1/24 and 2001:db8::1/64.
fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        skipped(name, "needs root for a network namespace");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                skipped(name, format_args!("no network namespace: {error}"));
                return;
            }
            if let Err(error) = make_device() {
                skipped(name, format_args!("no pair of devices: {error}"));
                return;
            }
            raise("192.0.2.1".parse().unwrap(), 24, "twin0", Duration::from_secs(3000)).unwrap();
            raise("2001:db8::1".parse().unwrap(), 64, "twin0", Duration::from_secs(3000)).unwrap();
            test();
        });
        thread.join().unwrap();
    });
}

fn make_device() -> Result<(), AddressError> {
    with_netlink(|handle| async move {
        let wrong = |error| refused("a device", &error);
        handle
            .link()
            .add(rtnetlink::LinkVeth::new("twin0", "twin1").up().build())
            .execute()
            .await
            .map_err(wrong)
    })
}

#[test]
fn an_address_is_raised_refreshed_and_removed() {
    in_namespace("an_address_is_raised_refreshed_and_removed", || {
        for (ip, prefix) in [("192.0.2.10", 24), ("2001:db8::10", 64)] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(present(ip).unwrap(), None);
            let device = device_for(ip).unwrap();
            assert_eq!(device, "twin0");
            raise(ip, prefix, &device, Duration::from_millis(99_500)).unwrap();
            let first = present(ip).unwrap().unwrap();
            assert!(first.valid_secs.is_some_and(|secs| (98..=100).contains(&secs)), "{first:?}");
            raise(ip, prefix, &device, Duration::from_secs(500)).unwrap();
            let second = present(ip).unwrap().unwrap();
            assert!(second.valid_secs.is_some_and(|secs| (498..=500).contains(&secs)), "{second:?}");
            announce(ip, &device).unwrap();
            remove(ip).unwrap();
            assert_eq!(present(ip).unwrap(), None);
            remove(ip).unwrap();
        }
    });
}

#[test]
fn an_address_that_nobody_refreshes_goes_by_itself() {
    in_namespace("an_address_that_nobody_refreshes_goes_by_itself", || {
        let ip: IpAddr = "192.0.2.11".parse().unwrap();
        raise(ip, 24, "twin0", Duration::from_secs(1)).unwrap();
        assert!(present(ip).unwrap().is_some());
        let gone = (0..60).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            present(ip).unwrap().is_none()
        });
        assert!(gone, "still there after 6 s");
    });
}

#[test]
fn what_cannot_work_says_what_to_do() {
    in_namespace("what_cannot_work_says_what_to_do", || {
        let far: IpAddr = "198.51.100.1".parse().unwrap();
        assert!(device_for(far).unwrap_err().to_string().contains("name one with \"device\""));
        let unknown = raise(far, 24, "nope0", Duration::from_secs(9)).unwrap_err().to_string();
        assert_eq!(unknown, "there is no network device \"nope0\": see \"ip link\"");
    });
}
