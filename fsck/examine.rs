//! One examination of an image, from its first sector to its last name, with its repair worked out and not carried out.
//!
//! Decides the order of the parts. Invariant: nothing is written; what a repair would do to the metadata of the image
//! lies in an overlay, what it would do to the tables in a plan.

use std::sync::Arc;

use twinfs::format::ResyncMark;
use twinfs::image::{Disk, UndoView};

use crate::apply;
use crate::content;
use crate::findings::{Findings, Progress, Steps};
use crate::medium::{self, Medium, Stop};
use crate::overlay::Overlay;
use crate::plan::{self, Plan};
use crate::volume::{self, Volume};

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub inodes: u64,
    pub records: u64,
    pub free: u64,
    pub blocks: u64,
}

/// Gives a medium a length.
pub type Grow<'a> = dyn Fn(u64) -> Result<Arc<dyn Disk>, String> + 'a;

/// An examined image.
pub struct Examined<'a> {
    pub medium: &'a Medium,
    overlay: &'a Overlay,
    /// Absent on a copy without a filesystem.
    files: Option<(&'a Volume<'a>, &'a Plan)>,
    /// The tables are to be written anew.
    rebuild: bool,
    /// Something is too damaged to be put right.
    pub beyond_repair: bool,
}

/// A copy that is half overwritten, and whether it can go back.
fn note_undo(undo: &UndoView, findings: &mut Findings) {
    if let Some(damage) = undo.damage {
        findings.note(format!("undo: the copy cannot go back to its state before the resync: {damage}"));
    } else if undo.has_way_back() {
        findings.note(format!("undo: {} blocks of the state before the resync are kept", undo.blocks));
    }
}

/// Examines the image and shows the result to `act`.
pub fn examine<R>(
    below: &Arc<dyn Disk>,
    contents: bool,
    findings: &mut Findings,
    progress: &mut Progress,
    act: impl FnOnce(&Examined<'_>, &mut Findings) -> R,
) -> Result<(Option<Seen>, R), Stop> {
    let have = below.len_bytes();
    let overlay = Arc::new(match medium::lost_end(&**below) {
        Some(need) => {
            findings
                .lose("image", format!("it is truncated: {have} bytes of {need}; what lay behind is lost"));
            Overlay::longer(Arc::clone(below), need)
        }
        None => Overlay::new(Arc::clone(below)),
    });
    let disk: Arc<dyn Disk> = overlay.clone();
    let medium = medium::check(&disk, have, findings, progress)?;
    progress.pass();
    content::compare(&medium, contents, findings, progress);
    let nothing =
        |medium, overlay| Examined { medium, overlay, files: None, rebuild: false, beyond_repair: false };
    let state = &medium.state;
    note_undo(&medium.source.undo(), findings);
    let no_files = if state.record.is_none() && state.gens.is_empty() {
        Some("a blank copy: it gets its filesystem from the peer")
    } else if let ResyncMark::Target { .. } = state.resync {
        Some("a copy is being brought up to date here; its files can be checked when that is done")
    } else {
        None
    };
    if let Some(note) = no_files {
        findings.note(note.to_string());
        content::tell(&medium.source, None, None, findings);
        let result = act(&nothing(&medium, &overlay), findings);
        return Ok((None, result));
    }
    progress.pass();
    let before = findings.count();
    let Some(sup) = volume::superblock(&medium.source, findings) else {
        content::tell(&medium.source, None, None, findings);
        let result = act(&Examined { beyond_repair: true, ..nothing(&medium, &overlay) }, findings);
        return Ok((None, result));
    };
    let space = volume::table_space(&medium.source, &sup);
    let steps = Steps::of(progress);
    let mut volume = volume::read(&space, sup, findings, Some(&steps));
    let plan = plan::decide(&mut volume, findings);
    content::compare_stale(&medium.source, &plan.space);
    let rebuild = findings.count() > before
        || findings.is_mendable()
        || content::touches_tables(&medium.source, &plan.space);
    content::tell(&medium.source, Some(&plan.space), Some(&volume.tables), findings);
    steps.end();
    let seen = Seen {
        inodes: plan.inodes,
        records: volume.log.records.len() as u64,
        free: plan.free,
        blocks: volume.sup.block_count,
    };
    let beyond_repair = !plan.sound;
    let files = Some((&volume, &plan));
    let examined = Examined { medium: &medium, overlay: &overlay, files, rebuild, beyond_repair };
    let result = act(&examined, findings);
    Ok((Some(seen), result))
}

impl Examined<'_> {
    /// Carries out what was worked out. `disk` is the medium below, open to be written; `grow` makes it as long as it
    /// was once.
    pub fn repair(&self, disk: &Arc<dyn Disk>, grow: &Grow<'_>) -> Result<(), String> {
        let need = self.overlay.len_bytes();
        let disk = if disk.len_bytes() < need { grow(need)? } else { Arc::clone(disk) };
        self.overlay.commit(&*disk).map_err(|error| error.to_string())?;
        let repair = apply::open(&disk, &self.medium.source, &self.medium.state)?;
        repair.heal()?;
        if let Some((volume, plan)) = self.files {
            repair.settle_files(&plan.space)?;
            if self.rebuild {
                repair.rebuild(volume, plan)?;
            }
        }
        repair.close()
    }
}
