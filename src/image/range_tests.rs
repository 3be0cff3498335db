//! The interval lock: exclusion, order of asking, the unlock counter.
#![allow(clippy::disallowed_methods, reason = "threads are what is tested")]

use std::sync::mpsc;
use std::time::Duration;

use super::*;

#[test]
fn overlapping_ranges_exclude_each_other_and_others_do_not() {
    let locks = Arc::new(RangeLocks::default());
    let held = locks.try_lock(BlockNo(10), 5).expect("free");
    assert!(locks.try_lock(BlockNo(14), 1).is_none());
    assert!(locks.try_lock(BlockNo(8), 3).is_none());
    assert!(locks.try_lock(BlockNo(0), 100).is_none());
    assert!(locks.try_lock(BlockNo(15), 1).is_some());
    assert!(locks.try_lock(BlockNo(9), 1).is_some());
    let before = locks.unlocks();
    drop(held);
    assert_eq!(locks.unlocks(), before + 1);
    assert!(locks.try_lock(BlockNo(14), 1).is_some());
}

#[test]
fn a_waiting_wide_range_is_not_starved_by_later_narrow_ones() {
    let locks = Arc::new(RangeLocks::default());
    let first = locks.try_lock(BlockNo(0), 1).expect("free");
    let (tell, told) = mpsc::channel();
    let other = Arc::clone(&locks);
    let wide = std::thread::spawn(move || {
        let guard = other.lock(BlockNo(0), 100);
        tell.send(()).expect("receiver");
        drop(guard);
    });
    while locks.try_lock(BlockNo(50), 1).is_some() {
        std::thread::yield_now();
    }
    assert!(told.recv_timeout(Duration::from_millis(20)).is_err(), "the wide lock was given while 0 is held");
    drop(first);
    told.recv_timeout(Duration::from_secs(10)).expect("the wide lock is given next");
    wide.join().expect("thread");
}
