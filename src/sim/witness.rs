//! The third machine: the production record behind a process that can be down.

use crate::base::{NodeId, VolumeId};
use crate::cluster::{Witness, WitnessImage};
use crate::wire::{WitnessReply, WitnessRequest};

/// The witness and its disk. The record is stable before an answer leaves, so a crash changes nothing.
pub struct SimWitness {
    witness: Witness,
    volume: VolumeId,
    pub up: bool,
}

impl SimWitness {
    pub fn new(volume: VolumeId, incarnation: u128) -> SimWitness {
        let witness = Witness::new(WitnessImage { incarnation, records: std::collections::BTreeMap::new() });
        SimWitness { witness, volume, up: true }
    }

    /// Its answer, or none while it is down.
    pub fn answer(&mut self, from: NodeId, request: &WitnessRequest) -> Option<WitnessReply> {
        self.up.then(|| self.witness.answer(self.volume, from, request).0)
    }

    /// The process dies and comes back with what its disk holds.
    pub fn restart(&mut self) {
        self.witness = Witness::new(self.witness.image().clone());
        self.up = true;
    }
}
