//! Writes what a volume's machine tells where people read it, and what it wants noted where the next start finds it.
//!
//! Decides nothing. Invariant: a note is never held up by the search for a file's name, which reads the tables and may
//! wait as any reader does.
#![allow(clippy::disallowed_methods, reason = "a shell: a thread")]

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, PoisonError};

use crate::base::{Moment, NodeId, Span};
use crate::events::Event as Told;
use crate::image::Image;
use crate::node::{Event, Finding, Notice};
use crate::sys::clock;

use super::journal::{Journal, event_of};
use super::node_file::NodeFile;
use super::serving::Slot;
use super::shell::Telling;
use super::verify::VerifyFile;

/// A refusal that repeats itself is told once in this time.
const REPEAT_AFTER: Span = Span::from_secs(600);

/// The last refusal to take over: a node that may not asks its arbiter twice a second, as long as it lives.
#[derive(Default)]
struct Repeated(Option<(Told, Moment)>);

impl Repeated {
    fn is_one(&mut self, event: &Told, now: Moment) -> bool {
        if !matches!(event, Told::TakeoverRefused { .. }) {
            return false;
        }
        let same = |(told, at): &(Told, Moment)| told == event && now.since(*at) < REPEAT_AFTER;
        if self.0.as_ref().is_some_and(same) {
            return true;
        }
        self.0 = Some((event.clone(), now));
        false
    }
}

pub struct Teller {
    pub journal: Arc<Journal>,
    pub me: NodeId,
    pub node_file: Arc<NodeFile>,
    pub verify_file: Arc<VerifyFile>,
    /// Who serves, and so can name files.
    pub slot: Slot,
    pub image_path: String,
    /// To the machine, while there is one.
    pub deliver: Box<dyn Fn(Event) + Send>,
}

impl Teller {
    /// Tells until the last sender is gone.
    pub fn run(self, volume: &str, image: &Arc<Image>, tellings: &Receiver<Telling>) {
        let (found, findings) = channel();
        let mut repeated = Repeated::default();
        let namer = Namer {
            journal: Arc::clone(&self.journal),
            me: self.me,
            slot: Arc::clone(&self.slot),
            volume: volume.to_string(),
        };
        std::thread::spawn(move || namer.run(&findings));
        while let Ok(telling) = tellings.recv() {
            match telling {
                Telling::Notice(Notice::Found(finding)) => drop(found.send(finding)),
                Telling::Notice(Notice::Met { incarnation }) => {
                    if let Err(text) = self.node_file.note_peer(incarnation) {
                        self.journal.tell(Some(volume), Told::Fault { text });
                    }
                }
                Telling::Notice(notice) => {
                    if matches!(notice, Notice::PeerLost | Notice::InSync) {
                        self.note_current(volume);
                        // What is refused from here on has another cause.
                        repeated = Repeated::default();
                    }
                    let v = image.state().record.map_or(0, |record| record.v);
                    let image = matches!(notice, Notice::DiskFailed { .. }).then(|| self.image_path.clone());
                    let event = event_of(notice, self.me, v, image);
                    if let Some(event) = event.filter(|event| !repeated.is_one(event, clock::now())) {
                        self.journal.tell(Some(volume), event);
                    }
                }
                Telling::Unusable(v) => match self.node_file.note_unusable(v) {
                    Ok(()) => (self.deliver)(Event::UnusableNoted),
                    Err(reason) => self.journal.tell(Some(volume), Told::CopyUnusable { reason }),
                },
                Telling::Failback(token) => {
                    let noted = self.node_file.note_failback(clock::unix_ms());
                    (self.deliver)(Event::FailbackNoted { token, noted: noted.is_ok() });
                    if let Err(why) = noted {
                        let text = format!("no failback within the hour, as it could not be noted: {why}");
                        self.journal.tell(Some(volume), Told::Fault { text });
                    }
                }
                Telling::Verify(progress, end) => {
                    if let Err(text) = self.verify_file.note(&progress, end, clock::unix_ms()) {
                        self.journal.tell(Some(volume), Told::Fault { text });
                    }
                }
            }
        }
    }
}

impl Teller {
    fn note_current(&self, volume: &str) {
        if let Err(text) = self.node_file.note_current(clock::unix_ms(), true) {
            self.journal.tell(Some(volume), Told::Fault { text });
        }
    }
}

/// Says which file a block belongs to.
struct Namer {
    journal: Arc<Journal>,
    me: NodeId,
    slot: Slot,
    volume: String,
}

impl Namer {
    fn run(&self, findings: &Receiver<Finding>) {
        while let Ok(finding) = findings.recv() {
            let served = self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let file = served.and_then(|served| served.whose(finding.block));
            if let Some(event) = event_of(Notice::Found(finding), self.me, 0, file) {
                self.journal.tell(Some(&self.volume), event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_when_it_is_new_and_now_and_then() {
        let refusal = |reason: &str| Told::TakeoverRefused { reason: reason.to_string() };
        let at = |seconds| Moment(0) + Span::from_secs(seconds);
        let mut repeated = Repeated::default();
        assert!(!repeated.is_one(&refusal("a"), at(1)));
        assert!(repeated.is_one(&refusal("a"), at(2)) && repeated.is_one(&refusal("a"), at(600)));
        assert!(!repeated.is_one(&refusal("a"), at(602)), "an administrator who looks later sees nothing");
        assert!(!repeated.is_one(&refusal("b"), at(603)) && !repeated.is_one(&refusal("a"), at(604)));
        for _ in 0..2 {
            assert!(!repeated.is_one(&Told::UndoGivenUp {}, at(605)), "only refusals repeat themselves");
        }
    }
}
