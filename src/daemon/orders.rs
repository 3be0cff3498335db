//! Verify runs: begun and ended by order, and begun by themselves when a scrub is due.
//!
//! Decides whether a run may begin. Does not know how it goes: the machine does.

use std::rc::Rc;
use std::time::Duration;

use crate::node::{Operator, StateWord, Task, VerifyProgress};
use crate::sys::clock;

use super::protocol::{Reply, Verdict};
use super::runtime::Running;
use super::volume::Volume;

/// Between two looks whether a scrub is due.
const LOOK_EVERY: Duration = Duration::from_secs(10);

fn begin(volume: &Volume, task: Task) {
    volume.order(Operator::Verify(VerifyProgress { task, ..VerifyProgress::default() }));
}

pub fn verify(running: &Running, volume: &Volume, task: Task) -> Reply {
    let (name, peer) = (&volume.name, running.name(running.me.other()));
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    match view.verify {
        Some(run) if run.task == task => return Reply::done(format!("{name}: goes on")),
        Some(_) => {
            let text = format!("{name}: another verify runs; \"twinfs verify --stop\" ends it");
            return Reply::new(Verdict::TryAgain, text);
        }
        None => {}
    }
    if !task.local && (!view.connected || view.state != StateWord::InSync) {
        let why = "the copies cannot be compared now";
        let text = format!("{name}: {why}: {} ({}); --local looks at this one", view.state, view.reason.text);
        return Reply::new(if view.connected { Verdict::TryAgain } else { Verdict::PeerUnreachable }, text);
    }
    if !task.local && !view.serving {
        let text =
            format!("{name}: both copies are compared by the primary: say it on {peer}, or --local here");
        return Reply::new(Verdict::NoRight, text);
    }
    begin(volume, task);
    Reply::done(format!("{name}: begun; \"twinfs status\" shows how far it is"))
}

pub fn stop_verify(volume: &Volume) -> Reply {
    volume.order(Operator::StopVerify);
    Reply::done(format!("{}: no verify runs", volume.name))
}

/// Begins the scrubs that are due, for ever: each node looks through its own copy and repairs what rotted.
pub async fn scrub(running: Rc<Running>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for volume in running.volumes() {
            if volume.view().is_some_and(|view| view.state == StateWord::InSync) {
                let file = std::sync::Arc::clone(&volume.node_file);
                // A note that fails is made again; whatever hinders it hinders the machine's own notes, which are told.
                let note = move || file.note_current(clock::unix_ms(), false);
                let _ = tokio::task::spawn_blocking(note).await;
            }
            let Some(every) = volume.settings.scrub else { continue };
            let idle = volume.view().is_some_and(|view| view.verify.is_none());
            if idle && volume.verify.is_due(every, clock::unix_ms()) {
                begin(volume, Task { local: true, repair: true });
            }
        }
    }
}
