//! Deliberate bugs: each breaks one rule of the protocol, and the simulator must see what comes of it.
//!
//! Decides which bugs there are and how many seeds may pass before each is seen. Knows nothing of how.

use crate::node::Mutations;

/// One deliberate bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    pub name: &'static str,
    pub on: Mutations,
    /// It is seen within this many seeds, counted from 0.
    pub within: u64,
}

const NONE: Mutations = Mutations {
    ack_before_peer: false,
    evict_early: false,
    no_receiver_marks: false,
    mark_only_unacked: false,
    lease_from_echo_arrival: false,
    no_session_check: false,
    solo_ack_before_record: false,
    flush_local_only: false,
    ignore_target_marks: false,
    joiner_first: false,
    serve_before_copy: false,
    no_lease: false,
    no_witness_vote: false,
    no_promise: false,
    lease_too_long: false,
    no_marks_on_loss: false,
    wrong_direction: false,
    no_marks_on_start: false,
    no_solo_marks: false,
    no_copy_marks: false,
    ack_before_apply: false,
    no_receiver_flush: false,
    pause_for_ever: false,
    keep_discarded: false,
    verify_unlocked: false,
    export_rot: false,
    undo_unflushed: false,
    undo_skips_writes: false,
    fence_unanswered: false,
    fence_after_restart: false,
    fence_as_vote: false,
    handover_keeps_right: false,
    forget_promise: false,
    ignore_state_file: false,
    handover_mints: false,
    resolve_unkept: false,
    leave_keeps_right: false,
    forget_failback: false,
    front_unrecorded: false,
    front_unpromised: false,
    front_unmarked: false,
};

const fn bug(name: &'static str, within: u64, on: Mutations) -> Mutation {
    Mutation { name, on, within }
}

/// Every deliberate bug that is seen.
pub const MUTATIONS: &[Mutation] = &[
    bug("ack-before-peer", 20, Mutations { ack_before_peer: true, ..NONE }),
    bug("mark-only-unacked", 400, Mutations { mark_only_unacked: true, ..NONE }),
    bug("evict-early", 60, Mutations { evict_early: true, ..NONE }),
    bug("lease-from-echo-arrival", 500, Mutations { lease_from_echo_arrival: true, ..NONE }),
    bug("lease-too-long", 100, Mutations { lease_too_long: true, ..NONE }),
    bug("no-lease", 400, Mutations { no_lease: true, ..NONE }),
    bug("no-promise", 60, Mutations { no_promise: true, ..NONE }),
    bug("no-session-check", 500, Mutations { no_session_check: true, ..NONE }),
    bug("no-witness-vote", 60, Mutations { no_witness_vote: true, ..NONE }),
    bug("solo-ack-before-record", 100, Mutations { solo_ack_before_record: true, ..NONE }),
    bug("flush-local-only", 60, Mutations { flush_local_only: true, ..NONE }),
    bug("serve-before-copy", 100, Mutations { serve_before_copy: true, ..NONE }),
    bug("wrong-direction", 40, Mutations { wrong_direction: true, ..NONE }),
    bug("no-marks-on-loss", 150, Mutations { no_marks_on_loss: true, ..NONE }),
    bug("no-marks-on-start", 100, Mutations { no_marks_on_start: true, ..NONE }),
    bug("no-solo-marks", 60, Mutations { no_solo_marks: true, ..NONE }),
    bug("no-copy-marks", 60, Mutations { no_copy_marks: true, ..NONE }),
    bug("ack-before-apply", 150, Mutations { ack_before_apply: true, ..NONE }),
    bug("no-receiver-flush", 20, Mutations { no_receiver_flush: true, ..NONE }),
    bug("verify-unlocked", 100, Mutations { verify_unlocked: true, ..NONE }),
    bug("export-rot", 500, Mutations { export_rot: true, ..NONE }),
    bug("pause-for-ever", 100, Mutations { pause_for_ever: true, ..NONE }),
    bug("undo-unflushed", 500, Mutations { undo_unflushed: true, ..NONE }),
    bug("undo-skips-writes", 500, Mutations { undo_skips_writes: true, ..NONE }),
    bug("keep-discarded", 500, Mutations { keep_discarded: true, ..NONE }),
    bug("resolve-unkept", 500, Mutations { resolve_unkept: true, ..NONE }),
    bug("forget-failback", 500, Mutations { forget_failback: true, ..NONE }),
    bug("front-unmarked", 500, Mutations { front_unmarked: true, ..NONE }),
    BOTH_LOGS,
];

/// What a follower may lose lies in two logs: its own, until it flushed, and the primary's, until both did. Either is
/// enough. Without both, data is lost.
pub const BOTH_LOGS: Mutation =
    bug("no-log-of-either", 500, Mutations { evict_early: true, no_receiver_marks: true, ..NONE });

/// The half of `BOTH_LOGS` that nothing but the other half hides: harmless alone.
pub const RECEIVER_LOG: Mutation = bug("no-receiver-marks", 0, Mutations { no_receiver_marks: true, ..NONE });

/// Not seen in 40 seeds: other rules hide what they do, or the world lacks what would show it. (`front-unpromised` in
/// 500: a cut that one side notices would have to fall into the moments in which services stop; a scenario sees it.)
const UNSEEN: [Mutation; 4] = [
    bug("front-unrecorded", 0, Mutations { front_unrecorded: true, ..NONE }),
    bug("front-unpromised", 0, Mutations { front_unpromised: true, ..NONE }),
    bug("ignore-target-marks", 0, Mutations { ignore_target_marks: true, ..NONE }),
    bug("joiner-first", 0, Mutations { joiner_first: true, ..NONE }),
];

/// The deliberate bug called `name`.
pub fn mutation(name: &str) -> Option<Mutations> {
    let all = MUTATIONS.iter().chain(&UNSEEN).chain([&RECEIVER_LOG]);
    all.copied().find(|mutation| mutation.name == name).map(|mutation| mutation.on)
}
