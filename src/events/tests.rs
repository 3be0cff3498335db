//! Tests of the catalogue.

use super::*;

fn entry(event: Event) -> Entry {
    Entry { unix_ms: 1_700_000_000_123, node: NodeId::A, volume: Some("mail".to_string()), event }
}

fn names() -> Names {
    Names { a: "alpha".to_string(), b: "beta".to_string() }
}

#[test]
fn a_line_names_the_nodes_and_says_why() {
    let lost = entry(Event::TakeoverStarted { peer: NodeId::B, silent_ms: 10_200 });
    assert_eq!(
        lost.line(&names()),
        "mail on alpha: takes over: beta has been silent for 10.2 s on every path"
    );
    let alone = Entry { volume: None, ..entry(Event::DaemonStarted { version: "1".to_string() }) };
    assert_eq!(alone.line(&names()), "alpha: daemon 1 started");
}

#[test]
fn json_carries_name_severity_text_and_fields() {
    let value =
        entry(Event::PathDown { path: 0, remote: "10.0.0.2:1".to_string(), silent_ms: 3 }).json(&names());
    assert_eq!(value["event"], "path-down");
    assert_eq!(value["severity"], "warning");
    assert_eq!(value["node"], "alpha");
    assert_eq!(value["silent_ms"], 3);
    assert!(value["text"].as_str().unwrap().starts_with("path 1 to 10.0.0.2:1 is silent"));
}

#[test]
fn an_entry_survives_being_stored_as_json() {
    let stored = entry(Event::ResyncStarted {
        source: NodeId::A,
        target: NodeId::B,
        bytes: u64::MAX,
        how: "bitmap".to_string(),
    });
    let text = serde_json::to_string(&stored).unwrap();
    assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), stored);
}

#[test]
fn names_are_unique_and_agree_with_what_json_says() {
    let mut sorted = Event::NAMES.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), Event::NAMES.len());
    assert!(sorted.len() >= 40);
    let event = Event::WitnessDenied { v: 1, primary: NodeId::B };
    assert_eq!(serde_json::to_value(&event).unwrap()["event"], event.name());
}

#[test]
fn decisions_are_those_that_change_who_is_primary_or_member() {
    assert!(Event::WentAlone { peer: NodeId::B, v: 2, reason: String::new() }.is_decision());
    assert!(!Event::PathUp { path: 0, remote: String::new() }.is_decision());
}
