//! The production `step` function under a model checker: every order of deliveries, stores, cuts, crashes, restarts,
//! handovers and jumps of time within small bounds, and what each deliberate fault of a node is caught by.
//!
//! A state is reached by single steps (one message, one store, one answer) and by stretches of the usual order, so that
//! a crash in the middle of a rejoin is as near as one at its beginning. Clocks jump at will and per node: writes must
//! be safe without them. Without leases the space is smaller; with them heartbeats are lost and leases lapse as well.
#![allow(clippy::unwrap_used, reason = "a test")]

mod pair;

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use pair::{A, Agent, B, World, id};
use stateright::{Checker, HasDiscoveries, Model, Property};
use twinfs::base::{Members, Span};
use twinfs::node::{Arbitration, Event, Mutations, Operator, Role, StateWord};
use twinfs::sim::MUTATIONS;
use twinfs::wire::Kind;

const PROMISES: &str = "promises I1, I3, I4, I6, I8";
const HEALS: &str = "once faults stop, both are in sync and one serves (L3, L4)";
/// Every so many states are asked whether they heal.
const HEAL_EVERY: u64 = 150;
/// What must be reached, or "holds" says nothing.
const REACHED: [&str; 5] =
    ["one goes on alone", "failover", "handover", "rejoin", "a promise is put to the test"];
const LAPSE: &str = "a lease lapses";
const FRONT: &str = "a primary without a disk works on its peer's copy";

#[derive(Clone, Debug)]
struct State {
    world: World,
    used: Used,
    key: u64,
}

/// How much of each bound is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Used {
    writes: u8,
    faults: u8,
    jumps: u8,
    handovers: u8,
    /// Steps out of the usual order.
    single: u8,
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        self.key == other.key
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key.hash(hasher);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver(usize),
    Stored(usize),
    Ask,
    Answer(usize),
    /// The oldest request to a fence agent is carried out.
    Shoot(Agent),
    /// So many rounds of the usual order, at most until nothing moves.
    Usual(u8),
    Jump(usize, u64),
    /// A keepalive passes on both, with its heartbeats.
    Beats,
    Cut,
    Connect,
    Crash(usize, bool),
    Boot(usize),
    Write(usize),
    Switchover(usize),
    /// The disk fails under whatever the node does.
    Fail(usize),
}

struct Pair {
    /// Every link is cut, and stays so.
    severed: bool,
    arbitration: Arbitration,
    mutations: Mutations,
    leases: bool,
    bounds: Used,
}

/// Two faults in any order, near the start; and one fault through a whole life.
const WIDE: Used = Used { writes: 2, faults: 2, jumps: 2, handovers: 1, single: 4 };
const DEEP: Used = Used { writes: 1, faults: 1, jumps: 1, handovers: 1, single: 1 };
/// The usual order but for one fault.
const NARROW: Used = Used { writes: 1, faults: 1, jumps: 1, handovers: 0, single: 1 };

/// What a node's own shell owes it is paid at once, except stores, and the end of services that work on the peer's copy:
/// a crash may come between.
fn calm(mut state: State) -> State {
    let w = &mut state.world;
    for n in [A, B] {
        let slow = |event: &Event, left| {
            matches!(event, Event::Stored { .. }) || left && matches!(event, Event::Demoted)
        };
        while w.owed[n].front().is_some_and(|event| !slow(event, w.left[n])) {
            w.pay(n);
        }
    }
    let digest = blake3::hash(format!("{:?}", (w, state.used)).as_bytes());
    state.key = u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap());
    state
}

impl Pair {
    /// One round of the usual order; what is broken on the way stays broken.
    fn round(&self, w: &mut World) -> bool {
        let mut moved = w.ask() || w.shoot(Agent::Works);
        for n in [A, B] {
            if !self.leases {
                w.beats[n].clear();
            }
            moved |= w.pay(n) || w.deliver(n) || w.answer(n) || w.beat(n);
        }
        w.note_broken();
        moved
    }

    fn usual(&self, w: &mut World, rounds: u8) {
        for _ in 0..rounds {
            if !self.round(w) {
                return;
            }
        }
    }
}

/// Everything comes back and no more faults: both must be in sync, and one must serve.
fn heals(state: &State) -> bool {
    let mut w = state.world.clone();
    for n in [A, B] {
        if w.nodes[n].is_none() {
            w.boot(n);
        }
    }
    w.connect();
    for _ in 0..60 {
        w.run(1_000);
        for n in [A, B] {
            if w.nodes[n].as_ref().is_some_and(|node| node.view().role == Role::Failed) {
                w.crash(n, true);
            }
            // Whom a fence agent shot starts again, and whoever has another disk.
            if w.nodes[n].is_none() {
                w.boot(n);
            }
        }
        if w.check().is_err() || (in_sync(&w) && w.mounted[A] != w.mounted[B]) {
            break;
        }
    }
    let healed = w.check().is_ok() && in_sync(&w) && w.mounted[A] != w.mounted[B];
    if !healed {
        eprintln!("does not heal: {}", w.why());
    }
    healed
}

fn member_record(w: &World, n: usize) -> bool {
    w.nodes[n].as_ref().is_some_and(|node| {
        node.view().record.is_some_and(|record| record.members == Members::BOTH && record.primary == id(n))
    })
}

fn alone(w: &World, n: usize) -> bool {
    let record = w.nodes[n].as_ref().and_then(|node| node.view().record);
    w.mounted[n] && record.is_some_and(|record| record.members.solo() == Some(id(n)))
}

fn in_sync(w: &World) -> bool {
    w.nodes.iter().all(|node| node.as_ref().is_some_and(|node| node.view().state == StateWord::InSync))
}

impl Model for Pair {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mutations = Mutations { no_lease: !self.leases, ..self.mutations };
        let mut world = World::whole(self.arbitration, mutations);
        if self.severed {
            world.part();
        }
        vec![calm(State { world, used: Used::default(), key: 0 })]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let (w, used, most) = (&state.world, &state.used, &self.bounds);
        let busy = !w.questions.is_empty()
            || !w.shots.is_empty()
            || [A, B]
                .into_iter()
                .any(|n| !w.wire[n].is_empty() || !w.owed[n].is_empty() || !w.answers[n].is_empty());
        if busy {
            steps.extend([Step::Usual(2), Step::Usual(7), Step::Usual(200)]);
        }
        for n in [A, B] {
            if w.nodes[n].is_none() {
                steps.push(Step::Boot(n));
                continue;
            }
            if used.single < most.single {
                steps.extend((!w.wire[n].is_empty()).then_some(Step::Deliver(n)));
                steps.extend((!w.owed[n].is_empty()).then_some(Step::Stored(n)));
                steps.extend((!w.answers[n].is_empty()).then_some(Step::Answer(n)));
            }
            if used.jumps < most.jumps {
                steps.extend([Step::Jump(n, 3_500), Step::Jump(n, 41_000)]);
            }
            if used.faults < most.faults {
                steps.extend([Step::Crash(n, true), Step::Crash(n, false)]);
            }
            let serves = w.mounted[n] || w.left[n] && w.node(n).view().serving;
            if used.faults < most.faults && w.node(n).view().role != Role::Failed {
                steps.push(Step::Fail(n));
            }
            if used.writes < most.writes && serves {
                steps.push(Step::Write(n));
            }
            if used.handovers < most.handovers && w.mounted[n] {
                steps.push(Step::Switchover(n));
            }
        }
        if used.single < most.single && !w.questions.is_empty() {
            steps.push(Step::Ask);
        }
        if !w.shots.is_empty() {
            steps.extend((used.single < most.single).then_some(Step::Shoot(Agent::Works)));
            if used.faults < most.faults {
                steps.extend([Agent::Fails, Agent::Silent, Agent::ShootsSilently].map(Step::Shoot));
            }
        }
        if self.leases && used.jumps < most.jumps {
            steps.push(Step::Beats);
        }
        if w.link.is_some() && used.faults < most.faults {
            steps.push(Step::Cut);
        }
        if !self.severed && w.link.is_none() && w.nodes.iter().all(Option::is_some) {
            steps.push(Step::Connect);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let (w, used) = (&mut state.world, &mut state.used);
        used.single +=
            u8::from(matches!(step, Step::Deliver(_) | Step::Stored(_) | Step::Ask | Step::Answer(_)))
                + u8::from(step == Step::Shoot(Agent::Works));
        used.jumps += u8::from(matches!(step, Step::Jump(..) | Step::Beats));
        let agent = matches!(step, Step::Shoot(agent) if agent != Agent::Works);
        used.faults += u8::from(matches!(step, Step::Cut | Step::Crash(..) | Step::Fail(_)) || agent);
        match step {
            Step::Deliver(n) => drop(w.deliver(n)),
            Step::Stored(n) => drop(w.pay(n)),
            Step::Ask => drop(w.ask()),
            Step::Answer(n) => drop(w.answer(n)),
            Step::Shoot(agent) => drop(w.shoot(agent)),
            Step::Usual(rounds) => self.usual(w, rounds),
            Step::Connect => w.connect(),
            Step::Boot(n) => w.boot(n),
            Step::Jump(n, ms) => w.jump(n, ms),
            Step::Beats => {
                for n in [A, B] {
                    w.clocks[n] = w.clocks[n] + Span::from_millis(500);
                    w.step(n, Event::Tick);
                }
                self.usual(w, 200);
            }
            Step::Cut => w.part(),
            Step::Crash(n, keep) => w.crash(n, keep),
            Step::Write(n) => {
                used.writes += 1;
                w.write(n, Kind::WriteFlush, u64::from(used.writes) % 2);
            }
            Step::Fail(n) => w.fail_disk(n),
            Step::Switchover(n) => {
                used.handovers += 1;
                w.operator(n, Operator::Switchover);
            }
        }
        if !self.leases {
            w.beats.iter_mut().for_each(std::collections::VecDeque::clear);
        }
        w.note_broken();
        Some(calm(state))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let [solo, failover, handover, rejoin, tested] = REACHED;
        let mut all = vec![
            Property::always(PROMISES, |_, state: &State| state.world.check().is_ok()),
            Property::always(HEALS, |model: &Pair, state: &State| {
                model.mutations != Mutations::default()
                    || !state.key.is_multiple_of(HEAL_EVERY)
                    || heals(state)
            }),
            Property::sometimes(handover, |_, state: &State| {
                state.world.mounted[B] && member_record(&state.world, B)
            }),
            Property::sometimes(tested, |_, state: &State| {
                state.world.promotions > 1 && state.world.promised.iter().any(|values| !values.contains(&0))
            }),
        ];
        all.push(Property::sometimes(FRONT, |_, state: &State| {
            let works = |n: usize| state.world.nodes[n].as_ref().is_some_and(|node| node.view().front);
            works(A) && state.world.disks[B].state.record.is_some_and(|r| r.members.solo() == Some(id(B)))
        }));
        // In yield mode only a takeover ends with one member; in manual mode only the primary goes on.
        if self.arbitration != Arbitration::Yield {
            all.push(Property::sometimes(solo, |_, state: &State| alone(&state.world, A)));
        }
        if self.arbitration != Arbitration::Manual {
            all.push(Property::sometimes(failover, |_, state: &State| alone(&state.world, B)));
        }
        all.push(Property::sometimes(rejoin, |_, state: &State| {
            let v = state.world.nodes[A].as_ref().and_then(|node| node.view().record).map_or(0, |r| r.v);
            v >= 3 && in_sync(&state.world)
        }));
        if self.leases && self.arbitration != Arbitration::Manual {
            all.push(Property::sometimes(LAPSE, |_, state: &State| state.world.freezes > 0));
        }
        all
    }
}

struct Explored {
    states: usize,
    found: BTreeSet<&'static str>,
    trace: String,
}

fn explore(pair: Pair, states: usize) -> Explored {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let checker = pair.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.target_state_count(states).spawn_bfs().join();
    let found = checker.discoveries();
    let failed = found.get(PROMISES).or(found.get(HEALS));
    let trace = failed.map(|path| {
        let steps = path.clone().into_actions();
        let last = path.last_state();
        format!("{steps:?}\n{:?}\n{}", last.world.check(), last.world.why())
    });
    Explored {
        states: checker.unique_state_count(),
        found: found.keys().copied().collect(),
        trace: trace.unwrap_or_default(),
    }
}

/// Steps taken in one configuration; a little more than half of them lead to a new state.
fn states() -> usize {
    if std::env::var_os("TWINFS_LONG").is_some() { 3_000_000 } else { 800_000 }
}

#[test]
fn no_order_of_events_breaks_a_promise_and_everything_heals() {
    for leases in [false, true] {
        for arbitration in [Arbitration::Witness, Arbitration::Fence, Arbitration::Yield, Arbitration::Manual]
        {
            let mut found = BTreeSet::new();
            let mut wanted = BTreeSet::new();
            let mut sum = 0;
            for bounds in [WIDE, DEEP] {
                let pair =
                    Pair { severed: false, arbitration, mutations: Mutations::default(), leases, bounds };
                wanted.extend(pair.properties().into_iter().map(|p| p.name).skip(2));
                let explored = explore(pair, states());
                println!("{arbitration:?}, leases {leases}, {bounds:?}: {} states", explored.states);
                assert!(explored.trace.is_empty(), "{arbitration:?}, leases {leases}: {}", explored.trace);
                found.extend(explored.found);
                sum += explored.states;
            }
            assert_eq!(found, wanted, "{arbitration:?}, leases {leases}: not all was reached");
            assert!(sum >= states() / 2, "{arbitration:?}: only {sum} states");
        }
    }
}

#[test]
fn the_model_itself_finds_what_a_broken_protocol_does() {
    type Broken = (&'static str, Arbitration, Mutations, Used);
    let none = Mutations::default();
    let broken: [Broken; 4] = [
        ("no witness vote", Arbitration::Witness, Mutations { no_witness_vote: true, ..none }, WIDE),
        ("ack before the peer", Arbitration::Witness, Mutations { ack_before_peer: true, ..none }, WIDE),
        ("serve before the copy", Arbitration::Manual, Mutations { serve_before_copy: true, ..none }, NARROW),
        (
            "ignore the target's marks",
            Arbitration::Yield,
            Mutations { ignore_target_marks: true, ..none },
            NARROW,
        ),
    ];
    for (name, arbitration, mutations, bounds) in broken {
        let explored =
            explore(Pair { severed: false, arbitration, mutations, leases: false, bounds }, 100_000);
        println!("{name}: {} states", explored.states);
        assert!(explored.found.contains(PROMISES), "{name}: {} states saw nothing", explored.states);
    }
}

/// A write that the primary alone has, acknowledged or not; then the secondary takes over.
fn acknowledged_before_the_peer(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.write(A, Kind::WriteFlush, 1);
    while w.pay(A) {}
    w.crash(A, true);
    w.run(13_000);
    assert!(w.mounted[B], "{}", w.why());
    w.check().is_err()
}

/// A flush that only the primary made; both lose power, and the other one returns.
fn flushed_here_only(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.write(A, Kind::Write, 1);
    w.settle();
    w.write(A, Kind::Flush, 0);
    while w.pay(A) {}
    w.crash(A, true);
    w.crash(B, false);
    w.boot(B);
    w.run(42_000);
    assert!(w.mounted[B], "{}", w.why());
    w.check().is_err()
}

/// The primary cannot reach the witness; the secondary wins it.
fn acknowledged_before_the_record(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.witness_cut[A] = true;
    w.write(A, Kind::WriteFlush, 1);
    w.part();
    w.run(14_000);
    assert!(w.mounted[B], "{}", w.why());
    w.check().is_err()
}

/// What the old primary wrote and nobody acknowledged is overwritten when it returns.
fn the_targets_own_writes(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.write(A, Kind::WriteFlush, 1);
    w.crash(A, true);
    w.run(13_000);
    w.boot(A);
    w.run(5_000);
    w.check().is_err()
}

/// The primary loses power between telling the joiner and its own record.
fn the_joiner_is_told_first(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Yield, mutations);
    w.crash(B, true);
    w.run(30_000);
    w.operator(A, Operator::Promote { peer_is_down: true });
    w.run(1_000);
    assert!(alone(&w, A), "{}", w.why());
    w.write(A, Kind::WriteFlush, 1);
    w.settle();
    w.boot(B);
    w.connect();
    // The primary's own stores are slow; everything else goes on.
    for _ in 0..200 {
        if !matches!(w.owed[A].front(), Some(Event::Stored { .. })) {
            w.pay(A);
        }
        let _ = w.deliver(A) || w.ask() || w.answer(A);
        let _ = w.pay(B) || w.deliver(B);
    }
    w.crash(A, false);
    w.part();
    w.run(12_000);
    w.boot(A);
    w.run(2_000);
    w.check().is_err()
}

/// A restarted primary's own unacknowledged write, and no copy before both count as equal.
fn served_before_the_copy(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.write(A, Kind::WriteFlush, 1);
    w.crash(A, true);
    w.crash(B, true);
    w.boot(A);
    w.boot(B);
    w.run(3_000);
    w.check().is_err()
}

/// A cut link in yield mode: the old primary may give no answer when the new one serves.
fn answered_beside_the_new_primary(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Yield, mutations);
    w.part();
    let mut both = false;
    for _ in 0..300 {
        w.run(50);
        both |= w.mounted[B] && w.nodes[A].as_ref().unwrap().may_answer(w.clocks[A]);
    }
    assert!(w.mounted[B], "{}", w.why());
    both
}

/// An echo that was under way for six seconds.
fn a_late_echo(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Yield, mutations);
    w.run(550);
    // B hears the newest claim, and its echo is held.
    for n in [A, B] {
        w.clocks[n] = w.clocks[n] + Span::from_millis(500);
        w.step(n, Event::Tick);
    }
    while w.beat(B) {}
    w.clocks[B] = w.clocks[B] + Span::from_millis(500);
    w.step(B, Event::Tick);
    let held = *w.beats[A].back().expect("B answers");
    w.clocks[A] = w.clocks[A] + Span::from_millis(500);
    w.part();
    w.run(5_500);
    w.step(A, Event::Heartbeat { path: twinfs::node::PathId(0), heartbeat: held });
    let mut both = false;
    for _ in 0..140 {
        w.run(50);
        both |= w.mounted[B] && w.nodes[A].as_ref().unwrap().may_answer(w.clocks[A]);
    }
    assert!(w.mounted[B], "{}", w.why());
    both
}

/// Both go on alone.
fn nobody_asked_the_witness(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.part();
    w.run(13_000);
    w.check().is_err()
}

/// The agent of the secondary does not answer; the primary lives and serves.
fn silence_taken_for_success(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Fence, mutations);
    w.agents = [Agent::Silent; 2];
    w.part();
    w.run(30_000);
    w.check().is_err()
}

/// The secondary was fenced, restarts while the link is cut, and fences the only current copy.
fn fenced_after_a_restart(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Fence, mutations);
    w.part();
    w.run(4_000);
    assert!(alone(&w, A) && w.nodes[B].is_none(), "{}", w.why());
    w.write(A, Kind::WriteFlush, 1);
    w.settle();
    w.boot(B);
    w.run(60_000);
    w.check().is_err()
}

/// The secondary fences the primary; the primary restarts and wins the witness.
fn fenced_instead_of_asking_the_witness(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.witness_cut[B] = true;
    // The primary is asleep beyond the deadtime, as far as the secondary can tell.
    w.deaf[B] = true;
    w.part();
    w.jump(B, 16_000);
    w.settle();
    if w.nodes[A].is_none() {
        w.boot(A);
    }
    w.run(60_000);
    w.check().is_err()
}

/// The record of a handover is stored here and nowhere else; the link is cut, and both believe they follow.
fn a_right_given_away_and_kept(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Yield, mutations);
    w.operator(A, Operator::Switchover);
    assert!(w.until(|w| w.disks[A].state.record.is_some_and(|r| r.v == 2)));
    w.part();
    w.run(30_000);
    w.check().is_err()
}

/// The joiner stored the join and the link is cut: the primary holds the lease that the join gave it.
fn a_joiner_that_promises_nothing(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Yield, mutations);
    w.crash(B, true);
    w.run(30_000);
    w.operator(A, Operator::Promote { peer_is_down: true });
    w.run(1_000);
    assert!(alone(&w, A), "{}", w.why());
    w.boot(B);
    w.connect();
    assert!(w.until(|w| w.disks[B].state.record.is_some_and(|r| r.members == Members::BOTH && r.v > 2)));
    while w.pay(B) {}
    w.part();
    let mut both = false;
    for _ in 0..300 {
        w.run(50);
        both |= w.mounted[B] && w.nodes[A].as_ref().unwrap().may_answer(w.clocks[A]);
    }
    both || w.check().is_err()
}

/// A failed disk works again after a restart, and its image knows nothing of what the node noted elsewhere.
fn a_failed_copy_that_is_believed(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Manual, mutations);
    let op = w.write(A, Kind::WriteFlush, 1);
    w.step(A, Event::LocalFailed { op });
    w.run(300);
    assert!(alone(&w, B), "{}", w.why());
    w.part();
    w.crash(A, false);
    w.boot(A);
    w.run(60_000);
    w.check().is_err()
}

/// The old primary of a completed handover has a generation of its own, and a crash leaves its log as if it had written.
fn a_false_split_brain(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.operator(A, Operator::Switchover);
    w.run(2_000);
    assert!(w.mounted[B] && !w.mounted[A], "{}", w.why());
    w.write(B, Kind::Write, 1);
    w.settle();
    w.crash(A, true);
    w.run(5_000);
    assert!(alone(&w, B), "{}", w.why());
    w.write(B, Kind::WriteFlush, 2);
    w.settle();
    w.boot(A);
    w.run(6_000);
    w.check().is_err() || !in_sync(&w)
}

/// The secondary leaves and comes back while the link is cut: the primary went on without fencing it.
fn left_and_back_with_every_right(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Fence, mutations);
    w.operator(B, Operator::Disconnect);
    w.run(1_000);
    assert!(alone(&w, A), "{}", w.why());
    w.write(A, Kind::WriteFlush, 1);
    w.settle();
    w.part();
    w.operator(B, Operator::Connect);
    w.run(60_000);
    w.check().is_err()
}

/// The disk under the primary fails in the middle of a write that only the secondary got, and the witness cannot say that
/// the secondary alone counts. Then the old disk works again, and its node is the recorded primary of two members.
fn acknowledged_by_the_peer_alone(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.witness_cut = [true; 2];
    let op = w.write(A, Kind::WriteFlush, 1);
    w.step(A, Event::LocalFailed { op });
    w.disks[A].cur[1] = 0;
    w.run(2_000);
    w.crash(A, true);
    w.witness_cut = [false; 2];
    w.boot(A);
    w.run(60_000);
    assert!(in_sync(&w), "{}", w.why());
    w.check().is_err()
}

/// The services on a failed disk take their time when the secondary, on whose copy they work, loses its link.
fn served_beside_what_works_on_it(mutations: Mutations) -> bool {
    let mut w = World::whole(Arbitration::Witness, mutations);
    w.fail_disk(A);
    assert!(w.until(|w| !w.mounted[A]), "{}", w.why());
    w.owed[A].clear();
    let link = w.link.expect("it stood");
    w.cut = true;
    w.step(B, Event::LinkDown { link });
    w.run(15_000);
    assert!(w.mounted[B], "{}", w.why());
    w.check().is_err()
}

/// A mutation by name, and whether what it does is seen in a run with the given ones.
type Script = (&'static str, Mutations, fn(Mutations) -> bool);

/// The scripts that break a promise exactly when their mutation is on.
fn scripts() -> Vec<Script> {
    let none = Mutations::default();
    vec![
        ("ack_before_peer", Mutations { ack_before_peer: true, ..none }, acknowledged_before_the_peer),
        ("leave_keeps_right", Mutations { leave_keeps_right: true, ..none }, left_and_back_with_every_right),
        ("lease_from_echo_arrival", Mutations { lease_from_echo_arrival: true, ..none }, a_late_echo),
        (
            "solo_ack_before_record",
            Mutations { solo_ack_before_record: true, ..none },
            acknowledged_before_the_record,
        ),
        ("flush_local_only", Mutations { flush_local_only: true, ..none }, flushed_here_only),
        ("ignore_target_marks", Mutations { ignore_target_marks: true, ..none }, the_targets_own_writes),
        ("joiner_first", Mutations { joiner_first: true, ..none }, the_joiner_is_told_first),
        ("serve_before_copy", Mutations { serve_before_copy: true, ..none }, served_before_the_copy),
        ("no_lease", Mutations { no_lease: true, ..none }, answered_beside_the_new_primary),
        ("no_witness_vote", Mutations { no_witness_vote: true, ..none }, nobody_asked_the_witness),
        ("fence_unanswered", Mutations { fence_unanswered: true, ..none }, silence_taken_for_success),
        ("fence_after_restart", Mutations { fence_after_restart: true, ..none }, fenced_after_a_restart),
        ("fence_as_vote", Mutations { fence_as_vote: true, ..none }, fenced_instead_of_asking_the_witness),
        (
            "handover_keeps_right",
            Mutations { handover_keeps_right: true, ..none },
            a_right_given_away_and_kept,
        ),
        ("forget_promise", Mutations { forget_promise: true, ..none }, a_joiner_that_promises_nothing),
        ("ignore_state_file", Mutations { ignore_state_file: true, ..none }, a_failed_copy_that_is_believed),
        ("handover_mints", Mutations { handover_mints: true, ..none }, a_false_split_brain),
        ("front_unrecorded", Mutations { front_unrecorded: true, ..none }, acknowledged_by_the_peer_alone),
        ("front_unpromised", Mutations { front_unpromised: true, ..none }, served_beside_what_works_on_it),
    ]
}

/// The flags that are on.
fn flags_on(mutations: Mutations) -> BTreeSet<String> {
    format!("{mutations:?}")
        .split([' ', ',', '{', '}'])
        .collect::<Vec<_>>()
        .windows(2)
        .filter(|pair| pair[1] == "true")
        .map(|pair| pair[0].trim_end_matches(':').to_string())
        .collect()
}

#[test]
fn every_deliberate_fault_is_caught_somewhere_and_nothing_is_caught_without_one() {
    let mut caught = BTreeSet::new();
    for (name, mutations, script) in scripts() {
        assert_eq!(flags_on(mutations), BTreeSet::from([name.to_string()]));
        assert!(!script(Mutations::default()), "{name}: broken without the fault");
        assert!(script(mutations), "{name}: not caught");
        caught.insert(name.to_string());
    }
    // The simulator's own test sees each of these.
    for bug in MUTATIONS {
        caught.extend(flags_on(bug.on));
    }
    let all = format!("{:?}", Mutations::default()).matches(": false").count();
    assert_eq!(caught.len(), all, "a flag that no script and no run of the simulator catches: {caught:?}");
}

/// A step as the manual says it.
fn in_words(step: Step) -> String {
    let who = |n: usize| if n == A { "the primary" } else { "the secondary" };
    match step {
        Step::Jump(n, ms) => format!("{} hears nothing for {}", who(n), Span::from_millis(ms)),
        Step::Usual(_) => "what each node then does by itself".to_string(),
        Step::Stored(n) => format!("{} stores its record", who(n)),
        other => format!("{other:?}"),
    }
}

/// Nothing promises that there is one primary, and the manual prints what the model finds.
#[test]
fn a_bare_deadtime_serves_twice_and_the_manual_shows_how() {
    let mutations = Mutations::default();
    // Time alone is enough.
    let bounds = Used { jumps: 2, ..Used::default() };
    let pair = Pair { severed: true, arbitration: Arbitration::Deadtime, mutations, leases: false, bounds };
    let checker = pair.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let path = found.get(PROMISES).expect("two primaries");
    let last = path.last_state().world.check().unwrap_err();
    assert!(last.contains("I1"), "{last}");
    let mut steps = vec!["every link is cut, both nodes live".to_string()];
    steps.extend(path.clone().into_actions().into_iter().map(in_words));
    println!("{} states: {steps:#?}\n{last}", checker.unique_state_count());
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/twinfs.7");
    let page = std::fs::read_to_string(page).expect("the manual").replace('\n', " ");
    for step in steps {
        assert!(page.contains(&step), "twinfs.7 does not say: {step}");
    }
}
