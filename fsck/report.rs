//! What the person or the program that called is told.
//!
//! Decides the words and the JSON of an answer. Invariant: with `--json` nothing but one object reaches standard
//! output.

use serde_json::{Value, json};

use crate::ERRORS_LEFT;
use crate::OPERATIONAL;
use crate::examine::Seen;
use crate::findings::Findings;

/// The number in every JSON answer; grows when a field changes its meaning.
const SCHEMA: u64 = 1;

/// The result of one run.
#[derive(Default)]
pub struct Report {
    pub image: String,
    pub findings: Findings,
    pub seen: Option<Seen>,
    pub repaired: bool,
    /// Why nothing was repaired although it was wanted.
    pub refused: Option<String>,
    /// What the examination after the repair found.
    pub left: Option<Findings>,
    pub failed: Option<String>,
    /// Sum of the bits of fsck(8).
    pub exit: u8,
}

impl Report {
    /// Nothing more can be done, for a reason that is not damage.
    pub fn fail(&mut self, text: String) {
        self.failed = Some(text);
        self.exit |= OPERATIONAL;
    }

    pub fn print(&self, json: bool) {
        if json {
            println!("{}", self.json());
        } else {
            self.lines().iter().for_each(|line| println!("{line}"));
        }
        for text in self.failed.iter().chain(&self.refused).filter(|_| !json) {
            eprintln!("fsck.twinfs: {}: {text}", self.image);
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut out = self.findings.report();
        out.extend(self.findings.notes().iter().map(|line| format!("note: {line}")));
        if let Some(left) = &self.left {
            out.push("still wrong after the repair:".to_string());
            out.extend(left.report());
        }
        let image = &self.image;
        if let Some(seen) = self.seen {
            out.push(format!(
                "{image}: {} inodes, {} of {} blocks free, {} log records",
                seen.inodes, seen.free, seen.blocks, seen.records
            ));
        }
        let count = self.findings.count();
        match (count, self.repaired) {
            _ if self.failed.is_some() && count == 0 => {}
            (0, false) => out.push(format!("{image}: clean")),
            (0, true) => out.push(format!("{image}: clean, what a crash left was mended")),
            (_, true) if self.exit & ERRORS_LEFT == 0 => {
                let lossy = self.findings.lossy();
                out.push(format!(
                    "{image}: {count} things were repaired, {lossy} of them with loss as said above"
                ));
            }
            _ => out.push(format!("{image}: {count} things are wrong")),
        }
        out
    }

    fn json(&self) -> Value {
        let found = |findings: &Findings| -> Value {
            let one =
                |f: &crate::findings::Finding| json!({ "part": f.part, "text": f.text, "loses": f.loses });
            findings.found().iter().map(one).collect()
        };
        json!({
            "schema": SCHEMA,
            "image": self.image,
            "findings": found(&self.findings),
            "counts": self.findings.counts(),
            "notes": self.findings.notes(),
            "repaired": self.repaired,
            "left": self.left.as_ref().map(found),
            "refused": self.refused,
            "failed": self.failed,
            "inodes": self.seen.map(|seen| seen.inodes),
            "blocks": self.seen.map(|seen| seen.blocks),
            "free_blocks": self.seen.map(|seen| seen.free),
            "log_records": self.seen.map(|seen| seen.records),
            "exit": self.exit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_was_found_and_what_became_of_it() {
        let mut report = Report { image: "img".to_string(), ..Report::default() };
        assert_eq!(report.lines(), ["img: clean"]);
        report.findings.add("names", "a is lost");
        assert_eq!(report.lines(), ["names: a is lost", "img: 1 things are wrong"]);
        report.repaired = true;
        assert!(report.lines()[1].contains("1 things were repaired, 0 of them"));
        assert_eq!(report.json()["findings"][0]["part"], "names");
        report.fail("no".to_string());
        assert_eq!(report.exit, OPERATIONAL);
    }
}
