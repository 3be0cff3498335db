//! The independent checker as functions.

use std::sync::Arc;

use twinfs::base::BlockNo;
use twinfs::image::{Disk, Image};

use crate::examine::examine;
use crate::findings::{Findings, Progress};
use crate::harness::judge::Checker;
use crate::source::{Source, Stale};
use crate::{plan, volume};

/// What fsck.twinfs finds.
pub const CHECKER: Checker = Checker { image: whole, filesystem };

fn whole(disk: &Arc<dyn Disk>) -> Vec<String> {
    let mut findings = Findings::default();
    let seen = examine(disk, true, &mut findings, &mut Progress::silent(), |_, _| ());
    match seen {
        Ok((Some(_), ())) => {}
        Ok((None, ())) => findings.add("image", "there is no filesystem"),
        Err(why) => findings.add("image", format!("{why:?}")),
    }
    findings.report()
}

fn filesystem(image: &Arc<Image>, disk: &Arc<dyn Disk>) -> Vec<String> {
    let mut findings = Findings::default();
    let source = Source::new(image.clone(), disk.clone(), Stale::default(), BlockNo(u64::MAX));
    if let Some(sup) = volume::superblock(&source, &mut findings) {
        let space = volume::table_space(&source, &sup);
        let mut volume = volume::read(&space, sup, &mut findings, None);
        plan::decide(&mut volume, &mut findings);
    }
    findings.report()
}
