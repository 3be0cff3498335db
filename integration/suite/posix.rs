//! System calls one by one: `pjdfstest`, the one written in Rust.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{on_both, tool};
use crate::harness::alone::{Alone, run_ok, said};
use crate::harness::pair::{MOUNT, Pair, Plan};
use crate::harness::{need, say};

const SETTINGS: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["tests", "tests"]]
"#;

/// What needs a remount of the whole file system, which this run does not allow (they pass or skip as on ext4), and the
/// number of links: a FUSE mount cannot tell pathconf(3) its limit.
const SKIPPED_ON_FUSE_ONLY: &str = "link::link_count_max";
const SKIPPED_EVERYWHERE: usize = 13;

/// Names after a verdict in the output of a run.
struct Verdicts {
    passed: usize,
    skipped: BTreeSet<String>,
    failed: BTreeSet<String>,
}

fn verdicts(text: &str) -> Verdicts {
    let mut found = Verdicts { passed: 0, skipped: BTreeSet::new(), failed: BTreeSet::new() };
    // What is indented explains the verdict above it.
    for line in text.lines().filter(|line| !line.starts_with(char::is_whitespace)) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(_), Some("ok"), None) => found.passed += 1,
            (Some(name), Some("skipped"), None) => _ = found.skipped.insert(name.to_string()),
            (Some(name), Some("FAILED"), None) => _ = found.failed.insert(name.to_string()),
            _ => {}
        }
    }
    found
}

/// The settings, and a user `tests` seen by this mount namespace alone.
fn prepare(dir: &Path) {
    std::fs::write(dir.join("settings.toml"), SETTINGS).unwrap();
    for (file, line) in [("passwd", "tests:x:12345:12345::/:/bin/sh\n"), ("group", "tests:x:12345:\n")] {
        let (known, copy) = (Path::new("/etc").join(file), dir.join(file));
        let mut text = std::fs::read_to_string(&known).unwrap();
        if !text.lines().any(|l| l.starts_with("tests:")) {
            text.push_str(line);
        }
        std::fs::write(&copy, text).unwrap();
        run_ok(Command::new("mount").arg("--bind").args([copy, known]));
    }
}

fn pjdfstest(alone: &Alone) -> Verdicts {
    let other = alone.beside("other");
    prepare(&alone.root);
    // Users that the suite becomes must be able to get here.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&alone.root, mode).unwrap();
    let mut suite = Command::new(tool("pjdfstest", "0.2.2"));
    suite.arg("-c").arg(alone.root.join("settings.toml")).arg("-p").arg(alone.mnt()).arg("-s").arg(other);
    let ran = suite.output().unwrap();
    let found = verdicts(&String::from_utf8_lossy(&ran.stdout));
    assert!(found.failed.is_empty(), "{}: {:?}\n{}", alone.kind, found.failed, said(&ran));
    assert!(ran.status.success(), "{}: {}", alone.kind, said(&ran));
    assert_eq!(found.passed + found.skipped.len(), 398, "{}", alone.kind);
    found
}

const PJDFSTEST_NEEDS: &[need::Program] =
    &[("/usr/include/sys/acl.h", "libacl1-dev"), ("mkfs.ext4", "e2fsprogs"), ("truncate", "coreutils")];

#[test]
fn pjdfstest_passes_as_on_ext4() {
    if !need::have_mounts("pjdfstest_passes_as_on_ext4", PJDFSTEST_NEEDS) {
        return;
    }
    let [ours, ext4] = on_both("pjdfstest", "512M", pjdfstest);
    say(&format!(
        "pjdfstest: twinfs {} passed, {} skipped; ext4 {} passed, {} skipped",
        ours.passed,
        ours.skipped.len(),
        ext4.passed,
        ext4.skipped.len()
    ));
    assert_eq!(ext4.skipped.len(), SKIPPED_EVERYWHERE);
    assert!(ext4.skipped.iter().all(|name| name.contains("erofs")), "{:?}", ext4.skipped);
    let more: Vec<_> = ours.skipped.difference(&ext4.skipped).collect();
    assert_eq!(more, [SKIPPED_ON_FUSE_ONLY]);
}

#[test]
fn pjdfstest_and_fsx_pass_on_a_mounted_pair() {
    let name = "pjdfstest_and_fsx_pass_on_a_mounted_pair";
    if !need::have_nodes(name, PJDFSTEST_NEEDS) {
        return;
    }
    let (posix, content) = (tool("pjdfstest", "0.2.2"), tool("fsx", "0.3.2"));
    let mut pair = Pair::start("suites", &Plan::default());
    let alpha = pair.node("alpha");
    std::fs::write(alpha.dir.join("settings.toml"), SETTINGS).unwrap();
    std::fs::write(alpha.dir.join("fsx.toml"), super::content::FSX_SETTINGS).unwrap();
    alpha.sh("id tests || { echo tests:x:12345:12345::/:/bin/sh >> /etc/passwd; echo tests:x:12345: >> /etc/group; }").ok();
    alpha.sh("mkdir -p -m 755 /tmp/other").ok();
    let (dir, posix, content) = (alpha.dir.display(), posix.display(), content.display());
    let limit = Duration::from_secs(300);
    let run = format!("{posix} -c {dir}/settings.toml -p {MOUNT} -s /tmp/other");
    let ran = alpha.run_within(limit, &["sh", "-c", &run]);
    let found = verdicts(&ran.out);
    assert!(found.failed.is_empty() && ran.code == 0, "{:?}\n{}", found.failed, ran.err);
    assert_eq!((found.passed, found.skipped.len()), (398 - SKIPPED_EVERYWHERE - 1, SKIPPED_EVERYWHERE + 1));
    let run = format!("{content} -f {dir}/fsx.toml -S 11 -N {} -P /tmp {MOUNT}/fsx", super::amount(3_000));
    alpha.run_within(limit, &["sh", "-c", &run]).ok();
    pair.compare_images();
    pair.check_images();
}

#[test]
fn the_verdicts_of_a_run_are_read_right() {
    let found = verdicts("a::b   ok\nc::d  skipped\n\treason ok here\ne::f  FAILED\n\tassertion ok\n");
    assert_eq!(found.passed, 1);
    assert!(found.skipped.contains("c::d") && found.failed.contains("e::f"));
}
