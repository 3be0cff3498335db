//! The rules of the tree as a test: layering, sizes, banned words. Nothing here needs the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file, tests apart.
const FILE_LINES_MAX: usize = 500;
/// Most lines of a function, from `fn` to its closing brace, tests apart.
const FN_LINES_MAX: usize = 70;
/// Longest line, in characters.
const LINE_CHARS_MAX: usize = 120;

/// Who may use whom: module -> the modules it may name with `use crate::...` or `crate::...`.
const MATRIX: &[(&str, &str)] = &[
    ("base", ""),
    ("format", "base"),
    ("wire", "base format"),
    ("image", "base format"),
    ("fs", "base format image"),
    ("replica", "base format wire"),
    ("resync", "base format wire"),
    ("cluster", "base format wire"),
    ("node", "base format wire replica resync cluster events"),
    ("offline", "base format image"),
    ("mirror", "base format wire image node events"),
    ("config", "base"),
    ("events", "base"),
    ("sim", "base format wire image fs replica resync cluster node mirror config events"),
    ("sys", "base image"),
    ("link", "base wire sys"),
    ("history", "base events sys"),
    ("mount", "base format image fs events sys"),
    ("services", "base config events sys"),
    ("daemon", "base format wire image fs mirror node cluster config events sys link history mount services"),
    (
        "cli",
        "base format wire image fs mirror node cluster config events sys link history mount services sim daemon offline",
    ),
];

/// Words that mark unfinished work or a call that belongs elsewhere; the second field lists where it is allowed.
const BANNED: &[(&str, &[&str])] = &[
    ("todo!(", &[]),
    ("unimplemented!(", &[]),
    ("dbg!(", &[]),
    ("println!(", &["src/cli/output.rs", "bench/", "fsck/"]),
    ("unsafe ", &["src/sys/"]),
    ("fuser::", &["src/mount/"]),
    ("sled::", &["src/history/"]),
    ("redb::", &["src/fs/", "src/offline/", "fsck/rebuild.rs", "fsck/tests/", "fsck/tree/tests.rs"]),
];

fn main_sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for top in ["src", "fsck", "bench"] {
        walk(&root.join(top), &mut found);
    }
    assert!(found.len() > 20, "the walk found only {} files: it would check nothing", found.len());
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("source folder").map(|e| e.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                walk(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    path.strip_prefix(root).expect("below the root").display().to_string()
}

/// A file that holds only tests: `tests.rs`, `*_tests.rs`, or anything below a `tests/` folder.
fn is_test_file(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.ends_with("_tests.rs") || name.contains("/tests/")
}

/// The lines before the first `#[cfg(test)]`.
fn product_lines(text: &str) -> Vec<&str> {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").collect()
}

#[test]
fn no_file_or_function_is_too_long() {
    let mut wrong = Vec::new();
    for path in main_sources() {
        let name = relative(&path);
        let text = fs::read_to_string(&path).expect("source");
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX {
                wrong.push(format!("{name}:{}: line of {} characters", number + 1, line.chars().count()));
            }
            if !line.is_ascii() {
                wrong.push(format!("{name}:{}: not ASCII", number + 1));
            }
        }
        if is_test_file(&name) {
            continue;
        }
        let lines = product_lines(&text);
        if lines.len() > FILE_LINES_MAX {
            wrong.push(format!("{name}: {} lines", lines.len()));
        }
        for (function, start, length) in functions(&lines) {
            if length > FN_LINES_MAX {
                wrong.push(format!("{name}:{start}: fn {function} has {length} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// (name, first line, length) of each function, found by the indentation that rustfmt guarantees.
fn functions(lines: &[&str]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[start..].iter().position(|l| *l == close) {
            found.push((name, start + 1, length + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|w| {
        w.starts_with("pub") || matches!(*w, "const" | "async" | "unsafe" | "extern" | "\"C\"" | "in")
    });
    (words.next() == Some("fn")).then(|| {
        words.next().unwrap_or("").chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    })
}

#[test]
fn modules_use_only_what_the_matrix_allows() {
    let matrix: BTreeMap<&str, BTreeSet<&str>> =
        MATRIX.iter().map(|(module, uses)| (*module, uses.split_whitespace().collect())).collect();
    let mut wrong = Vec::new();
    for path in main_sources() {
        let name = relative(&path);
        let Some(module) = name.strip_prefix("src/").and_then(|n| n.split_once('/')).map(|(m, _)| m) else {
            continue;
        };
        let Some(allowed) = matrix.get(module) else {
            wrong.push(format!("{name}: module {module} has no row in the matrix"));
            continue;
        };
        let text = fs::read_to_string(&path).expect("source");
        let lines = if is_test_file(&name) { Vec::new() } else { product_lines(&text) };
        for (number, line) in lines.iter().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for used in crate_paths(line) {
                if used != module && matrix.contains_key(used.as_str()) && !allowed.contains(used.as_str()) {
                    wrong.push(format!("{name}:{}: {module} may not use {used}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Module names after `crate::` in a line; `use crate::{a, b}` is refused by a test of its own.
fn crate_paths(line: &str) -> Vec<String> {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

/// fsck judges what the filesystem wrote: it knows the layouts, and nothing of the code that writes them.
#[test]
fn fsck_shares_only_layouts_with_the_filesystem() {
    const SHARED: [&str; 5] = ["base", "format", "image", "offline", "sys"];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in main_sources() {
        let name = relative(&path);
        if !name.starts_with("fsck/") || is_test_file(&name) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("source");
        for line in product_lines(&text) {
            for used in line.split("twinfs::").skip(1) {
                let module: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                seen += 1;
                if !SHARED.contains(&module.as_str()) {
                    wrong.push(format!("{name}: fsck may not use {module}"));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} uses were found: nothing is checked");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_banned_is_called() {
    let mut wrong = Vec::new();
    for path in main_sources() {
        let name = relative(&path);
        let text = fs::read_to_string(&path).expect("source");
        for (number, line) in product_lines(&text).iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if code.contains("use crate::{") {
                wrong.push(format!("{name}:{}: one `use crate::module::...` per line", number + 1));
            }
            for (word, allowed) in BANNED {
                if code.contains(word) && !allowed.iter().any(|place| name.starts_with(place)) {
                    wrong.push(format!("{name}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let wrong: Vec<String> = main_sources()
        .iter()
        .filter(|path| !fs::read_to_string(path).expect("source").starts_with("//!"))
        .map(|path| relative(path))
        .collect();
    assert!(wrong.is_empty(), "no module head (`//!`):\n{}", wrong.join("\n"));
}

#[test]
fn the_rules_can_fail() {
    let long = format!("fn big() {{\n{}}}\n", "    step();\n".repeat(80));
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(functions(&lines), vec![("big".to_string(), 1, 82)]);
    assert_eq!(crate_paths("use crate::sys::disk;"), vec!["sys".to_string()]);
    assert_eq!(function_name("    pub(crate) async fn go(x: u8) {"), Some("go".to_string()));
}
