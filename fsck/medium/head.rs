//! The label and the superblock slots: each has a second copy, and the label can be made again from a slot.

use twinfs::format::{FORMAT_VERSION, Geometry, LABEL_BYTES, LABEL_COPIES, Label, Superblock};
use twinfs::image::{AL_SLOTS_DEFAULT, Disk};

use super::{Stop, remade};
use crate::findings::Findings;

/// Where a slot holds the incarnation, the salt of its own hash.
const SALT_AT: usize = 256 + 16;

pub(super) fn label(disk: &dyn Disk, findings: &mut Findings) -> Result<Label, Stop> {
    let mut found = [const { None }; 2];
    let mut claimed = false;
    for (place, at) in found.iter_mut().zip(LABEL_COPIES) {
        let mut bytes = [0; LABEL_BYTES];
        match disk.read_at(at, &mut bytes) {
            Err(error) if at == 0 => return Err(Stop::Unusable(error.to_string())),
            Err(error) => findings.add("label", error.to_string()),
            Ok(()) => {
                claimed |= Label::has_magic(&bytes);
                match Label::decode(&bytes) {
                    Ok(label) if label.version != FORMAT_VERSION => {
                        let text =
                            format!("it has format {}, this program knows {FORMAT_VERSION}", label.version);
                        return Err(Stop::Unusable(text));
                    }
                    Ok(label) => *place = Some(label),
                    Err(damage) => findings.add("label", format!("copy at {at}: {damage}")),
                }
            }
        }
    }
    let label = match found.clone() {
        [Some(first), Some(second)] if first != second => {
            findings.add("label", "the two copies differ");
            // The one that leads to a superblock is the right one.
            if slots(disk, &first).0.is_some() { first } else { second }
        }
        [Some(label), _] | [None, Some(label)] => label,
        [None, None] => {
            let Some(label) = label_of_slot(disk) else {
                let text = "this is not a twinfs image".to_string();
                return Err(if claimed { Stop::Damaged } else { Stop::Unusable(text) });
            };
            findings.lose("label", "made again from the superblock: its text and UUID are lost");
            label
        }
    };
    for (copy, at) in found.iter().zip(LABEL_COPIES) {
        if copy.as_ref() != Some(&label) {
            disk.write_at(at, &label.encode()).map_err(|error| Stop::Unusable(error.to_string()))?;
        }
    }
    Ok(label)
}

/// A label, whichever copy it is.
pub(super) fn any_label(disk: &dyn Disk) -> Option<Label> {
    LABEL_COPIES.into_iter().find_map(|at| {
        let mut bytes = [0; LABEL_BYTES];
        disk.read_at(at, &mut bytes).ok()?;
        Label::decode(&bytes).ok().filter(|label| label.version == FORMAT_VERSION)
    })
}

/// A label from the superblock slots where an image of this length has them.
fn label_of_slot(disk: &dyn Disk) -> Option<Label> {
    let plan = Geometry::plan(disk.len_bytes(), AL_SLOTS_DEFAULT).ok()?;
    plan.slots.iter().find_map(|at| {
        let mut bytes = vec![0; plan.slot_bytes as usize];
        disk.read_at(*at, &mut bytes).ok()?;
        let salt = u128::from_le_bytes(*bytes.get(SALT_AT..)?.first_chunk()?);
        let sup = Superblock::decode(&bytes, salt).ok()?;
        Some(Label {
            version: FORMAT_VERSION,
            uuid: salt,
            incarnation: salt,
            text: String::new(),
            image_bytes: sup.geometry.image_bytes,
            slots: sup.geometry.slots,
            slot_bytes: sup.geometry.slot_bytes,
        })
    })
}

/// The newest whole slot with its number, and what is wrong with the others.
fn slots(disk: &dyn Disk, label: &Label) -> (Option<(Superblock, usize)>, Vec<String>) {
    let (mut newest, mut torn): (Option<(Superblock, usize)>, Vec<String>) = (None, Vec::new());
    for (number, at) in label.slots.into_iter().enumerate() {
        let mut bytes = vec![0; label.slot_bytes as usize];
        let read = disk.read_at(at, &mut bytes).map_err(|error| error.to_string());
        match read.and_then(|()| Superblock::decode(&bytes, label.incarnation).map_err(|e| e.to_string())) {
            // A new image has only one of them.
            Err(_) if bytes.iter().all(|byte| *byte == 0) && number == 0 => {}
            Err(text) => torn.push(format!("slot {number}: {text}")),
            Ok(sup) if newest.as_ref().is_none_or(|(known, _)| known.seq < sup.seq) => {
                newest = Some((sup, number));
            }
            Ok(_) => {}
        }
    }
    (newest, torn)
}

pub(super) fn superblock(
    disk: &dyn Disk,
    label: &Label,
    findings: &mut Findings,
) -> Result<(Superblock, usize), Stop> {
    if disk.len_bytes() < label.image_bytes {
        let (have, need) = (disk.len_bytes(), label.image_bytes);
        let text = format!(
            "the image is truncated: {have} bytes of {need}, and what describes the rest lay at its end; \
             restore it to its full length or copy it again from the peer"
        );
        findings.lose("superblock", text);
        return Err(Stop::Damaged);
    }
    let (newest, torn) = slots(disk, label);
    let Some((sup, number)) = newest else {
        torn.into_iter().for_each(|text| findings.lose("superblock", text));
        return remade::superblock(disk, label, findings);
    };
    // One slot may be torn by a crash while it was written; the other one counts and the next writing mends it.
    torn.into_iter().for_each(|text| findings.mend(format!("superblock: {text} (the other slot counts)")));
    if sup.refuse != 0 || sup.read_only != 0 {
        let text = "the image uses features that this program does not know; use a newer twinfs";
        return Err(Stop::Unusable(text.to_string()));
    }
    if sup.geometry.slots != label.slots || sup.geometry.image_bytes != label.image_bytes {
        findings.add("superblock", "label and superblock disagree about the size");
    }
    if disk.len_bytes() < sup.geometry.image_bytes {
        let (have, need) = (disk.len_bytes(), sup.geometry.image_bytes);
        findings.lose("superblock", format!("the image is truncated: {have} bytes of {need}"));
        return Err(Stop::Damaged);
    }
    if sup.state.gens.is_empty() && sup.state.record.is_some() {
        findings.add("superblock", "there is no generation");
    }
    Ok((sup, number))
}
