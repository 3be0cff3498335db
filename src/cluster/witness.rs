//! The witness: one record per volume, changed only by compare-and-swap.
//!
//! Decides who of two nodes wins. Does not know time, leases or data. Invariants: `v` of a record only grows; a
//! repeated swap is answered as the first time; what it forgot it does not guess (`Unknown`). The caller makes a
//! changed image stable before it sends the answer.

use std::collections::BTreeMap;

use crate::base::{NodeId, VolumeId};
use crate::wire::{WitnessRecord, WitnessReply, WitnessRequest};

/// What must be stable: the records, under an incarnation drawn when the store was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessImage {
    pub incarnation: u128,
    pub records: BTreeMap<VolumeId, WitnessRecord>,
}

#[derive(Clone, Debug)]
pub struct Witness {
    image: WitnessImage,
    /// Who asked to enrol what; may be lost, both ask again.
    asked: Asked,
}

/// What each node asked to enrol.
pub type Asked = BTreeMap<(VolumeId, NodeId), WitnessRecord>;

impl Witness {
    /// `image` as it was found on disk, or an empty one with a fresh random incarnation.
    pub fn new(image: WitnessImage) -> Witness {
        Witness::resumed(image, Asked::new())
    }

    /// One that was put down between two questions, with what it was asked to enrol.
    pub fn resumed(image: WitnessImage, asked: Asked) -> Witness {
        Witness { image, asked }
    }

    /// What waits for the other node to ask the same.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// What must be stable before the answer is sent, whenever `answer` says that it changed.
    pub fn image(&self) -> &WitnessImage {
        &self.image
    }

    /// The answer, and whether the image changed.
    pub fn answer(
        &mut self,
        volume: VolumeId,
        from: NodeId,
        request: &WitnessRequest,
    ) -> (WitnessReply, bool) {
        let incarnation = self.image.incarnation;
        let current = self.image.records.get(&volume).copied();
        match (request, current) {
            (WitnessRequest::Read | WitnessRequest::Enrol { .. }, Some(record)) => {
                (WitnessReply::Record { record, incarnation }, false)
            }
            (WitnessRequest::Read | WitnessRequest::Cas { .. }, None) => {
                (WitnessReply::Unknown { incarnation }, false)
            }
            (WitnessRequest::Cas { expect_v, expect_lineage, next }, Some(record)) => {
                if record.nonce == next.nonce && record.record == next.record {
                    return (WitnessReply::Won { incarnation }, false);
                }
                let expected = record.record.v == *expect_v && record.lineage == *expect_lineage;
                if !expected || next.record.v <= record.record.v {
                    return (WitnessReply::Conflict { record, incarnation }, false);
                }
                self.image.records.insert(volume, *next);
                (WitnessReply::Won { incarnation }, true)
            }
            (WitnessRequest::Enrol { record, sole }, None) => self.enrol(volume, from, *record, *sole),
        }
    }

    fn enrol(
        &mut self,
        volume: VolumeId,
        from: NodeId,
        record: WitnessRecord,
        sole: bool,
    ) -> (WitnessReply, bool) {
        let incarnation = self.image.incarnation;
        self.asked.insert((volume, from), record);
        let alone = sole && record.record.members.solo() == Some(from);
        let same = |other: &WitnessRecord| {
            other.record == record.record && other.lineage == record.lineage && other.head == record.head
        };
        if alone || self.asked.get(&(volume, from.other())).is_some_and(same) {
            self.asked.retain(|(asked, _), _| *asked != volume);
            self.image.records.insert(volume, record);
            return (WitnessReply::Record { record, incarnation }, true);
        }
        (WitnessReply::Waiting { incarnation }, false)
    }
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
