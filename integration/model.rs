//! The production `step` function under a model checker: every order of deliveries, stores, cuts and crashes within
//! small bounds, without any clock (a node's time may jump at any moment, so leases are switched off: writes must be
//! safe without them).
#![allow(clippy::unwrap_used, reason = "a test")]

mod pair;

use std::hash::{Hash, Hasher};

use pair::{A, B, World};
use stateright::{Checker, Model, Property};
use twinfs::node::{Arbitration, Event, Mutations};
use twinfs::wire::Kind;

#[derive(Clone, Debug)]
struct State {
    world: World,
    writes: u8,
    faults: u8,
    jumps: u8,
    key: u64,
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
    Jump(usize, u64),
    Cut,
    Connect,
    Crash(usize, bool),
    Boot(usize),
    Write(usize),
}

struct Pair {
    arbitration: Arbitration,
    mutations: Mutations,
}

/// What a node's own shell owes it is paid at once, except stores: a crash may come between.
fn calm(mut state: State) -> State {
    let w = &mut state.world;
    for n in [A, B] {
        w.beats[n].clear();
        while w.owed[n].front().is_some_and(|event| !matches!(event, Event::Stored { .. })) {
            w.pay(n);
        }
        w.beats[n].clear();
    }
    let digest = blake3::hash(format!("{:?}", (w, state.writes, state.faults, state.jumps)).as_bytes());
    state.key = u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap());
    state
}

impl Model for Pair {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let world = World::whole(self.arbitration, Mutations { no_lease: true, ..self.mutations });
        vec![calm(State { world, writes: 0, faults: 0, jumps: 0, key: 0 })]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let w = &state.world;
        for n in [A, B] {
            if w.nodes[n].is_none() {
                steps.push(Step::Boot(n));
                continue;
            }
            if !w.wire[n].is_empty() {
                steps.push(Step::Deliver(n));
            }
            if !w.owed[n].is_empty() {
                steps.push(Step::Stored(n));
            }
            if !w.answers[n].is_empty() {
                steps.push(Step::Answer(n));
            }
            if state.jumps < 2 {
                steps.extend([Step::Jump(n, 3_500), Step::Jump(n, 41_000)]);
            }
            if state.faults < 2 {
                steps.extend([Step::Crash(n, true), Step::Crash(n, false)]);
            }
            if state.writes < 2 && w.mounted[n] {
                steps.push(Step::Write(n));
            }
        }
        if !w.questions.is_empty() {
            steps.push(Step::Ask);
        }
        if w.link.is_some() && state.faults < 2 {
            steps.push(Step::Cut);
        }
        if w.link.is_none() && w.nodes.iter().all(Option::is_some) {
            steps.push(Step::Connect);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let w = &mut state.world;
        match step {
            Step::Deliver(n) => drop(w.deliver(n)),
            Step::Stored(n) => drop(w.pay(n)),
            Step::Ask => drop(w.ask()),
            Step::Answer(n) => drop(w.answer(n)),
            Step::Connect => w.connect(),
            Step::Boot(n) => w.boot(n),
            Step::Jump(n, ms) => {
                state.jumps += 1;
                w.jump(n, ms);
            }
            Step::Cut => {
                state.faults += 1;
                w.cut_link();
            }
            Step::Crash(n, keep) => {
                state.faults += 1;
                w.crash(n, keep);
            }
            Step::Write(n) => {
                state.writes += 1;
                w.write(n, Kind::WriteFlush, u64::from(state.writes) % 2);
            }
        }
        Some(calm(state))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("promises I1, I3, I4, I6, I8", |_, state: &State| state.world.check().is_ok()),
            Property::sometimes("takeover", |_, state: &State| state.world.mounted[B]),
        ]
    }
}

fn explore(arbitration: Arbitration, mutations: Mutations, states: usize) -> (bool, bool, usize) {
    let checker = Pair { arbitration, mutations }.checker().target_state_count(states).spawn_bfs().join();
    let found = checker.discoveries();
    let broken = found.contains_key("promises I1, I3, I4, I6, I8");
    (broken, found.contains_key("takeover"), checker.unique_state_count())
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    for arbitration in [Arbitration::Witness, Arbitration::Yield, Arbitration::Manual] {
        let (broken, _, states) = explore(arbitration, Mutations::default(), 30_000);
        assert!(!broken, "{arbitration:?}");
        assert!(states >= 10_000, "{arbitration:?}: only {states} states");
    }
}

#[test]
fn the_model_catches_a_takeover_without_the_witness() {
    let mutations = Mutations { no_witness_vote: true, ..Mutations::default() };
    assert!(explore(Arbitration::Witness, mutations, 60_000).0);
}

#[test]
fn a_script_catches_an_acknowledgement_before_the_peer() {
    for (mutated, caught) in [(false, false), (true, true)] {
        let mutations = Mutations { ack_before_peer: mutated, ..Mutations::default() };
        let mut w = World::whole(Arbitration::Witness, mutations);
        w.write(A, Kind::WriteFlush, 1);
        while w.pay(A) {}
        w.crash(A, true);
        w.run(13_000);
        assert!(w.mounted[B], "{}", w.why());
        assert_eq!(w.check().is_err(), caught);
    }
}
