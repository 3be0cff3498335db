//! The control plane's look at the paths: probes, questions to the witness, and what is worth telling.
//!
//! Decides when a path is told to be silent, and nothing about ownership. Does not know sockets. Runs on the
//! one-threaded runtime.

use std::rc::Rc;

use crate::base::{Moment, Span};
use crate::config::Timing;
use crate::events;
use crate::link::{Cause, Late, Refused};
use crate::node::Event;
use crate::sys::{clock, random};
use crate::wire::feature;

use super::runtime::Running;
use super::shell::Question;

/// Between two probes of a path, at least.
const PROBE_EVERY: Span = Span::from_secs(1);
/// Nobody waits longer than this to hear that a cable is out, however long `deadtime` is.
const SILENT: Span = Span::from_secs(10);

/// Asks the witness what the machines want asked. Ends with the last volume.
pub async fn ask_witness(running: Rc<Running>, mut out: tokio::sync::mpsc::UnboundedReceiver<Question>) {
    while let Some(Question { volume, nonce, request }) = out.recv().await {
        let Some(client) = running.witness.as_ref().map(|watch| Rc::clone(&watch.client)) else {
            continue;
        };
        let running = Rc::clone(&running);
        tokio::task::spawn_local(async move {
            // Without an answer the machine asks again by itself.
            if let Ok(reply) = client.ask(volume, request).await
                && let Some(volume) = running.volume_by_id(volume)
            {
                volume.mirror.deliver(Event::WitnessReply { nonce, reply });
            }
        });
    }
}

fn tell_late(running: &Running, path: usize, late: Late) {
    let why = match late.cause {
        Cause::Lost(1) => "the one before it was lost on the way".to_string(),
        Cause::Lost(count) => format!("{count} before it were lost on the way"),
        Cause::Delayed => "none is missing, so it was sent late or held up".to_string(),
        Cause::HeldUp => "this machine was held up itself".to_string(),
    };
    let (path, remote) = path_and_remote(running, path);
    let gap_ms = late.gap.as_millis();
    running.journal.tell(None, events::Event::HeartbeatsLate { path, remote, gap_ms, why });
}

fn path_and_remote(running: &Running, path: usize) -> (u32, String) {
    let remote = running.config.node(running.me.other()).ends().into_iter().nth(path).unwrap_or_default();
    (u32::try_from(path).unwrap_or(u32::MAX), remote)
}

/// A path that is silent for so long is told to be, while it is. What was shorter is late.
fn silent_max(timing: &Timing) -> Span {
    timing.warntime.max(timing.deadtime.min(SILENT))
}

/// Asks whether each path works both ways and how long that takes, once a second at most.
pub async fn probe(running: Rc<Running>) {
    let every = running.config.timing.keepalive.max(PROBE_EVERY).as_duration();
    let mut able = false;
    loop {
        tokio::time::sleep(every).await;
        // Once it said so it goes on: probes matter most while no stream stands. A peer of an earlier version says no.
        let said = running.volumes().iter().filter_map(|volume| volume.view());
        let said = said.map(|view| view.peer_features).find(|features| *features != 0);
        able = said.map_or(able, |features| features & feature::PROBE != 0);
        if !able {
            continue;
        }
        let paths = running.pulse.book().paths.len();
        for path in 0..paths {
            let (now, nonce) = (clock::now(), random::id128());
            let ask = running.pulse.book().paths.get_mut(path).is_some_and(|book| {
                // Where nothing comes there is nothing to find out.
                let heard = book.flow.heard.is_some_and(|at| now.since(at) < running.config.timing.warntime);
                if heard {
                    book.probes.ask(now, nonce);
                }
                heard
            });
            if ask {
                running.pulse.ask(path, nonce);
            }
        }
    }
}

/// What was said about a path.
#[derive(Clone, Copy, Default)]
struct Said {
    /// Told to the streams: it was heard within `warntime`.
    alive: bool,
    /// Told to people.
    up: bool,
}

/// Looks at the paths and at strangers, and tells what the pulse has noticed, twice per keepalive.
pub async fn watch(running: Rc<Running>) {
    let half = Span(running.config.timing.keepalive.0 / 2);
    let mut said = vec![Said::default(); running.pulse.book().paths.len()];
    let mut strangers = (clock::now(), Refused::default());
    let mut quiet = false;
    loop {
        tokio::time::sleep(half.as_duration()).await;
        let news = running.pulse.news();
        for slept in news.slept {
            running.journal.tell(None, events::Event::ClockJumped { slept_ms: slept.as_millis() });
        }
        for (path, late) in news.late {
            // A silence that was told while it lasted is not told again.
            if late.gap < silent_max(&running.config.timing) {
                tell_late(&running, path, late);
            }
        }
        let now = clock::now();
        for (path, said) in said.iter_mut().enumerate() {
            look(&running, path, said, now);
        }
        tell_quiet(&running, &mut quiet, now);
        if now.since(strangers.0).as_millis() >= 60_000 {
            strangers = (now, tell_strangers(&running, strangers.1));
        }
    }
}

fn look(running: &Running, path: usize, said: &mut Said, now: Moment) {
    let (silent, over) = {
        let mut links = running.pulse.book();
        let Some(book) = links.paths.get_mut(path) else { return };
        (book.flow.heard.map(|at| now.since(at)), book.episode_over(now))
    };
    let timing = &running.config.timing;
    let alive = silent.is_some_and(|silent| silent < timing.warntime);
    if alive != said.alive {
        said.alive = alive;
        running.paths.set_alive(path, alive);
    }
    let (number, remote) = path_and_remote(running, path);
    if let Some((times, worst)) = over {
        let (remote, worst_ms) = (remote.clone(), worst.as_millis());
        let event = events::Event::HeartbeatsWereLate { path: number, remote, times, worst_ms };
        running.journal.tell(None, event);
    }
    let up = silent.is_some_and(|silent| silent < silent_max(timing));
    if up != said.up {
        said.up = up;
        let silent_ms = silent.map_or(0, Span::as_millis);
        running.journal.tell(
            None,
            match up {
                true => events::Event::PathUp { path: number, remote },
                false => events::Event::PathDown { path: number, remote, silent_ms },
            },
        );
    }
}

/// Tells a silence on every path, once until one of them is heard again. Who was never heard is not missed.
fn tell_quiet(running: &Running, quiet: &mut bool, now: Moment) {
    let newest = running.pulse.book().paths.iter().filter_map(|path| path.flow.heard).max();
    let Some(silent) = newest.map(|at| now.since(at)) else { return };
    let is = silent >= running.config.timing.warntime;
    if is && !*quiet {
        let (peer, silent_ms) = (running.me.other(), silent.as_millis());
        running.journal.tell(None, events::Event::PeerQuiet { peer, silent_ms });
    }
    *quiet = is;
}

/// Tells what was refused since `before`, if anything was; answers with the count of now.
fn tell_strangers(running: &Running, before: Refused) -> Refused {
    let now = running.pulse.book().refused();
    let count = now.total() - before.total();
    if count > 0 {
        let (forged, replayed) = (now.forged - before.forged, now.replayed - before.replayed);
        let foreign = now.foreign - before.foreign;
        let why = format!(
            "{forged} forged, altered or under another key, {replayed} repeated, {foreign} of somebody else; \"twinfs \
             status --links\" has the paths"
        );
        running.journal.tell(None, events::Event::StrangersRefused { count, why });
    }
    now
}
