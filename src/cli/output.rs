//! What reaches the terminal: the only home of `println!` and of the exit codes.
//!
//! Decides how an answer looks (text or one JSON object per line with a schema number), where it goes (answers to
//! standard output, everything else to standard error), and which number a command ends with. Does not know any verb.
//! Invariant: with `--json` nothing but JSON objects reaches standard output, and every object carries `schema`.
#![allow(clippy::disallowed_methods, reason = "a shell: reads the environment")]

use std::fmt;
use std::io::{IsTerminal, Write};

use serde_json::Value;

/// The number in every JSON answer; grows when a field changes its meaning.
pub const SCHEMA: u64 = 1;

/// How a command ended: the table of EXIT STATUS in twinfs(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Done, or healthy.
    pub const DONE: Exit = Exit(0);
    /// Tried and failed.
    pub const FAILED: Exit = Exit(1);
    /// The command line is wrong.
    pub const USAGE: Exit = Exit(2);
    /// The daemon does not run.
    pub const NOT_RUNNING: Exit = Exit(3);
    /// `status`: serving, but not redundant. `verify`: something was wrong, and is repaired. `advise`: deadtime is too
    /// short for what was seen.
    pub const DEGRADED: Exit = Exit(4);
    /// `status`: not serving anywhere, or diverged. `verify`: something is wrong.
    pub const BROKEN: Exit = Exit(5);
    /// Refused: it would lose data.
    pub const WOULD_LOSE_DATA: Exit = Exit(6);
    /// This node has no right to become primary.
    pub const NO_RIGHT: Exit = Exit(7);
    /// The peer is needed and cannot be reached.
    pub const PEER_UNREACHABLE: Exit = Exit(8);
    /// Not finished in time; may be tried again.
    pub const TRY_AGAIN: Exit = Exit(75);
    /// Root, or a capability of the machine, is missing.
    pub const NOT_PERMITTED: Exit = Exit(77);
    /// The configuration, the key or the image is not usable.
    pub const CONFIG: Exit = Exit(78);

    /// All codes with their meaning, for the manual page and its test.
    pub const TABLE: &'static [(Exit, &'static str)] = &[
        (Exit::DONE, "done, or healthy"),
        (Exit::FAILED, "tried and failed"),
        (Exit::USAGE, "wrong command line"),
        (Exit::NOT_RUNNING, "the daemon is not running"),
        (Exit::DEGRADED, "status: a failure would stop it; verify: repaired; advise: short"),
        (Exit::BROKEN, "status: not serving, or diverged; verify: not repaired"),
        (Exit::WOULD_LOSE_DATA, "refused: it would lose data"),
        (Exit::NO_RIGHT, "no right to become primary"),
        (Exit::PEER_UNREACHABLE, "the peer or the witness cannot be reached"),
        (Exit::TRY_AGAIN, "not finished in time, try again"),
        (Exit::NOT_PERMITTED, "root or /dev/fuse is missing"),
        (Exit::CONFIG, "configuration, key or image not usable, or image in use"),
    ];
}

/// An error that knows its exit code. Everything else ends with `Exit::FAILED`.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub text: String,
}

impl Failure {
    /// `Err(Failure::new(..))?` ends a verb with `exit` and one line.
    pub fn new(exit: Exit, text: impl Into<String>) -> Failure {
        Failure { exit, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// Where answers go and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    color: bool,
}

impl Output {
    /// `color` is what the command line allows; NO_COLOR and a missing terminal forbid it as well.
    pub fn new(json: bool, color: bool) -> Output {
        let wanted = color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Output { json, color: wanted && std::io::stdout().is_terminal() }
    }

    /// Whether the caller wants JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A line of the answer for a person; silent with `--json`.
    pub fn line(&self, text: impl fmt::Display) {
        if !self.json {
            self.raw(&format!("{text}\n"));
        }
    }

    /// One JSON object on one line, with `schema`; silent without `--json`.
    pub fn object(&self, value: Value) {
        if self.json {
            self.raw(&format!("{}\n", with_schema(value)));
        }
    }

    /// Text to standard output whatever the form: completions, a dump, a generated configuration.
    pub fn raw(&self, text: &str) {
        // A reader that went away (`| head`) is no error of ours.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }

    /// A remark on standard error.
    pub fn note(&self, text: impl fmt::Display) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// One line that says what is wrong and what to do; with `--json` also an object with `error` and `exit`.
    pub fn error(&self, error: &anyhow::Error) -> Exit {
        let exit = error.downcast_ref::<Failure>().map_or(Exit::FAILED, |f| f.exit);
        let text = format!("{error:#}").replace('\n', " ");
        self.note(format_args!("twinfs: {text}"));
        self.object(serde_json::json!({ "error": text, "exit": exit.0 }));
        exit
    }

    /// `text` in bold where the terminal can.
    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// `text` in the colour of health: 0 green, 1 yellow, 2 red.
    pub fn health(&self, level: u8, text: &str) -> String {
        self.paint(["32", "33", "31"][usize::from(level.min(2))], text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// `value` with the schema number first; what is not an object becomes the field `value` of one.
pub fn with_schema(value: Value) -> Value {
    let mut object = match value {
        Value::Object(object) => object,
        other => serde_json::Map::from_iter([("value".to_string(), other)]),
    };
    object.insert("schema".to_string(), SCHEMA.into());
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_with_a_code_ends_with_that_code_even_under_context() {
        let output = Output::new(false, false);
        let plain = anyhow::anyhow!("no");
        assert_eq!(output.error(&plain), Exit::FAILED);
        let coded = anyhow::Error::from(Failure::new(Exit::CONFIG, "bad key")).context("reading twinfs.toml");
        assert_eq!(output.error(&coded), Exit::CONFIG);
    }

    #[test]
    fn every_json_answer_carries_the_schema() {
        assert_eq!(with_schema(serde_json::json!({"a": 1}))["schema"], SCHEMA);
        assert_eq!(with_schema(serde_json::json!([1]))["value"][0], 1);
    }

    #[test]
    fn no_exit_code_is_listed_twice() {
        let mut codes: Vec<u8> = Exit::TABLE.iter().map(|(exit, _)| exit.0).collect();
        codes.dedup();
        assert_eq!(codes.len(), Exit::TABLE.len());
    }
}
