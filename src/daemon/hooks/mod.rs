//! Calls the program of `[notify]`: on each node for itself, on threads of its own.
//!
//! Decides what the program is given and that it never runs twice at once for one word. What is worth a call is decided
//! in `rules`. Does not know what the program does. Invariants: nothing waits for it; it is killed with its process
//! group after its time; that it does not work is told once, until it worked again; what waits for it is bounded.
#![allow(clippy::disallowed_methods, reason = "a shell: threads and processes")]

mod rules;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::base::NodeId;
use crate::config::{Config, Notify};
use crate::events::{Entry, Event as Told, Names};
use crate::services::agent;
use crate::sys::{clock, exec};

use super::journal;
use super::journal::Journal;
use super::status;
use super::volume::Volume;
use rules::{News, Watch, Word};

/// Between two looks at the volumes.
const LOOK: Duration = Duration::from_millis(200);
/// Calls that wait behind one that runs, for each word: one for every volume of a large node.
const WAITING_MAX: usize = 64;
/// Of the object on standard input; grows when a field changes its meaning.
const SCHEMA: u64 = 1;

/// What one call is about.
#[derive(Clone, Debug)]
struct Call {
    word: Word,
    volume: String,
    node: String,
    peer: String,
    /// One line.
    text: String,
    unix_ms: u64,
}

impl Call {
    fn args(&self) -> Vec<String> {
        let all = [self.word.as_str(), &self.volume, &self.node, &self.peer, &self.text];
        all.map(str::to_string).to_vec()
    }

    fn env(&self) -> Vec<(String, String)> {
        let names = ["TWINFS_EVENT", "TWINFS_VOLUME", "TWINFS_NODE", "TWINFS_PEER", "TWINFS_TEXT"];
        names.into_iter().map(str::to_string).zip(self.args()).collect()
    }

    fn json(&self) -> String {
        let object = serde_json::json!({
            "schema": SCHEMA, "event": self.word.as_str(), "volume": self.volume, "node": self.node,
            "peer": self.peer, "text": self.text, "unix_ms": self.unix_ms,
        });
        format!("{object}\n")
    }

    /// The error says in one line why the program was not told.
    fn make(&self, notify: &Notify) -> Result<(), String> {
        let ran = agent::run_trusted(&notify.argv, &self.args(), self.env(), &self.json(), notify.timeout)?;
        if ran.succeeded() { Ok(()) } else { Err(ran.describe()) }
    }
}

/// Makes the calls: one thread for each word.
struct Caller {
    queues: Vec<(Word, SyncSender<Call>)>,
    journal: Arc<Journal>,
    /// Words whose queue was full, until it was not.
    full: Vec<Word>,
}

impl Caller {
    /// The threads end with the caller.
    fn start(notify: &Notify, journal: &Arc<Journal>) -> Caller {
        let queues = Word::ALL.map(|word| {
            let (sender, queue) = sync_channel(WAITING_MAX);
            let (notify, journal) = (notify.clone(), Arc::clone(journal));
            std::thread::spawn(move || work(&notify, &journal, &queue));
            (word, sender)
        });
        Caller { queues: queues.into(), journal: Arc::clone(journal), full: Vec::new() }
    }

    /// Never blocks: what finds no room is told as an event, and only there.
    fn call(&mut self, call: Call) {
        let Some((word, queue)) = self.queues.iter().find(|(word, _)| *word == call.word) else { return };
        let (word, volume) = (*word, call.volume.clone());
        if queue.try_send(call).is_ok() {
            self.full.retain(|full| *full != word);
        } else if !self.full.contains(&word) {
            self.full.push(word);
            let reason = format!("{WAITING_MAX} calls wait for the one that runs");
            self.journal.tell(Some(&volume), Told::NotifyFailed { about: word.as_str().to_string(), reason });
        }
    }
}

/// Calls one after the other, until the last sender is gone.
fn work(notify: &Notify, journal: &Journal, queue: &Receiver<Call>) {
    let mut failing = false;
    while let Ok(call) = queue.recv() {
        let failed = call.make(notify).err();
        let first = failed.is_some() && !failing;
        failing = failed.is_some();
        if let Some(reason) = failed.filter(|_| first) {
            let about = call.word.as_str().to_string();
            journal.tell(Some(&call.volume), Told::NotifyFailed { about, reason });
        }
    }
}

/// Starts watching, if there is a program to be told. To be called before anything can talk to the peer: the records
/// that the volumes have now are those that later ones are compared with.
pub fn start(config: &Config, me: NodeId, volumes: &[Arc<Volume>], journal: &Arc<Journal>) {
    let Some(notify) = &config.notify else { return };
    if let Some(Err(reason)) = notify.argv.first().map(|path| exec::check_trusted(path.as_ref())) {
        journal.tell(None, Told::NotifyFailed { about: "failure".to_string(), reason });
    }
    let (sender, heard) = channel();
    listen(journal, sender);
    let watched = volumes.iter().map(|volume| Watched {
        volume: Arc::downgrade(volume),
        name: volume.name.clone(),
        watch: Watch::new(volume.mirror.image().state().record, notify.degraded_after),
    });
    let watcher = Watcher {
        me,
        names: journal.names().clone(),
        volumes: watched.collect(),
        caller: Caller::start(notify, journal),
    };
    std::thread::spawn(move || watcher.run(&heard));
}

/// Passes on what no look at a volume shows: a failure of the peer's disk, and who was primary between two looks.
fn listen(journal: &Journal, heard: Sender<Entry>) {
    journal.listen(Box::new(move |entry| {
        let disk = matches!(entry.event, Told::DiskFailed { .. } | Told::PeerDiskFailed { .. });
        if disk || matches!(entry.event, Told::BecamePrimary { .. } | Told::StoppedPrimary { .. }) {
            // Nobody listens any more while the daemon stops.
            let _ = heard.send(entry.clone());
        }
    }));
}

struct Watched {
    volume: Weak<Volume>,
    name: String,
    watch: Watch,
}

struct Watcher {
    me: NodeId,
    names: Names,
    volumes: Vec<Watched>,
    caller: Caller,
}

impl Watcher {
    /// Until the volumes are gone.
    fn run(mut self, heard: &Receiver<Entry>) {
        let mut next = Instant::now();
        loop {
            match heard.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(entry) => self.heard(&entry),
                Err(RecvTimeoutError::Timeout) => {
                    if !self.look() {
                        return;
                    }
                    next = Instant::now() + LOOK;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether there is still something to look at.
    fn look(&mut self) -> bool {
        let mut calls = Vec::new();
        let mut alive = false;
        for watched in &mut self.volumes {
            let Some(volume) = watched.volume.upgrade() else { continue };
            alive = true;
            let Some(view) = volume.view() else { continue };
            for news in watched.watch.look(clock::now(), view.record, view.state) {
                calls.push((watched.name.clone(), news));
            }
        }
        for (volume, news) in calls {
            let (word, text) = self.words(&volume, &news);
            self.call(word, volume, text);
        }
        alive
    }

    fn heard(&mut self, entry: &Entry) {
        let Some(name) = &entry.volume else { return };
        let (me, watched) = (self.me, self.volumes.iter_mut().find(|watched| watched.name == *name));
        let Some(watched) = watched else { return };
        match &entry.event {
            Told::BecamePrimary { v, .. } => {
                if let Some(news) = watched.watch.went_alone(me, *v) {
                    let (word, text) = self.words(name, &news);
                    self.call(word, name.clone(), text);
                }
            }
            Told::StoppedPrimary { reason } if reason == journal::HANDED_OVER => {
                watched.watch.handed_over(me.other());
            }
            Told::StoppedPrimary { .. } => {}
            _ => {
                if watched.watch.disk_failed() {
                    self.call(Word::DiskFailure, name.clone(), entry.event.line(&self.names));
                }
            }
        }
    }

    fn words(&self, volume: &str, news: &News) -> (Word, String) {
        let (me, peer) = (self.names.of(self.me), self.names.of(self.me.other()));
        match news {
            News::Takeover { to, v } => {
                let (to, from) = (self.names.of(*to), self.names.of(to.other()));
                (Word::Takeover, format!("{to} took {volume} over from {from} (record {v})"))
            }
            News::Diverged => (
                Word::Divergence,
                format!("{volume}: {me} and {peer} have both been written: see \"twinfs status\""),
            ),
            News::Degraded { state, span } => {
                let span = status::age(span.as_millis());
                (
                    Word::Degraded,
                    format!("{volume} on {me} is {state}, without a second current copy for {span}"),
                )
            }
        }
    }

    fn call(&mut self, word: Word, volume: String, text: String) {
        let (node, peer) = (self.names.of(self.me).to_string(), self.names.of(self.me.other()).to_string());
        // One line, whatever an error of the system said.
        let text = text.replace(|c: char| c.is_control(), " ");
        self.caller.call(Call { word, volume, node, peer, text, unix_ms: clock::unix_ms() });
    }
}

#[cfg(test)]
mod tests;
