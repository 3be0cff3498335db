//! Words of an administrator that stand in for an agent's, or hold a node back.
//!
//! Decides whether a word is about what is waited for now. Invariants: a word that the peer has stopped counts for one
//! request only, whose code came with the consequence; "hold" is noted before it is in force, and over restarts.

use std::sync::Arc;
use std::time::Duration;

use crate::events::Event as Told;
use crate::node::{FenceView, Operator};
use crate::sys::clock;

use super::protocol::{Reply, Verdict};
use super::roles::{serves, switchover};
use super::runtime::{Running, can_hand_over, is_serving, wait_until};
use super::status::age;
use super::volume::Volume;

/// For the record, the mount and the services after the word.
const LIMIT: Duration = Duration::from_secs(60);

/// By what a request is known to people.
pub fn code(fencing: &FenceView) -> String {
    let hash = blake3::hash(&fencing.nonce.to_le_bytes());
    hash.as_bytes()[..3].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The administrator states that the peer has stopped since the agents were asked.
pub async fn confirm(running: &Running, volume: Arc<Volume>, given: Option<String>) -> Reply {
    let (name, peer) = (&volume.name, running.name(running.me.other()));
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    let Some(fencing) = view.fencing else {
        let text = format!("{name}: nothing to confirm: no fence agent was asked to stop {peer}");
        return Reply::new(Verdict::NoRight, text);
    };
    let (code, since) = (code(&fencing), age(clock::now().since(fencing.since).as_millis()));
    let Some(given) = given else {
        let text = format!(
            "{name}: you would state that {peer} was switched off or restarted within the last {since}, after its \
             fence agents were asked; if it was not, both nodes write, and what one of them wrote is lost; go and \
             look, then: twinfs fence-confirm {name} --code {code}"
        );
        return Reply::new(Verdict::NoRight, text);
    };
    if given != code {
        let text = format!(
            "{name}: {given} is not the code of the request that is under way: \"twinfs fence-confirm {name}\" shows it"
        );
        return Reply::new(Verdict::NoRight, text);
    }
    let command = format!("fence-confirm {name}: {peer} has stopped");
    running.journal.tell(Some(name), Told::Forced { command, who: "an administrator".to_string() });
    volume.order(Operator::FenceConfirm { nonce: fencing.nonce });
    if fencing.leftover {
        return Reply::done(format!("{name}: the request of the earlier daemon is settled by your word"));
    }
    if wait_until(&volume, LIMIT, serves).await {
        return Reply::done(format!("{name}: is primary now, without {peer}"));
    }
    let why = volume.view().map(|view| view.reason.text).unwrap_or_default();
    Reply::new(Verdict::TryAgain, format!("{name}: your word is noted, and it does not serve yet: {why}"))
}

/// Takes no step without the peer from now on, or does again.
pub async fn hold(running: &Running, volume: Arc<Volume>, on: bool) -> Reply {
    let (name, peer) = (&volume.name, running.name(running.me.other()));
    let file = Arc::clone(&volume.node_file);
    let noted = tokio::task::spawn_blocking(move || file.note_held(on)).await;
    match noted {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Reply::new(Verdict::Failed, format!("{name}: nothing changed: {why}")),
        Err(_) => {
            return Reply::new(Verdict::Failed, format!("{name}: nothing changed: a panic; see the journal"));
        }
    }
    volume.order(Operator::Hold(on));
    running.journal.tell(Some(name), Told::Held { on });
    if !on {
        return Reply::done(format!("{name}: not held any more"));
    }
    let held = format!(
        "{name}: held, over restarts: this node neither takes over nor goes on without {peer}, nor fails back, until \
         \"twinfs hold --off\""
    );
    if !is_serving(&volume) {
        return Reply::done(held);
    }
    if can_hand_over(&volume) {
        let moved = switchover(running, Arc::clone(&volume)).await;
        return Reply { text: format!("{held}\n{}", moved.text), ..moved };
    }
    // Said, because it is the dangerous half: the primary would now wait for a peer that dies.
    Reply::done(format!(
        "{held}; {peer} cannot take it, so it is still served here, and waits should {peer} be lost"
    ))
}
