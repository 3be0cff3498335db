//! What the program of `[notify]` is given, and that nothing waits for it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::base::Span;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("twinfs-hooks-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        Place(dir)
    }

    fn notify(&self, script: &str, limit_ms: u64) -> Notify {
        let path = self.0.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", self.0.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let argv = vec![path.display().to_string(), "--mail root".to_string()];
        Notify { argv, timeout: Span::from_millis(limit_ms), degraded_after: Notify::DEGRADED_AFTER }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn journal() -> Arc<Journal> {
    Arc::new(Journal::new(NodeId::B, Names { a: "alpha".into(), b: "beta".into() }, None))
}

fn call(word: Word, text: &str) -> Call {
    let (volume, node, peer) = ("data".to_string(), "beta".to_string(), "alpha".to_string());
    Call { word, volume, node, peer, text: text.to_string(), unix_ms: 1_700_000_000_000 }
}

fn failures(journal: &Journal) -> Vec<String> {
    let told = journal.newest(None, 100).into_iter();
    told.filter_map(|entry| match entry.event {
        Told::NotifyFailed { reason, .. } => Some(reason),
        _ => None,
    })
    .collect()
}

#[track_caller]
fn wait(what: &str, reached: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < end, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_program_gets_its_own_arguments_first_and_no_shell_sees_the_text() {
    let place = Place::new("given");
    let notify = place
        .notify(r#"for a in "$@"; do echo "[$a]" >> args; done; env > env; cat > json; echo > done"#, 5_000);
    let mut caller = Caller::start(&notify, &journal());
    let text = "beta took data over; $(touch shell) `touch shell` \"x\"";
    caller.call(call(Word::Takeover, text));
    wait("the call", || place.0.join("done").exists());
    assert_eq!(place.read("args"), format!("[--mail root]\n[takeover]\n[data]\n[beta]\n[alpha]\n[{text}]\n"));
    let env = place.read("env");
    for line in
        ["TWINFS_EVENT=takeover", "TWINFS_VOLUME=data", "TWINFS_NODE=beta", "TWINFS_PEER=alpha", "LANG=C"]
    {
        assert!(env.lines().any(|have| have == line), "{line}: {env}");
    }
    assert!(env.contains(&format!("TWINFS_TEXT={text}")) && !env.contains("CARGO"), "{env}");
    let json: serde_json::Value = serde_json::from_str(&place.read("json")).unwrap();
    assert_eq!(json["event"], "takeover");
    assert_eq!((&json["text"], &json["schema"]), (&text.into(), &1.into()));
    assert!(!place.0.join("shell").exists());
}

#[test]
fn one_word_is_never_told_twice_at_once_and_another_one_does_not_wait() {
    let place = Place::new("once");
    let script = r#"case "$2" in divergence) echo > other; exit 0;; esac
mkdir busy || echo twice >> twice
n=0; while [ ! -e go ] && [ $n -lt 400 ]; do sleep 0.05; n=$((n + 1)); done
echo "$6" >> told; rmdir busy"#;
    let mut caller = Caller::start(&place.notify(script, 30_000), &journal());
    for text in ["first", "second", "third"] {
        caller.call(call(Word::Takeover, text));
    }
    wait("the first call", || place.0.join("busy").exists());
    caller.call(call(Word::Divergence, "both"));
    wait("the other word", || place.0.join("other").exists());
    assert_eq!(place.read("told"), "", "it was held up by nothing");
    std::fs::write(place.0.join("go"), "").unwrap();
    wait("all", || place.read("told") == "first\nsecond\nthird\n");
    assert!(!place.0.join("twice").exists());
}

#[test]
fn a_program_that_hangs_or_fails_is_killed_and_told_once_until_it_works_again() {
    let place = Place::new("fails");
    let script = r#"echo "$6" >> began
case "$6" in hang) sleep 600 & echo $! > child; wait;; fail) echo "no mail here" >&2; exit 3;; esac"#;
    let journal = journal();
    let mut caller = Caller::start(&place.notify(script, 2_000), &journal);
    let began = Instant::now();
    for text in ["hang", "fail", "fail", "good", "fail"] {
        caller.call(call(Word::Degraded, text));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "the caller waited: {:?}", began.elapsed());
    wait("both failures", || failures(&journal).len() >= 2);
    assert_eq!(place.read("began"), "hang\nfail\nfail\ngood\nfail\n");
    let told = failures(&journal);
    assert!(
        told.len() == 2 && told[0].contains("not finished in time") && told[1].contains("no mail here"),
        "{told:?}"
    );
    let child = place.read("child");
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(child.trim()).join("stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "left running: {stat}");
}

#[test]
fn what_waits_is_bounded_and_what_is_dropped_is_told_once() {
    let place = Place::new("full");
    let journal = journal();
    let mut caller = Caller::start(&place.notify("echo > busy; sleep 5", 60_000), &journal);
    // It no longer waits itself: what comes now finds the room full once.
    caller.call(call(Word::Takeover, "first"));
    wait("the first call", || place.0.join("busy").exists());
    let began = Instant::now();
    for _ in 0..3 * WAITING_MAX {
        caller.call(call(Word::Takeover, "again"));
    }
    assert!(began.elapsed() < Duration::from_secs(3), "the caller waited: {:?}", began.elapsed());
    assert_eq!(failures(&journal).len(), 1, "{:?}", failures(&journal));
}

#[test]
fn a_program_that_others_could_change_is_not_run() {
    let place = Place::new("trust");
    let notify = place.notify("echo > ran", 1_000);
    std::fs::set_permissions(place.0.join("hook"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let journal = journal();
    Caller::start(&notify, &journal).call(call(Word::DiskFailure, "x"));
    wait("the refusal", || failures(&journal).iter().any(|reason| reason.contains("go-w")));
    assert!(!place.0.join("ran").exists());
}

#[test]
fn only_a_failed_disk_is_passed_on_from_the_journal() {
    let (journal, (sender, disks)) = (journal(), channel());
    listen(&journal, sender);
    journal.tell(Some("data"), Told::InSync { peer: NodeId::A });
    journal.tell(Some("data"), Told::PeerDiskFailed { peer: NodeId::A });
    journal.tell(Some("data"), Told::DiskFailed { image: "/i".into(), reason: "EIO".into() });
    let passed: Vec<String> = disks.try_iter().map(|entry| entry.event.name()).collect();
    assert_eq!(passed, ["peer-disk-failed", "disk-failed"]);
}
