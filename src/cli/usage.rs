//! A wrong command line: one line that says what is wrong and where to look, also for words of older tools.
//!
//! Decides how clap's findings are worded. Does not know any verb. Invariant: one line on standard error.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{Exit, Failure, Output};

/// Words that administrators of DRBD and Heartbeat type, and what does their work here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("create-md", "\"twinfs init\" on the first node and \"twinfs join\" on the second one make the images"),
    ("invalidate", "after \"twinfs down\", \"twinfs join --replace VOLUME\" fetches this node's copy anew"),
    (
        "invalidate-remote",
        "say \"twinfs join --replace VOLUME\" on the other node, after \"twinfs down\" there",
    ),
    (
        "discard-my-data",
        "\"twinfs resolve VOLUME --keep NODE\" on either node keeps that node's copy and puts the other one aside",
    ),
    ("attach", "\"twinfs up\" opens the image"),
    ("detach", "\"twinfs down\" lets go of the image"),
    (
        "adjust",
        "\"twinfs config check\" looks at the configuration, \"twinfs down\" and \"twinfs up\" apply it",
    ),
    ("role", "see \"twinfs status\""),
    ("cstate", "see \"twinfs status\""),
    ("dstate", "see \"twinfs status\""),
    ("scrub", "\"twinfs verify --local\" looks through this node's copy"),
    ("hb_takeover", "say \"twinfs promote\" here"),
    ("hb_standby", "say \"twinfs switchover\" here"),
    ("start", "say \"twinfs up\""),
    ("stop", "say \"twinfs down\""),
];

/// Prints what is wrong, or the help or version that was asked for; answers with the exit code.
pub fn report(error: &clap::Error, verb: Option<&str>, json: bool) -> Exit {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Help and version go to standard output; whoever says nothing at all is shown the verbs.
        let _ = error.print();
        return if error.use_stderr() { Exit::USAGE } else { Exit::DONE };
    }
    // mount(8) has a number of its own for a wrong call.
    let exit = if verb == Some("mount") { Exit::FAILED } else { Exit::USAGE };
    Output::new(json, false).error(&Failure::new(exit, text(error, verb)).into())
}

fn text(error: &clap::Error, verb: Option<&str>) -> String {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => Some(word.as_str()),
        _ => None,
    };
    if let Some((word, answer)) = ELSEWHERE.iter().find(|(word, _)| Some(*word) == unknown) {
        return format!("there is no command {word} here: {answer}");
    }
    let rendered = error.render().to_string();
    let said: Vec<&str> = rendered
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let said = said.join(" ").replace(" tip: ", "; tip: ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    let verb = verb.filter(|_| unknown.is_none()).map(|verb| format!("{verb} ")).unwrap_or_default();
    format!("{said}; see \"twinfs {verb}--help\"")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    fn said(words: &[&str]) -> String {
        let error = Cli::try_parse_from([&["twinfs"], words].concat()).unwrap_err();
        text(&error, words.first().copied())
    }

    #[test]
    fn what_is_wrong_is_one_line_with_a_place_to_look() {
        for words in
            [&["adopt"][..], &["statsu"], &["down", "x"], &["status", "--wtach"], &["completions", "tcsh"]]
        {
            let said = said(words);
            assert!(!said.contains('\n') && said.contains("--help"), "{words:?}: {said}");
            assert!(!said.starts_with("error"), "{words:?}: {said}");
        }
        assert!(said(&["statsu"]).contains("'status'"), "{}", said(&["statsu"]));
        assert!(said(&["adopt"]).contains("<DIRS>"), "{}", said(&["adopt"]));
        assert!(said(&["adopt"]).contains("twinfs adopt --help"), "{}", said(&["adopt"]));
    }

    #[test]
    fn words_of_older_tools_are_answered_with_ours() {
        assert!(said(&["create-md", "r0"]).contains("twinfs init"));
        assert!(said(&["invalidate", "r0"]).contains("--replace"));
        let tree = super::super::command();
        for (word, answer) in ELSEWHERE {
            assert!(tree.find_subcommand(word).is_none(), "{word} is a command");
            for quoted in answer.split('"').skip(1).step_by(2) {
                let verb = quoted.split(' ').nth(1).unwrap_or_default();
                assert!(tree.find_subcommand(verb).is_some(), "{word}: there is no {verb}");
            }
        }
        for (word, verb) in [("primary", "promote"), ("secondary", "demote")] {
            assert_eq!(tree.find_subcommand(word).map(|found| found.get_name()), Some(verb));
        }
    }
}
