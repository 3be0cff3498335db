//! `twinfs demo` as a user runs it: nothing is lost, and what is made wrong on purpose is found.
#![allow(clippy::disallowed_methods, reason = "a test with real programs and time")]

mod harness;

use std::process::{Command, Output};

use harness::need;

fn demo(more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinfs"));
    command.args(["demo", "--json"]).args(more);
    command.output().expect("the demo starts")
}

/// The one object on standard output.
fn summary(output: &Output) -> serde_json::Value {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "exactly one line on standard output:\n{text}\n{output:?}");
    serde_json::from_str(lines[0]).expect("one JSON object")
}

fn number(summary: &serde_json::Value, key: &str) -> u64 {
    summary[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {summary}"))
}

fn loses_nothing(more: &[&str]) {
    let output = demo(more);
    let found = summary(&output);
    assert!(output.status.success(), "{output:?}");
    assert!(number(&found, "records_acknowledged") >= 1_000, "{found}");
    assert!(number(&found, "files_checked") >= 5_000, "{found}");
    assert_eq!((number(&found, "records_lost"), number(&found, "files_wrong")), (0, 0), "{found}");
    assert!(number(&found, "takeover_ms") > 0 && number(&found, "resync_bytes") > 0, "{found}");
    assert_eq!(found["images_equal"], true, "{found}");
    println!("{found}");
}

#[test]
fn the_demo_loses_nothing_with_a_witness() {
    if need::have_nodes("the_demo_loses_nothing_with_a_witness", &[]) {
        loses_nothing(&[]);
    }
}

#[test]
fn the_demo_loses_nothing_with_two_machines_alone() {
    if need::have_nodes("the_demo_loses_nothing_with_two_machines_alone", &[]) {
        loses_nothing(&["--no-witness"]);
    }
}

#[test]
fn a_deleted_record_and_an_altered_byte_are_found() {
    if !need::have_nodes("a_deleted_record_and_an_altered_byte_are_found", &[]) {
        return;
    }
    let output = demo(&["--sabotage"]);
    let found = summary(&output);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((number(&found, "records_lost"), number(&found, "files_wrong")), (1, 1), "{found}");
}
