//! A repair that is cut off at any write leaves an image that can be repaired.

use std::sync::Arc;

use twinfs::base::Ino;
use twinfs::format::{TableId, key_pair};
use twinfs::image::MemDisk;

use super::kit::*;
use crate::options::Repair;

fn damaged(image: &Arc<MemDisk>) -> Arc<MemDisk> {
    let damaged = copy(image);
    edit(&damaged, |e| {
        e.inode(20, |rec| rec.nlink = 9);
        let rec = e.get(TableId::Extents, &key_pair(Ino(20), 0));
        e.put(TableId::Extents, &key_pair(Ino(21), 0), &rec);
        e.inode(3, |rec| rec.parent = Ino(1));
    });
    let places = places(&damaged);
    flip(&damaged, places.geometry.group_at(0) + 4096 + 100);
    flip(&damaged, twinfs::format::LABEL_COPIES[1] + 20);
    damaged
}

#[test]
fn a_repair_cut_off_at_any_write_can_be_repeated() {
    let image = make(false);
    let expected = tree(&image);
    let start = damaged(&image);
    let whole = copy(&start);
    whole.record();
    assert_eq!(fsck(&whole, &options(Repair::Everything)).end, "repaired");
    let events = whole.events();
    let long = std::env::var_os("TWINFS_LONG").is_some();
    let step = if long { 1 } else { (events.len() / 30).max(1) };
    let mut dice = 9_u64;
    for cut in (0..events.len()).step_by(step).chain(events.len().saturating_sub(12)..events.len()) {
        // What was not flushed is kept, lost or torn in pieces.
        let mode = cut % 3;
        let left = MemDisk::crash_image(&start, &events, cut, &mut |_, _| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            mode == 0 || (mode == 1 && dice >> 63 == 1)
        });
        let left = Arc::new(left);
        let again = fsck(&left, &options(Repair::Everything));
        assert!(matches!(again.end, "repaired" | "nothing"), "cut {cut}: {} {:#?}", again.end, again.lines);
        let clean = fsck(&left, &options(Repair::Nothing));
        assert!(clean.lines.is_empty(), "cut {cut}: {:#?}", clean.lines);
        same(&expected, &tree(&left), &["file00016"], &format!("cut {cut}"));
    }
}
