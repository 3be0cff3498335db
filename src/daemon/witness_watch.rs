//! Whether the witness answers, looked at while nobody needs it: its absence must be known before a failure.
//!
//! Decides how often it is asked and when its silence is told. Does not decide what an answer means for the right to
//! serve: only reads are asked here, and no answer reaches a machine. Invariants: one question at a time; silence is
//! told once, and so is its end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::base::{Members, Moment, Span, VolumeId};
use crate::events::Event as Told;
use crate::node::{Event, StateWord};
use crate::sys::clock;
use crate::wire::{WitnessReply, WitnessRequest};

use super::arbiter::Arbiter;
use super::runtime::Running;
use super::volume::Volume;

/// Between two looks: at most this, and less with a short deadtime.
const EVERY: Span = Span::from_secs(10);
/// While it does not know a volume.
const SOON: Span = Span::from_secs(2);
/// Before silence counts it is asked once more after this.
const AGAIN: Span = Span::from_millis(500);

/// What is known about the witness.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub answered: Option<Moment>,
    /// Why it does not answer, in words; `None` while it does.
    pub problem: Option<String>,
    /// Volumes of which it has no record.
    pub unknown: BTreeSet<VolumeId>,
}

/// The witness, as this daemon sees it.
pub struct WitnessWatch {
    pub client: Rc<Arbiter>,
    seen: RefCell<Seen>,
}

impl WitnessWatch {
    pub fn new(client: Arbiter) -> WitnessWatch {
        WitnessWatch { client: Rc::new(client), seen: RefCell::default() }
    }

    pub fn target(&self) -> String {
        self.client.target()
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Asks now; the error says why there is no answer.
    pub async fn ask(&self, volume: VolumeId) -> Result<(), String> {
        let answer = self.client.ask(volume, WitnessRequest::Read).await;
        let mut seen = self.seen.borrow_mut();
        match answer {
            Ok(reply) => {
                seen.answered = Some(clock::now());
                seen.problem = None;
                match reply {
                    WitnessReply::Unknown { .. } | WitnessReply::Waiting { .. } => {
                        seen.unknown.insert(volume)
                    }
                    _ => seen.unknown.remove(&volume),
                };
                Ok(())
            }
            Err(error) => {
                seen.problem = Some(error.clone());
                Err(error)
            }
        }
    }
}

/// Looks for ever.
pub async fn watch(running: Rc<Running>) {
    let Some(watch) = &running.witness else { return };
    let every = EVERY.min(running.config.timing.deadtime);
    let (mut silent, mut forgotten) = (false, BTreeSet::new());
    loop {
        for volume in running.volumes() {
            let mut answer = watch.ask(volume.id).await;
            if answer.is_err() && !silent {
                tokio::time::sleep(AGAIN.as_duration()).await;
                answer = watch.ask(volume.id).await;
            }
            let address = watch.target();
            match (answer, silent) {
                (Err(_), false) => running.journal.tell(None, Told::WitnessSilent { address }),
                (Ok(()), true) => running.journal.tell(None, Told::WitnessBack { address }),
                _ => {}
            }
            silent = watch.seen().problem.is_some();
            if watch.seen().unknown.contains(&volume.id) && enrolled(volume) {
                // Both nodes are there: they enrol the volume again by themselves.
                volume.mirror.deliver(Event::WitnessDoubt);
                if forgotten.insert(volume.id) {
                    let address = watch.target();
                    running.journal.tell(Some(&volume.name), Told::WitnessForgot { address });
                }
            } else {
                forgotten.remove(&volume.id);
            }
        }
        let unsettled = !watch.seen().unknown.is_empty();
        tokio::time::sleep(if unsettled { every.min(SOON) } else { every }.as_duration()).await;
    }
}

/// Whether both nodes are members and have been long enough for the witness to know.
fn enrolled(volume: &Volume) -> bool {
    volume.view().is_some_and(|view| {
        view.state == StateWord::InSync
            && view.record.is_some_and(|record| record.members == Members::BOTH)
            && clock::now().since(view.since) > Span::from_secs(2)
    })
}
