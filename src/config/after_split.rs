//! The words of `after_split_brain`: ours, and those of DRBD's `after-sb-0pri` and `after-sb-1pri`.
//!
//! Decides what a word means, and why some have no meaning here. Does not know how a split is ended. Invariant: what is
//! rendered reads back as the same policy.

use super::parse::Reader;
use super::suggest::nearest;
use super::types::{Node, Volume};
use crate::base::{AfterSplit, NodeId};

/// Ours that stand alone.
const WORDS: [(&str, AfterSplit); 5] = [
    ("manual", AfterSplit::Manual),
    ("keep-serving", AfterSplit::KeepServing),
    ("keep-newer", AfterSplit::KeepNewer),
    ("keep-older", AfterSplit::KeepOlder),
    ("keep-most-changes", AfterSplit::KeepMostChanges),
];
/// DRBD's, as they are there. A side that changed nothing gives way whatever is said here.
const DRBD: [(&str, AfterSplit); 6] = [
    ("disconnect", AfterSplit::Manual),
    ("discard-zero-changes", AfterSplit::Manual),
    ("discard-younger-primary", AfterSplit::KeepOlder),
    ("discard-older-primary", AfterSplit::KeepNewer),
    ("discard-least-changes", AfterSplit::KeepMostChanges),
    ("discard-secondary", AfterSplit::KeepServing),
];
/// DRBD's without a meaning here, and why.
const NONE: [(&str, &str); 6] = [
    ("consensus", "it leaves the choice to another option of DRBD: say the policy itself"),
    ("violently-as0p", "nothing is thrown away unseen here: say the policy itself"),
    ("call-pri-lost-after-sb", "the losing side stops by itself here: say which one that is"),
    ("panic", "the losing side stops by itself here: say which one that is"),
    ("discard-local", "this file is the same on both nodes: write keep-node with a name"),
    ("discard-remote", "this file is the same on both nodes: write keep-node with a name"),
];

/// What `text` means.
pub(super) fn read(text: &str, nodes: &[Node; 2]) -> Result<AfterSplit, String> {
    let given = text.trim();
    if let Some((_, policy)) = WORDS.iter().chain(&DRBD).find(|(word, _)| *word == given) {
        return Ok(*policy);
    }
    if let Some((word, why)) = NONE.iter().find(|(word, _)| *word == given) {
        return Err(format!("\"{word}\" has no meaning for twinfs: {why}"));
    }
    let node = |name: &str| {
        let found =
            [NodeId::A, NodeId::B].into_iter().find(|id| nodes[usize::from(id.index())].name == name.trim());
        found.ok_or_else(|| {
            let (a, b) = (&nodes[0].name, &nodes[1].name);
            format!("\"{given}\" must name a node: \"{a}\" or \"{b}\"")
        })
    };
    if let Some(name) = given.strip_prefix("keep-node") {
        return node(name).map(AfterSplit::KeepNode);
    }
    if let Some(name) = given.strip_prefix("discard-node-") {
        return node(name).map(|id| AfterSplit::KeepNode(id.other()));
    }
    let known = WORDS.iter().chain(&DRBD).map(|(word, _)| *word).chain(["keep-node"]);
    Err(match nearest(given, known) {
        Some(hint) => format!("\"{given}\" is unknown: did you mean \"{hint}\"?"),
        None => {
            let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
            format!("\"{given}\" is unknown: choose one of {}, keep-node NAME", words.join(", "))
        }
    })
}

/// The words that `read` takes for it.
pub(super) fn render(policy: AfterSplit, nodes: &[Node; 2]) -> String {
    match policy {
        AfterSplit::KeepNode(id) => format!("keep-node {}", nodes[usize::from(id.index())].name),
        other => {
            let word = WORDS.iter().find(|(_, policy)| *policy == other).map(|(word, _)| *word);
            word.unwrap_or("manual").to_string()
        }
    }
}

/// What decides by itself needs a place for the losing copy.
pub(super) fn needs_room(policy: AfterSplit, volumes: &[Volume], reader: &mut Reader) {
    if policy == AfterSplit::Manual {
        return;
    }
    for volume in volumes.iter().filter(|volume| volume.salvage_dir.is_none()) {
        if let Some(device) = volume.image.iter().find(|image| image.starts_with("/dev")) {
            let text = format!(
                "after_split_brain puts the losing copy aside, and nothing can be kept beside the device {}: give \
                 volume \"{}\" a salvage_dir, or write after_split_brain = \"manual\"",
                device.display(),
                volume.name
            );
            reader.problem_at(&format!("volume.{}.image", volume.name), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> [Node; 2] {
        ["alpha", "beta"].map(|name| Node {
            name: name.to_string(),
            addresses: Vec::new(),
            serial: Vec::new(),
        })
    }

    #[test]
    fn every_word_has_its_meaning_or_a_reason_why_not() {
        let nodes = nodes();
        for (word, policy) in WORDS.iter().chain(&DRBD) {
            assert_eq!(read(word, &nodes), Ok(*policy), "{word}");
        }
        for (word, _) in WORDS {
            assert_eq!(render(read(word, &nodes).unwrap(), &nodes), word);
        }
        let keep_b = Ok(AfterSplit::KeepNode(NodeId::B));
        assert_eq!(read("keep-node beta", &nodes), keep_b);
        assert_eq!(read("discard-node-alpha", &nodes), keep_b);
        assert_eq!(render(AfterSplit::KeepNode(NodeId::B), &nodes), "keep-node beta");
        let refused = |word: &str| read(word, &nodes).unwrap_err();
        for (word, _) in NONE {
            assert!(refused(word).contains("has no meaning for twinfs"), "{word}");
        }
        assert!(refused("keep-node gamma").contains("must name a node: \"alpha\" or \"beta\""));
        assert!(refused("keep-node").contains("must name a node"));
        assert!(refused("keep-newest").contains("did you mean \"keep-newer\"?"));
        assert!(refused("discard-younger-primry").contains("did you mean \"discard-younger-primary\"?"));
        assert!(refused("x").contains("choose one of manual, keep-serving"));
    }
}
