//! The file system class of stress-ng, each stressor by itself: what ends well on ext4 ends well on twinfs in the same
//! run, and what skips itself is named with its reason.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bed, long, side_by_side};
use crate::harness::{need, say};

pub const NEEDS: &[need::Program] = &[("stress-ng", "stress-ng"), ("mkfs.ext4", "e2fsprogs")];

/// Skips itself on twinfs and not on ext4, and why that cannot be otherwise.
const SKIPPED_ON_FUSE_ONLY: &[(&str, &str)] =
    &[("fiemap", "FUSE has no message that asks where the blocks of a file lie")];

/// How a stressor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Passed,
    Skipped(String),
    Failed(String),
}

const NO_RESOURCE: i32 = 3;
const NOT_BUILT: i32 = 4;

pub type Ends = BTreeMap<String, End>;

/// Names of the class, as the program tells them.
fn class(bed: &Bed) -> Vec<String> {
    let told = bed.run("stress-ng --class 'filesystem?' 2>&1");
    let list = told.out.split_once("stressors:").map(|(_, list)| list).unwrap_or_default();
    let names: Vec<String> = list.split_whitespace().map(str::to_string).collect();
    assert!(names.len() > 30, "the class has only {} stressors: {}", names.len(), told.out);
    names
}

/// What a run of one stressor means: 0 also where it skipped itself, which it says; 3 for want of something, 4 where it
/// was built without.
fn end_of(code: i32, text: &str) -> End {
    // Without the name and the number of the process at the start of each line.
    let told = |line: &str| line.split_once("] ").map_or(line, |(_, told)| told).trim().to_string();
    // It does not start what may take the machine down.
    if let Some(line) = text.lines().find(|line| line.contains("disabled '")) {
        return End::Skipped(told(line));
    }
    let is_wrong = |line: &&str| line.contains("fail:") || (line.contains("aborted") && code != NO_RESOURCE);
    let wrong: Vec<String> = text.lines().filter(is_wrong).map(told).collect();
    if !wrong.is_empty() || !matches!(code, 0 | NO_RESOURCE | NOT_BUILT) {
        return End::Failed(format!("exit {code}: {}", wrong.join("; ")));
    }
    let skipped = text.lines().find(|line| line.contains("skip"));
    match skipped {
        Some(line) => End::Skipped(told(line)),
        None if code == 0 => End::Passed,
        None => {
            End::Skipped(format!("exit {code}: {}", text.lines().map(told).collect::<Vec<_>>().join("; ")))
        }
    }
}

/// One after another; ten times as long with TWINFS_LONG=1.
pub fn run(bed: &Bed) -> Ends {
    let seconds = if long() { 10 } else { 1 };
    let one = |name: String| {
        let line = format!("stress-ng --{name} 1 --verify --timeout {seconds}s --temp-path . 2>&1");
        let ran = bed.run(&line);
        let end = end_of(ran.code, &ran.out);
        (name, end)
    };
    class(bed).into_iter().map(one).collect()
}

/// The whole class at once for a few seconds: nothing of it may fail.
#[track_caller]
pub fn all_at_once(bed: &Bed) {
    let ran = bed.run("stress-ng --class filesystem --all 1 --verify --timeout 5s --temp-path . 2>&1");
    // Whoever misses a device of the kernel is aborted for want of resources.
    let skipped = |line: &str| line.contains("(binderfs)");
    let is_wrong = |line: &&str| line.contains("fail:") || (line.contains("aborted") && !skipped(line));
    let wrong: Vec<&str> = ran.out.lines().filter(is_wrong).collect();
    assert!(matches!(ran.code, 0 | NO_RESOURCE) && wrong.is_empty(), "{}: {wrong:?}\n{}", ran.code, ran.out);
    for line in ran.out.lines().filter(|line| line.contains("skip")) {
        say(&format!("stress-ng at once: {line}"));
    }
}

#[track_caller]
pub fn judge(ours: &Ends, ext4: &Ends) {
    let passes = |ends: &Ends| -> BTreeSet<String> {
        ends.iter().filter(|(_, end)| **end == End::Passed).map(|(name, _)| name.clone()).collect()
    };
    let excused = |name: &str| {
        matches!(ours.get(name), Some(End::Skipped(_)))
            && SKIPPED_ON_FUSE_ONLY.iter().any(|(one, _)| *one == name)
    };
    let (here, there) = (passes(ours), passes(ext4));
    let less: Vec<_> =
        there.difference(&here).filter(|name| !excused(name)).map(|name| (name, ours.get(name))).collect();
    assert!(less.is_empty(), "pass on ext4 only: {less:?}");
    say(&format!("stress-ng: {} of {} stressors pass, on ext4 {}", here.len(), ours.len(), there.len()));
    for (name, end) in ours {
        match end {
            End::Passed => {}
            End::Skipped(reason) => {
                say(&format!("stress-ng: {name} skipped: {reason}; ext4: {:?}", ext4[name]))
            }
            End::Failed(reason) => say(&format!("stress-ng: {name} fails on ext4 too: {reason}")),
        }
    }
    for (name, reason) in SKIPPED_ON_FUSE_ONLY {
        say(&format!("stress-ng: {name} is skipped on twinfs only: {reason}"));
    }
}

#[test]
fn each_stressor_of_the_file_system_class_that_passes_on_ext4_passes() {
    let name = "each_stressor_of_the_file_system_class_that_passes_on_ext4_passes";
    if !need::have_mounts(name, NEEDS) {
        return;
    }
    let [ours, ext4] = side_by_side("stress-ng", "2G", |alone| run(&Bed::Alone(alone)));
    judge(&ours, &ext4);
}

#[test]
fn the_end_of_a_stressor_is_read_right() {
    assert_eq!(end_of(0, "stress-ng: info:  [1] successful run completed in 1.00s"), End::Passed);
    let skipped = "stress-ng: info:  [2] verity: verity is not supported, skipping stress test";
    assert_eq!(
        end_of(0, skipped),
        End::Skipped("verity: verity is not supported, skipping stress test".into())
    );
    let poor = "binderfs not supported, skipping stress test\nprocess [3] (binderfs) aborted early, out of system resources";
    assert!(matches!(end_of(NO_RESOURCE, poor), End::Skipped(reason) if reason.starts_with("binderfs")));
    let dangerous =
        "stress-ng: info:  [6] disabled 'bind-mount' as it may hang\nstress-ng: error: [6] No workers";
    assert_eq!(end_of(1, dangerous), End::Skipped("disabled 'bind-mount' as it may hang".into()));
    assert!(matches!(end_of(0, "stress-ng: fail:  [4] rename: wrong"), End::Failed(_)));
    assert!(matches!(end_of(2, "process [5] (rename) aborted early"), End::Failed(_)));
}
