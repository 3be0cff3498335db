//! Requests and agents: what is noted, shared, settled and answered.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use super::*;
use crate::events::Names;

struct Bed {
    dir: PathBuf,
    fencer: Fencer,
    file: Arc<NodeFile>,
}

fn bed(name: &str, scripts: [&str; 2]) -> Bed {
    let dir = std::env::temp_dir().join(format!("twinfs-fence-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut text = "[cluster]\nname = \"c\"\narbitration = \"fence\"\n[timing]\nfence_timeout = \"1s\"\n\
                    [node.a]\naddresses = \"10.0.0.1\"\n[node.b]\naddresses = \"10.0.0.2\"\n\
                    [volume.v]\nimage = \"/i\"\nsize = \"1G\"\nmount = \"/m\"\n\
                    [fence.back]\ntarget = \"a\"\nagent = \"/bin/false\"\n"
        .to_string();
    for (level, script) in scripts.iter().enumerate() {
        let path = dir.join(format!("agent{level}"));
        // The look whether it works is no run.
        let script = format!("#!/bin/sh\ngrep -q monitor && exit 0\ncd {}\n{script}\n", dir.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        text += &format!(
            "[fence.l{level}]\ntarget = \"b\"\nlevel = {}\nagent = \"{}\"\n",
            level + 1,
            path.display()
        );
    }
    let config = Config::parse(&text).unwrap();
    let journal = Arc::new(Journal::new(NodeId::A, Names::default(), None));
    let fencer = Fencer::start(&config, NodeId::A, journal);
    let file = Arc::new(NodeFile::open(&dir, "v").unwrap());
    Bed { dir, fencer, file }
}

impl Bed {
    fn ask(&self, nonce: u128, level: Option<u32>) -> Receiver<(FenceEnd, Option<u128>)> {
        let (tell, told) = channel();
        let (file, node_file) = (Arc::clone(&self.file), Arc::clone(&self.file));
        let answer = move |end| {
            let _ = tell.send((end, file.fence_left()));
        };
        self.fencer.ask(Shot { nonce, level, node_file, answer: Box::new(answer) });
        told
    }
}

fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_request_is_noted_before_the_agent_runs_and_its_note_goes_before_the_answer() {
    let bed = bed("noted", ["cp v.node.json seen; exit 0", "exit 1"]);
    let told = bed.ask(0xabcd, Some(0));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), (FenceEnd::Done, None));
    let seen = std::fs::read_to_string(bed.dir.join("seen")).unwrap();
    assert!(seen.contains("0000abcd"), "{seen}");
    assert_eq!(bed.ask(1, Some(1)).recv_timeout(PATIENCE).unwrap().0, FenceEnd::Failed);
    assert_eq!(bed.ask(2, Some(7)).recv_timeout(PATIENCE).unwrap().0, FenceEnd::Failed, "no such level");
    std::fs::remove_dir_all(&bed.dir).unwrap();
}

#[test]
fn requests_made_together_share_a_run_and_one_made_during_a_run_does_not() {
    let bed = bed("shared", ["echo run >> runs; touch began; sleep 0.5; exit 0", "exit 1"]);
    let (one, two) = (bed.ask(1, Some(0)), bed.ask(2, Some(0)));
    wait_for(&bed.dir.join("began"));
    let late = bed.ask(3, Some(0));
    for told in [one, two, late] {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().0, FenceEnd::Done);
    }
    let runs = std::fs::read_to_string(bed.dir.join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 2, "one for both, and one begun after the late request");
    std::fs::remove_dir_all(&bed.dir).unwrap();
}

#[test]
fn an_agent_over_its_time_is_no_success_and_nothing_of_it_lives_on() {
    // It leaves its process group: the time limit alone does not reach it.
    let bed = bed("late", ["setsid sh -c 'sleep 4; touch shot' & sleep 30", "exit 0"]);
    assert_eq!(bed.ask(5, Some(0)).recv_timeout(PATIENCE).unwrap(), (FenceEnd::Unanswered, None));
    std::thread::sleep(Duration::from_secs(4));
    assert!(!bed.dir.join("shot").exists(), "it shot after its answer");
    std::fs::remove_dir_all(&bed.dir).unwrap();
}

#[test]
fn what_an_earlier_daemon_started_is_ended_before_its_request_counts_as_settled() {
    let bed = bed("left", ["exit 0", "exit 0"]);
    bed.file.note_fence(Some(9)).unwrap();
    let script = format!("trap '' TERM; sleep 3; touch {}", bed.dir.join("shot").display());
    let mut child =
        std::process::Command::new("sh").args(["-c", &script]).env(agent::MARK, mark(9)).spawn().unwrap();
    let again = NodeFile::open(&bed.dir, "v").unwrap();
    assert_eq!(again.fence_left(), Some(9));
    // Reaped by somebody: a zombie has no environment.
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    assert_eq!(bed.ask(9, None).recv_timeout(PATIENCE).unwrap(), (FenceEnd::Unanswered, None));
    assert!(!reaper.join().unwrap().success());
    std::thread::sleep(Duration::from_secs(3));
    assert!(!bed.dir.join("shot").exists());
    std::fs::remove_dir_all(&bed.dir).unwrap();
}
