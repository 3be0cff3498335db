//! CPython's own tests of files, each judged by its name: what passes on ext4 passes on twinfs in the same run.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bed, side_by_side};
use crate::harness::{need, say};

/// The test modules about files, as root, without those that need a terminal.
pub const MODULES: &str = "test_os test_shutil test_tarfile test_zipfile test_mmap test_mailbox test_pathlib \
    test_fileio test_glob test_tempfile test_posixpath test_largefile test_dbm_dumb test_shelve test_filecmp \
    test_fcntl test_bufio test_file test_stat test_posix";

/// Those that take a second together, for where the whole would take too long.
pub const SHORT_MODULES: &str = "test_fileio test_glob test_posixpath test_dbm_dumb test_filecmp test_fcntl";

pub const NEEDS: &[need::Program] = &[
    ("/usr/lib/python3.11/test/test_os.py", "libpython3.11-testsuite"),
    ("/usr/bin/python3.11", "python3.11"),
];

/// CPython's runner, which also writes down how each test ended: its own reports leave out the tests with parts that
/// failed.
const RUNNER: &str = r#"
import runpy, sys
from test.support import testresult

log = open(sys.argv.pop(1), "a", buffering=1)

def note(method, word):
    old = getattr(testresult.RegressionTestResult, method)
    def noted(self, test, *rest):
        if method != "addSubTest" or rest[1] is not None:
            whole = getattr(test, "test_case", test)
            reason = " ".join(str(rest[0]).split()) if method == "addSkip" else ""
            print(word, whole.id(), reason, sep="\t", file=log)
        return old(self, test, *rest)
    setattr(testresult.RegressionTestResult, method, noted)

note("addSuccess", "passed")
note("addExpectedFailure", "passed")
note("addSkip", "skipped")
for method in ["addError", "addFailure", "addSubTest", "addUnexpectedSuccess"]:
    note(method, "failed")
runpy.run_module("test", run_name="__main__")
"#;

/// How a test ended; of several words about one the later of these counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Passed,
    Skipped(String),
    Failed,
}

pub type Verdicts = BTreeMap<String, Verdict>;

fn read(text: &str) -> Verdicts {
    let mut found = Verdicts::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (word, name, reason) = (fields.next(), fields.next(), fields.next());
        let verdict = match word {
            Some("passed") => Verdict::Passed,
            Some("skipped") => Verdict::Skipped(reason.unwrap_or_default().to_string()),
            Some("failed") => Verdict::Failed,
            _ => panic!("not a verdict: {line}"),
        };
        let worst = found.entry(name.expect("a name").to_string()).or_insert(Verdict::Passed);
        *worst = verdict.max(worst.clone());
    }
    found
}

/// Runs the modules; panics where a whole one does not end with verdicts.
#[track_caller]
pub fn run(bed: &Bed, modules: &str) -> Verdicts {
    let (runner, log) = (bed.beside().join("runner.py"), bed.beside().join("verdicts"));
    std::fs::write(&runner, RUNNER).unwrap();
    let line = format!(
        "export HOME=$PWD TMPDIR=$PWD; unset PYTHONPATH; \
         /usr/bin/python3.11 {} {} --tempdir $PWD {modules}",
        runner.display(),
        log.display()
    );
    let ran = bed.run(&line);
    let found = read(&std::fs::read_to_string(&log).unwrap_or_default());
    let failed = found.values().any(|verdict| *verdict == Verdict::Failed);
    assert!(ran.code == 0 || failed, "{}: {}{}", bed.kind(), ran.out, ran.err);
    for module in modules.split_whitespace() {
        let own = format!("test.{module}.");
        let ran_some =
            |(name, verdict): (&String, &Verdict)| name.starts_with(&own) && *verdict == Verdict::Passed;
        assert!(
            found.iter().any(ran_some),
            "{}: nothing of {module} passed: {}{}",
            bed.kind(),
            ran.out,
            ran.err
        );
    }
    found
}

/// Names with one verdict.
fn names(all: &Verdicts, which: impl Fn(&Verdict) -> bool) -> BTreeSet<&String> {
    all.iter().filter(|(_, verdict)| which(verdict)).map(|(name, _)| name).collect()
}

/// What passes on ext4 passes here; panics with the names of those that do not. Names every skip.
#[track_caller]
pub fn judge(ours: &Verdicts, ext4: &Verdicts) {
    let passed = |all| names(all, |verdict| *verdict == Verdict::Passed);
    let less: Vec<_> = passed(ext4).difference(&passed(ours)).map(|name| (*name, ours.get(*name))).collect();
    assert!(less.is_empty(), "pass on ext4 only: {less:?}");
    let failed = names(ours, |verdict| *verdict == Verdict::Failed);
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, verdict) in ours {
        if let Verdict::Skipped(reason) = verdict {
            reasons.entry(reason).or_default().push(name.trim_start_matches("test."));
        }
    }
    let skipped: usize = reasons.values().map(Vec::len).sum();
    say(&format!(
        "cpython: {} tests pass, each that does on ext4 among them; fail on ext4 too: {failed:?}; {skipped} skipped",
        passed(ours).len()
    ));
    for (reason, tests) in reasons {
        say(&format!("cpython: skipped, {reason}: {}", tests.join(" ")));
    }
}

#[test]
fn each_of_cpythons_tests_of_files_that_passes_on_ext4_passes() {
    if !need::have_mounts("each_of_cpythons_tests_of_files_that_passes_on_ext4_passes", NEEDS) {
        return;
    }
    let [ours, ext4] = side_by_side("cpython", "2G", |alone| run(&Bed::Alone(alone), MODULES));
    judge(&ours, &ext4);
}

#[test]
fn the_worst_word_about_a_test_counts() {
    let found = read("passed\ta\t\nskipped\tb\tno x\npassed\tb\t\nfailed\tc\t\npassed\tc\t\n");
    assert_eq!(found["a"], Verdict::Passed);
    assert_eq!(found["b"], Verdict::Skipped("no x".into()));
    assert_eq!(found["c"], Verdict::Failed);
}

#[test]
#[should_panic(expected = "pass on ext4 only")]
fn a_test_that_is_missing_here_is_no_pass() {
    judge(&read("passed\ta\t\n"), &read("passed\ta\t\npassed\tb\t\n"));
}
