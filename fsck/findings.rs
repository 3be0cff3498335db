//! What was found wrong, and the progress of looking.
//!
//! Decides how a finding is printed and how many of one kind are. Does not know what is checked. Invariant: a finding
//! beyond the printed ones still counts.

use std::collections::BTreeMap;
use std::io::Write;

/// Findings printed of one kind; the rest is counted.
const PRINTED_MAX: u64 = 20;

/// Everything found so far.
#[derive(Default)]
pub struct Findings {
    counts: BTreeMap<&'static str, u64>,
    lines: Vec<String>,
    notes: Vec<String>,
}

impl Findings {
    /// Something is wrong with `part`, a structure with a name of its own.
    pub fn add(&mut self, part: &'static str, text: impl Into<String>) {
        let count = self.counts.entry(part).or_default();
        *count += 1;
        if *count <= PRINTED_MAX {
            self.lines.push(format!("{part}: {}", text.into()));
        }
    }

    /// Worth saying, but as it may be.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The lines for the person, with a count for what was left out.
    pub fn report(&self) -> Vec<String> {
        let left_out = self
            .counts
            .iter()
            .filter(|(_, count)| **count > PRINTED_MAX)
            .map(|(part, count)| format!("{part}: {} more", count - PRINTED_MAX));
        self.lines.iter().cloned().chain(left_out).collect()
    }
}

/// Where progress goes: `fsck -C FD` (pass, position, maximum, name on one line each) or a terminal.
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
