//! One seed from the first event to the verdict.

use std::sync::{Arc, Mutex, OnceLock};

use crate::base::{Members, NodeId, Record, Span, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark, State};
use crate::image::{Disk, FormatOptions, Image, ImageError, LocalBlocks, OpenOptions};
use crate::wire::{WitnessRecord, WitnessRequest, lineage_hash};

use super::baton::lock;
use super::disk::{LifeDisk, SimDisk, Switch};
use super::files::{Files, Local};
use super::life::MADE;
use super::life::StateFile;
use super::net::Net;
use super::options::{Options, Outcome, Plan};
use super::oracle::Oracle;
use super::rng::Rng;
use super::sched::Sched;
use super::serve::{DATA_BLOCKS, FS_BLOCKS};
use super::witness::SimWitness;
use super::world::{Ev, MS, Machine, SECOND, World, node_id};

/// After the last fault everything must be in sync within this.
pub const HEAL: u64 = 120 * SECOND;
/// Commands to a node that slept, and the last faults' own ends, may come this late.
const LATE: u64 = 20 * SECOND;
const VOLUME: VolumeId = VolumeId(0x7417);
/// Bytes of a simulated disk: the data area and room for what lies behind it.
const DISK_BYTES: u64 = (DATA_BLOCKS + 2048) * 4096;

/// Runs one seed.
pub fn run(options: &Options) -> Outcome {
    let mut rng = Rng::new(options.seed);
    let plan = Plan::draw(options, &mut rng);
    let world = match build(plan, rng, options.shown) {
        Ok(world) => world,
        Err(error) => {
            let violations = vec![format!("the world could not be made: {error}")];
            return Outcome { seed: options.seed, violations, ..Outcome::default() };
        }
    };
    for node in 0..2 {
        world.sched.after(MS * (1 + node as u64), Ev::Start { node });
    }
    world.sched.after(MS * 5, Ev::Dial);
    world.sched.after(MS * 100, Ev::Look);
    world.sched.after(3 * SECOND, Ev::Fault);
    let until = world.plan.faults_until;
    world.run_until(until);
    if ok(&world) {
        world.heal();
        settle(&world, until + HEAL);
    }
    let outcome = outcome(&world, options.seed);
    world.finish();
    outcome
}

fn ok(world: &World) -> bool {
    world.sched.with_trace(|trace| trace.violations().is_empty())
}

/// Waits until both are in sync, lets them work a little longer, and compares.
fn settle(world: &Arc<World>, limit: u64) {
    let in_sync = || {
        let record = |node: usize| world.image_of(node).and_then(|image| image.state().record);
        let (a, b) = (record(0), record(1));
        a.is_some() && a == b && a.is_some_and(|record| record.members == Members::BOTH) && world.serves()
    };
    loop {
        let next = (world.sched.now() + SECOND).min(limit);
        world.run_until(next);
        let late = next > world.plan.faults_until + LATE;
        if !ok(world) || (late && in_sync()) || next >= limit {
            break;
        }
    }
    let now = world.sched.now();
    world.run_until(now + 4 * SECOND);
    // The volume may be on its way back to the other node at this very moment: that takes moments.
    for _ in 0..5 {
        if !ok(world) || in_sync() {
            break;
        }
        world.run_until(world.sched.now() + SECOND);
    }
    if world.sched.is_excused() {
        world.check_split_is_told();
    } else if ok(world) {
        world.check_quiet();
    }
}

fn outcome(world: &World, seed: u64) -> Outcome {
    let (oracle, simulated) = (lock(&world.oracle), Span(world.sched.now()));
    world.sched.with_trace(|trace| Outcome {
        seed,
        hash: trace.hash(),
        events: trace.events(),
        simulated,
        fs_ops: oracle.fs_ops,
        faults: oracle.faults,
        counts: oracle.counts.clone(),
        violations: trace.violations().to_vec(),
        trace: trace.shown(),
    })
}

fn first_state(node: usize) -> State {
    State {
        volume: VOLUME,
        node: node_id(node),
        incarnation: 0xabc0 + node as u128,
        record: Some(Record { v: 1, members: Members::BOTH, primary: NodeId::A }),
        gens: vec![GenEntry {
            id: MADE,
            minted_by: NodeId::A,
            at_v: 1,
            reason: GenReason::Made,
            first_txn: 0,
        }],
        bitmap_base: MADE,
        full: false,
        resync: ResyncMark::None,
        boot_epoch: 0,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        diverged: false,
        apart: crate::format::Apart::default(),
        witness_incarnation: WITNESS,
    }
}

const WITNESS: u128 = 0x3175;

/// Number of log slots, and a disk made with it.
type Template = (u32, Arc<SimDisk>);

/// A disk with a new image and an empty filesystem, made once for each number of log slots.
fn template(al_slots: u32) -> Result<Arc<SimDisk>, String> {
    static MADE: OnceLock<Mutex<Vec<Template>>> = OnceLock::new();
    let mut made = lock(MADE.get_or_init(Mutex::default));
    if let Some((_, disk)) = made.iter().find(|(slots, _)| *slots == al_slots) {
        return Ok(disk.clone());
    }
    let disk = SimDisk::new(DISK_BYTES);
    let medium: Arc<dyn Disk> = Arc::new(LifeDisk { disk: disk.clone(), switch: Switch::new() });
    let blank = State { record: None, ..first_state(0) };
    let options = FormatOptions { state: blank, uuid: 1, label: "sim".to_string(), al_slots };
    let make = || -> Result<(), ImageError> {
        crate::image::format(&medium, &options)?;
        let image = Arc::new(Image::open(medium.clone(), &OpenOptions::read_write())?);
        let blocks = LocalBlocks::new(image.clone())?;
        if image.block_count() < DATA_BLOCKS {
            return Err(ImageError::Failed(format!("only {} blocks", image.block_count())));
        }
        Files::format(Arc::new(Local { blocks, limit: FS_BLOCKS })).map_err(ImageError::Failed)?;
        image.close()?;
        medium.flush()?;
        Ok(())
    };
    make().map_err(|error| error.to_string())?;
    made.push((al_slots, disk.clone()));
    Ok(disk)
}

fn machine(node: usize, plan: &Plan, rng: &mut Rng) -> Result<Machine, String> {
    let disk = template(plan.al_slots[node])?.copy();
    let medium: Arc<dyn Disk> = Arc::new(LifeDisk { disk: disk.clone(), switch: Switch::new() });
    let name = || -> Result<(), ImageError> {
        let image = Image::open(medium, &OpenOptions::read_write())?;
        image.store(&first_state(node))?;
        image.close()
    };
    name().map_err(|error| error.to_string())?;
    let most = if plan.bad_clocks { 50_000 } else { 9_000 };
    let drift = i64::try_from(rng.range(0, 2 * most)).unwrap_or(0) - i64::try_from(most).unwrap_or(0);
    let file = StateFile { incarnation: first_state(node).incarnation, v: 1, ..StateFile::default() };
    Ok(Machine {
        disk,
        file,
        lives: 0,
        up: None,
        paused_until: 0,
        drift,
        skew: 0,
        conn: None,
        shots: vec![],
        last: None,
    })
}

fn build(plan: Plan, mut rng: Rng, shown: usize) -> Result<Arc<World>, String> {
    let a = machine(0, &plan, &mut rng)?;
    let b = machine(1, &plan, &mut rng)?;
    let mut witness = SimWitness::new(VOLUME, WITNESS);
    let state = first_state(0);
    if let Some(record) = state.record {
        let record =
            WitnessRecord { record, head: state.head(), lineage: lineage_hash(&state.gens), nonce: 1 };
        let request = WitnessRequest::Enrol { record, sole: false };
        witness.answer(NodeId::A, &request);
        witness.answer(NodeId::B, &request);
    }
    Ok(Arc::new(World {
        plan,
        sched: Sched::new(rng.fork(), shown),
        net: Mutex::new(Net::default()),
        machines: [Mutex::new(a), Mutex::new(b)],
        witness: Mutex::new(witness),
        oracle: Mutex::new(Oracle::default()),
        lost_source: Mutex::default(),
        data_offset: super::options::DATA_OFFSET_PAGES,
        over: std::sync::atomic::AtomicBool::new(false),
        spree_until: std::sync::atomic::AtomicU64::new(0),
        old_heartbeats: Mutex::default(),
        until: std::sync::atomic::AtomicU64::new(0),
    }))
}
