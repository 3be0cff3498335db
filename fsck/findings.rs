//! What was found wrong, what its repair costs, and the progress of looking.
//!
//! Decides how a finding is printed and how many of one kind are. Does not know what is checked. Invariant: a finding
//! beyond the printed ones still counts.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Findings printed of one kind; the rest is counted.
const PRINTED_MAX: u64 = 20;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The structure, with a name of its own.
    pub part: &'static str,
    pub text: String,
    /// Its repair may lose something: only for whoever allowed that.
    pub loses: bool,
}

/// Everything found so far.
#[derive(Default)]
pub struct Findings {
    counts: BTreeMap<&'static str, u64>,
    found: Vec<Finding>,
    known: BTreeSet<Finding>,
    lossy: u64,
    notes: Vec<String>,
    mendable: bool,
}

impl Findings {
    /// Something is wrong with `part`; its repair loses nothing.
    pub fn add(&mut self, part: &'static str, text: impl Into<String>) {
        self.push(Finding { part, text: text.into(), loses: false });
    }

    /// Something is wrong with `part`; its repair loses what the text says.
    pub fn lose(&mut self, part: &'static str, text: impl Into<String>) {
        self.push(Finding { part, text: text.into(), loses: true });
    }

    fn push(&mut self, finding: Finding) {
        // A later pass over the tables may meet the same again.
        if self.known.contains(&finding) {
            return;
        }
        self.lossy += u64::from(finding.loses);
        let count = self.counts.entry(finding.part).or_default();
        *count += 1;
        if *count <= PRINTED_MAX {
            self.known.insert(finding.clone());
            self.found.push(finding);
        }
    }

    /// Worth saying, but as it may be.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// As it may be after a crash; whoever repairs puts it right in passing.
    pub fn mend(&mut self, text: String) {
        self.notes.push(text);
        self.mendable = true;
    }

    pub fn is_mendable(&self) -> bool {
        self.mendable
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Findings whose repair may lose something.
    pub fn lossy(&self) -> u64 {
        self.lossy
    }

    pub fn found(&self) -> &[Finding] {
        &self.found
    }

    /// Findings of each part.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// The lines for the person, with a count for what was left out.
    pub fn report(&self) -> Vec<String> {
        let left_out = self
            .counts
            .iter()
            .filter(|(_, count)| **count > PRINTED_MAX)
            .map(|(part, count)| format!("{part}: {} more", count - PRINTED_MAX));
        self.found.iter().map(|f| format!("{}: {}", f.part, f.text)).chain(left_out).collect()
    }
}

/// Where progress goes.
pub struct Progress {
    sink: Option<Box<dyn Write>>,
    machine: bool,
    device: String,
    pass: u32,
    last: u64,
}

impl Progress {
    pub fn silent() -> Progress {
        Progress { sink: None, machine: false, device: String::new(), pass: 0, last: 0 }
    }

    /// `machine`: the lines that fsck(8) reads; otherwise one line for a person.
    pub fn to(sink: Box<dyn Write>, machine: bool, device: &str) -> Progress {
        Progress { sink: Some(sink), machine, device: device.to_string(), pass: 0, last: 0 }
    }

    /// The next part of the work begins.
    pub fn pass(&mut self) {
        self.pass += 1;
        self.last = 0;
    }

    /// A terminal gets its line back.
    pub fn end(&mut self) {
        if let (Some(sink), false) = (&mut self.sink, self.machine) {
            let _ = write!(sink, "\r{:30}\r", "");
        }
    }

    /// `done` of `all` of this part are finished.
    pub fn at(&mut self, done: u64, all: u64) {
        let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
        if percent == self.last {
            return;
        }
        self.last = percent;
        if let Some(sink) = &mut self.sink {
            // A reader that went away must not end the check.
            let _ = match self.machine {
                true => writeln!(sink, "{} {percent} 100 {}", self.pass, self.device),
                false => write!(sink, "\rpass {}: {percent} %  ", self.pass),
            };
            let _ = sink.flush();
        }
    }
}

/// Told by long walks how far they are.
pub trait Beat {
    /// So many steps more are to come.
    fn expect(&self, steps: u64);
    fn beat(&self, steps: u64);
}

/// The progress of a part whose steps are counted far below.
pub struct Steps<'a> {
    progress: RefCell<&'a mut Progress>,
    done: Cell<u64>,
    all: Cell<u64>,
}

impl<'a> Steps<'a> {
    pub fn of(progress: &'a mut Progress) -> Steps<'a> {
        Steps { progress: RefCell::new(progress), done: Cell::new(0), all: Cell::new(0) }
    }

    pub fn end(&self) {
        self.progress.borrow_mut().at(1, 1);
    }
}

impl Beat for Steps<'_> {
    fn expect(&self, steps: u64) {
        self.all.set(self.all.get().saturating_add(steps));
    }

    fn beat(&self, steps: u64) {
        self.done.set(self.done.get().saturating_add(steps));
        // What was expected is a guess: a repair walks again. The end is told when it is there.
        let all = self.all.get().max(1);
        self.progress.borrow_mut().at((self.done.get() * 100 / all).min(99), 100);
    }
}
