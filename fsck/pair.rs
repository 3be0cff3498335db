//! Whose image it is: one of a pair is written only by the pair, or by force after it has left the pair.
//!
//! Invariant (W24): before a block of an image whose record names two members is written, a generation is minted.

use twinfs::base::{Generation, Members};
use twinfs::format::{GenEntry, GenReason, State};
use twinfs::image::{Image, ImageError};
use twinfs::sys::random;

/// Whether somebody else has a copy that would not get what is written here.
pub fn is_pair(state: &State) -> bool {
    state.record.is_some_and(|record| record.members != Members::only(state.node))
}

/// Why a repair is refused.
pub fn refusal(state: &State) -> String {
    let members = state.record.map_or(String::new(), |record| format!(" {}", record.members));
    format!(
        "nothing was repaired: the image belongs to a pair in sync{members}, and repairing it alone makes it \
         diverge from the other copy; copy it again from the peer, or use --force to go on with this copy alone"
    )
}

/// Leaves the pair: mints a generation and goes on alone.
pub fn leave(image: &Image) -> Result<(), ImageError> {
    image.store(&alone(image.state(), Generation(random::id128())))
}

fn alone(mut state: State, id: Generation) -> State {
    let base = state.head();
    // What a repair changes is in no log, and what was put aside before it is not all any more.
    let led =
        state.record.is_some_and(|record| record.members == Members::BOTH && record.primary == state.node);
    state.apart = twinfs::format::Apart { led: led || state.apart.led, ..twinfs::format::Apart::default() };
    if let Some(record) = &mut state.record {
        record.v += 1;
        record.members = Members::only(state.node);
        record.primary = state.node;
        let at_v = record.v;
        let minted_by = state.node;
        state.gens.push(GenEntry { id, minted_by, at_v, reason: GenReason::Standalone, first_txn: 0 });
    }
    let surplus = state.gens.len().saturating_sub(twinfs::base::limits::GENERATIONS_MAX);
    state.gens.drain(..surplus);
    state.bitmap_base = base;
    state
}
