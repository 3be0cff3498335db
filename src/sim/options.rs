//! What a run is asked for, what the seed makes of it, and what came out.

use std::collections::BTreeMap;

use crate::base::{NodeId, Span};
use crate::node::{Arbitration, Failback, Limits, Mutations};

use super::rng::Rng;
use super::world::SECOND;

/// Pages of an image before its data area.
pub const DATA_OFFSET_PAGES: u64 = crate::format::HEAD_BYTES / 4096;

/// What the caller asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub seed: u64,
    pub mutations: Mutations,
    /// Look only at what happens to data, not at the rules that prevent it: shows that a mutation does harm.
    pub effects_only: bool,
    /// How many of the last events to keep in words.
    pub shown: usize,
}

/// What came out of one run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub seed: u64,
    pub hash: u64,
    pub events: u64,
    /// How long the seed ran on the world's clock.
    pub simulated: Span,
    pub fs_ops: u64,
    pub faults: u64,
    /// How often each kind of fault and each thing worth reaching happened.
    pub counts: BTreeMap<&'static str, u64>,
    pub violations: Vec<String>,
    /// The last events in words; empty unless asked for.
    pub trace: String,
}

/// What the seed decided before the run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub arbitration: Arbitration,
    pub mutations: Mutations,
    /// Bytes of replaced connections still reach the receiver.
    pub ghosts: bool,
    /// Faults happen until this moment.
    pub faults_until: u64,
    /// Usual time between two faults, nanoseconds.
    pub fault_every: u64,
    /// Activity log slots of the images: the smaller log leaves an extent while the peer still has it un-flushed.
    pub al_slots: [u32; 2],
    /// Pace of a resync.
    pub resync: Limits,
    /// Clocks may break their promise: whoever trusts them alone is excused, nobody else.
    pub bad_clocks: bool,
    /// Agents say "done" and did nothing: outside assumption A5.
    pub agents_lie: bool,
    /// The source of a resync dies for good in the middle of it.
    pub loses_source: bool,
    /// Look only at what happens to data, not at the rules that prevent it.
    pub effects_only: bool,
    /// A node that the volume belongs to.
    pub failback: Option<Failback>,
}

impl Plan {
    pub fn draw(options: &Options, rng: &mut Rng) -> Plan {
        let arbitration = match rng.below(20) {
            0..=9 => Arbitration::Witness,
            10..=12 => Arbitration::Yield,
            13..=14 => Arbitration::Manual,
            15..=18 => Arbitration::Fence,
            _ => Arbitration::Deadtime,
        };
        Plan {
            arbitration,
            mutations: options.mutations,
            ghosts: rng.permille(400),
            faults_until: SECOND * rng.range(50, 90),
            fault_every: SECOND * rng.range(2, 5),
            al_slots: std::array::from_fn(|_| {
                let slots = if rng.permille(700) { rng.range(6, 12) } else { 24 };
                u32::try_from(slots).unwrap_or(8)
            }),
            resync: match rng.below(3) {
                0 => Limits::NONE,
                1 => Limits { max: u64::MAX, min: 1 << 20 },
                _ => Limits { max: rng.range(1, 8) << 20, min: 256 << 10 },
            },
            bad_clocks: rng.permille(100),
            agents_lie: arbitration == Arbitration::Fence && rng.permille(100),
            loses_source: rng.permille(200) && arbitration != Arbitration::Deadtime,
            effects_only: options.effects_only,
            // Not drawn: the other seeds run as they did without it.
            failback: (options.seed % 5 == 4).then_some(Failback { to: NodeId::A, windowed: false }),
        }
    }

    /// Nothing promises that there is one primary; only that two are found out.
    pub fn may_split(&self) -> bool {
        self.arbitration == Arbitration::Deadtime || self.agents_lie
    }
}
