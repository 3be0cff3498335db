//! The manual pages say what the parser takes, no more and no less, and troff has nothing to complain about.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ArgAction;
use harness::need;
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
        if body.ends_with("live") != key.live {
            wrong.push(format!("twinfs.toml.5: {}: live is {}", key.name, key.live));
        }
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

#[test]
fn the_comparison_can_fail() {
    let lines = [".TP", ".BI \\-\\-root \" DIR\"", "Install.", ".TP", ".BR \\-h \", \" \\-\\-help"];
    let tags: Vec<String> = tagged_options(&lines).into_iter().collect();
    assert_eq!(tags, ["--help", "--root", "-h"]);
    assert_eq!(heading(".SS twinfs key generate [\\fIFILE\\fR]"), "key generate");
}
