//! The manual pages say what the parser takes, no more and no less, and troff has nothing to complain about.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ArgAction;
use harness::need;
use harness::pair::{Pair, Plan};
use twinfs::cli::Exit;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pages() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("man/").map(|e| e.expect("entry").path()).collect();
    found.sort();
    found
}

/// A line of troff as a reader sees it: no macro name, font changes, quotes or escaped hyphens.
fn plain(line: &str) -> String {
    let line = line.strip_prefix('.').and_then(|rest| rest.split_once(' ')).map_or(line, |(_, words)| words);
    ["\\fI", "\\fB", "\\fR", "\""].iter().fold(line.replace("\\-", "-"), |text, mark| text.replace(mark, ""))
}

/// Options in the tags (the line after `.TP`) of a part of a page.
fn tagged_options(lines: &[&str]) -> BTreeSet<String> {
    lines
        .windows(2)
        .filter(|pair| pair[0] == ".TP")
        .flat_map(|pair| plain(pair[1]).split([' ', ',', '[', '=']).map(String::from).collect::<Vec<_>>())
        .filter(|word| word.starts_with('-') && word.len() > 1)
        .collect()
}

/// Words of a `.SS` heading up to the first that is not a command: `twinfs key generate FILE` -> `key generate`.
fn heading(line: &str) -> String {
    let text = line.strip_prefix(".SS ").unwrap_or("").replace("\\-", "-");
    let words: Vec<&str> = text
        .split_whitespace()
        .skip(1)
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .collect();
    words.join(" ")
}

/// The part of a page below a heading of level `.SH`.
fn section<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    text.lines()
        .skip_while(|line| *line != format!(".SH {title}"))
        .skip(1)
        .take_while(|line| !line.starts_with(".SH "))
        .collect()
}

/// (command path, its options) of every visible command without sub-commands.
fn commands(tree: &clap::Command, path: &str, found: &mut Vec<(String, BTreeSet<String>)>) {
    for command in
        tree.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        let path = format!("{path} {}", command.get_name()).trim_start().to_string();
        if command.get_subcommands().any(|inner| inner.get_name() != "help") {
            commands(command, &path, found);
        } else {
            found.push((path, options(command)));
        }
    }
}

fn options(command: &clap::Command) -> BTreeSet<String> {
    command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !argument.is_positional() && !argument.is_global_set())
        .filter(|argument| {
            !matches!(argument.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::Version)
        })
        .flat_map(|argument| {
            let long = argument.get_long().map(|long| format!("--{long}"));
            long.into_iter().chain(argument.get_short().map(|short| format!("-{short}")))
        })
        .collect()
}

#[test]
fn every_command_and_option_is_in_the_manual_and_nothing_else() {
    let text = page("twinfs.8");
    let body = section(&text, "COMMANDS");
    let starts: Vec<usize> = (0..body.len()).filter(|at| body[*at].starts_with(".SS ")).collect();
    let mut documented: Vec<(String, BTreeSet<String>)> = Vec::new();
    for (nth, start) in starts.iter().enumerate() {
        let end = starts.get(nth + 1).copied().unwrap_or(body.len());
        documented.push((heading(body[*start]), tagged_options(&body[*start..end])));
    }
    let mut known = Vec::new();
    commands(&twinfs::cli::command(), "", &mut known);
    assert!(known.len() >= 3, "the walk over the parser found only {known:?}");

    let mut wrong = Vec::new();
    for (path, options) in &known {
        match documented.iter().find(|(heading, _)| heading == path) {
            None => wrong.push(format!("twinfs.8 lacks `.SS twinfs {path}` with {options:?}")),
            Some((_, tags)) => {
                wrong.extend(options.difference(tags).map(|o| format!("twinfs.8, {path}: lacks {o}")));
                wrong.extend(tags.difference(options).map(|o| format!("twinfs.8, {path}: there is no {o}")));
            }
        }
    }
    for (heading, _) in &documented {
        if !known.iter().any(|(path, _)| path == heading) {
            wrong.push(format!("twinfs.8 describes `{heading}`, which the parser does not know"));
        }
    }
    let headings: Vec<&String> = documented.iter().map(|(heading, _)| heading).collect();
    let mut sorted = headings.clone();
    sorted.sort();
    if headings != sorted {
        wrong.push(format!("twinfs.8: commands are not in alphabetical order: {headings:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_options_of_every_command_are_in_the_manual() {
    let text = page("twinfs.8");
    let tags = tagged_options(&section(&text, "OPTIONS"));
    let global: BTreeSet<String> = twinfs::cli::command()
        .get_arguments()
        .filter(|argument| argument.is_global_set())
        .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")))
        .chain(["-h", "--help", "-V", "--version"].map(String::from))
        .collect();
    assert_eq!(tags, global);
}

#[test]
fn the_exit_codes_in_the_manual_are_those_of_the_program() {
    let text = page("twinfs.8");
    let table: Vec<String> = section(&text, "EXIT STATUS")
        .into_iter()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
        .map(String::from)
        .collect();
    let known: Vec<String> = Exit::TABLE.iter().map(|(exit, what)| format!("{}|{what}", exit.0)).collect();
    assert_eq!(table, known);
}

#[test]
fn every_configuration_key_is_in_the_manual_under_its_section_with_its_default() {
    let text = page("twinfs.toml.5");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let mut current = String::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut documented = BTreeSet::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(title) = line.strip_prefix(".SS ") {
            current = title.to_string();
        } else if line.starts_with(".SH ") {
            current.clear();
        } else if *line == ".TP" && !current.is_empty() {
            let end = (at + 2..lines.len())
                .find(|next| lines[*next] == ".TP" || lines[*next].starts_with(".S"))
                .unwrap_or(lines.len());
            let body: Vec<String> = lines[at + 2..end].iter().map(|line| plain(line)).collect();
            documented.insert((current.clone(), plain(lines[at + 1])));
            seen.insert((current.clone(), plain(lines[at + 1]), body.join(" ")));
        }
    }
    for key in twinfs::config::KEYS {
        let place = (key.section.header().to_string(), key.name.to_string());
        if !documented.remove(&place) {
            wrong.push(format!("twinfs.toml.5: {} lacks {}", place.0, place.1));
            continue;
        }
        let body =
            seen.iter().find(|(section, name, _)| (section, name) == (&place.0, &place.1)).map(|s| &s.2);
        let body = body.expect("just found");
        if key.default.is_none() != body.contains("Required.") {
            wrong.push(format!("twinfs.toml.5: {}: required or not?", key.name));
        }
        let number: Option<String> = key
            .default
            .filter(|default| default.starts_with(|c: char| c.is_ascii_digit()))
            .map(|default| default.chars().take_while(char::is_ascii_digit).collect());
        if number.is_some_and(|number| !body.contains(&format!("efault {number} "))) {
            wrong.push(format!("twinfs.toml.5: {}: the default is {:?}", key.name, key.default));
        }
    }
    wrong.extend(
        documented.iter().map(|(section, key)| format!("twinfs.toml.5: there is no {key} in {section}")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The examples of a page, as a reader would type them.
fn examples(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line == ".EX") {
        let body: Vec<String> =
            lines.by_ref().take_while(|line| *line != ".EE").map(|line| line.replace("\\-", "-")).collect();
        found.push(body.join("\n"));
    }
    found
}

#[test]
fn the_fields_of_status_in_the_manual_are_those_of_the_program() {
    use twinfs::daemon::status::{NodeStatus, VolumeStatus};
    let text = page("twinfs.8");
    let notes = section(&text, "NOTES");
    let table = |from: &str, to: &str| -> BTreeSet<String> {
        let rows = notes.iter().skip_while(|line| **line != from).skip(1).take_while(|line| **line != to);
        rows.filter_map(|row| row.split_once('|')).map(|(name, _)| name.to_string()).collect()
    };
    let fields = |value: serde_json::Value| -> BTreeSet<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    let json = |value: Result<serde_json::Value, serde_json::Error>| fields(value.expect("JSON"));
    assert_eq!(table("NODE", "VOLUME"), json(serde_json::to_value(NodeStatus::default())));
    assert_eq!(table("VOLUME", ".TE"), json(serde_json::to_value(VolumeStatus::default())));
}

#[test]
fn the_configurations_in_the_manual_pass_the_check() {
    let mut checked = 0;
    for path in pages() {
        let text = std::fs::read_to_string(&path).expect("page");
        for example in examples(&text).iter().filter(|example| example.contains("[cluster]")) {
            let config = twinfs::config::Config::parse(example);
            assert!(
                config.is_ok(),
                "{}: {}",
                path.display(),
                config.err().map_or(String::new(), |e| e.to_string())
            );
            checked += 1;
        }
    }
    assert!(checked > 0);
}

#[test]
fn the_examples_of_the_manual_do_what_they_say() {
    let name = "the_examples_of_the_manual_do_what_they_say";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::start("man", &Plan { size: "64MiB", ..Plan::default() });
    let alpha = pair.node("alpha");
    alpha
        .sh(&format!(
            "{}/twinfs install && mkdir -p /srv/mail && echo old > /srv/mail/old",
            harness::bin_dir().display()
        ))
        .ok();
    alpha.sh("mkdir -p /mnt/mail").ok();
    for line in examples(&page("mkfs.twinfs.8")).into_iter().chain(examples(&page("mount.twinfs.8"))) {
        alpha.sh(&line).ok();
    }
    assert!(alpha.sh("echo there > /mnt/mail/file && umount /mnt/mail").code == 0);
    for example in examples(&page("twinfs.8")) {
        for line in example.lines() {
            // After "twinfs down" there is nobody to wait for here.
            if !pair.volume("alpha").is_null() {
                pair.wait_either_in_sync();
            }
            let ran = alpha.sh(line);
            assert_eq!(ran.code, 0, "{line}: {}{}", ran.out, ran.err);
        }
    }
    pair.wait_in_sync("alpha");
    assert_eq!(alpha.sh("cat /srv/mail/old && test ! -L /srv/mail").ok().out, "old\n");
}

#[test]
fn the_sections_stand_in_the_usual_order_and_lines_are_short_ascii() {
    const ORDER: &[&str] = &[
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "NOTES",
        "CAVEATS",
        "BUGS",
        "EXAMPLES",
        "SEE ALSO",
    ];
    assert_eq!(pages().len(), 6, "{:?}", pages());
    for path in pages() {
        let text = std::fs::read_to_string(&path).expect("page");
        let titles: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        let places: Vec<usize> = titles
            .iter()
            .map(|title| ORDER.iter().position(|known| known == title))
            .map(|place| place.unwrap_or_else(|| panic!("{}: unusual section in {titles:?}", path.display())))
            .collect();
        assert!(places.is_sorted(), "{}: {titles:?}", path.display());
        for line in text.lines() {
            assert!(line.is_ascii() && line.len() <= 120, "{}: {line}", path.display());
        }
    }
}

#[test]
fn troff_has_nothing_to_complain_about() {
    if !need::have("troff_has_nothing_to_complain_about", &[("groff", "groff-base"), ("tbl", "groff-base")]) {
        return;
    }
    for path in pages() {
        let output = Command::new("groff")
            .args(["-t", "-man", "-ww", "-z", "-rCHECKSTYLE=3", "-Tutf8"])
            .arg(&path)
            .output()
            .expect("groff runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{}:\n{said}", path.display());
    }
}

/// `twinfs WORD` in quotes or backticks: what a message tells somebody to type.
fn advised(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for mark in ["\\\"twinfs ", "`twinfs "] {
        for part in text.split(mark).skip(1) {
            let verb: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if !verb.is_empty() && !verb.starts_with('-') {
                found.push(verb);
            }
        }
    }
    found
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("folder").map(|entry| entry.expect("entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|end| end == "rs") {
            found.push(entry);
        }
    }
}

#[test]
fn every_command_that_a_message_advises_exists() {
    let (tree, mut files) = (twinfs::cli::command(), Vec::new());
    for dir in ["src", "fsck"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut files);
    }
    let (mut checked, mut wrong) = (0, Vec::new());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("source");
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for verb in advised(&lines.collect::<Vec<_>>().join("\n")) {
            checked += 1;
            if tree.find_subcommand(&verb).is_none() {
                wrong.push(format!("{}: there is no \"twinfs {verb}\"", path.display()));
            }
        }
    }
    assert!(checked > 20, "only {checked} found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_comparison_can_fail() {
    assert_eq!(advised("say \\\"twinfs resolve VOL\\\" or `twinfs up`"), ["resolve", "up"]);
    let lines = [".TP", ".BI \\-\\-root \" DIR\"", "Install.", ".TP", ".BR \\-h \", \" \\-\\-help"];
    let tags: Vec<String> = tagged_options(&lines).into_iter().collect();
    assert_eq!(tags, ["--help", "--root", "-h"]);
    assert_eq!(heading(".SS twinfs key generate [\\fIFILE\\fR]"), "key generate");
}
