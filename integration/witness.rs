//! The real witness process: it survives kill -9 with its records, and of many racing swaps exactly one wins.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test with real programs, files and time"
)]

mod harness;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use harness::need;
use twinfs::base::{Generation, Members, NodeId, Record, VolumeId};
use twinfs::config::ClusterKey;
use twinfs::link::{WitnessClient, WitnessError};
use twinfs::sys::secret;
use twinfs::wire::{WitnessRecord, WitnessReply, WitnessRequest};

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinfs");
const MAIL: VolumeId = VolumeId(0xa11);

struct Place {
    dir: PathBuf,
    key: ClusterKey,
}

impl Place {
    /// A directory with a key, a configuration, and the witness's key made from both by the program itself.
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("twinfs-witness-process-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let key = dir.join("key");
        assert!(program(&["key", "generate", key.to_str().unwrap()]).status.success());
        let place = Place { dir, key: ClusterKey::parse(&secret::read(&key).unwrap()).unwrap() };
        let config = format!(
            "[cluster]\nname = \"office\"\nkey_file = \"{}\"\narbitration = \"witness\"\nwitness = \"127.0.0.1:9\"\n\
             [node.alpha]\naddresses = [\"127.0.0.1:1\"]\n[node.beta]\naddresses = [\"127.0.0.1:2\"]\n\
             [volume.mail]\nimage = \"/i\"\nsize = \"64M\"\nmount = \"/m\"\n",
            key.display()
        );
        std::fs::write(place.dir.join("twinfs.toml"), config).unwrap();
        let made = program(&[
            "key",
            "generate",
            "--witness",
            "--config",
            place.dir.join("twinfs.toml").to_str().unwrap(),
            place.dir.join("witness.key").to_str().unwrap(),
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        place
    }

    fn witness_args(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        ["witness", "--listen", "127.0.0.1:0", "--dir", &path("records"), "--key-file", &path("witness.key")]
            .map(str::to_string)
            .to_vec()
    }

    fn start(&self) -> Running {
        let mut child = Command::new(PROGRAM)
            .arg("--json")
            .args(self.witness_args())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        Running { child, address: said["listen"].as_str().unwrap().to_string() }
    }

    fn client(&self, running: &Running, node: NodeId) -> WitnessClient {
        let keys = self.key.witness("office");
        let index = usize::from(node.index());
        let timeout = Duration::from_millis(2000);
        WitnessClient::new(running.address.clone(), node, keys.request[index], keys.reply[index], timeout)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn program(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    /// kill -9.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(client: &WitnessClient, request: WitnessRequest) -> Result<WitnessReply, WitnessError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.ask(MAIL, request))
}

fn record(v: u64, primary: NodeId, nonce: u128) -> WitnessRecord {
    let members = if v == 1 { Members::BOTH } else { Members::only(primary) };
    WitnessRecord {
        record: Record { v, members, primary },
        head: Generation(5),
        lineage: u128::from(v),
        nonce,
    }
}

fn swap(v: u64, winner: NodeId, nonce: u128) -> WitnessRequest {
    WitnessRequest::Cas { expect_v: v, expect_lineage: u128::from(v), next: record(v + 1, winner, nonce) }
}

fn enrol(place: &Place, running: &Running) {
    let request = WitnessRequest::Enrol { record: record(1, NodeId::A, 1), sole: false };
    for (node, done) in [(NodeId::A, false), (NodeId::B, true)] {
        let reply = ask(&place.client(running, node), request).unwrap();
        assert_eq!(matches!(reply, WitnessReply::Record { .. }), done, "{reply:?}");
    }
}

#[test]
fn a_killed_witness_comes_back_with_every_answer_that_it_gave() {
    let place = Place::new("kill");
    let mut running = place.start();
    enrol(&place, &running);
    for v in 1..20 {
        let node = if v % 3 == 0 { NodeId::A } else { NodeId::B };
        let request = swap(v, node, u128::from(v) + 1000);
        let reply = ask(&place.client(&running, node), request).unwrap();
        assert!(matches!(reply, WitnessReply::Won { .. }), "{v}: {reply:?}");
        // Killed right after the answer: the record must be there, and the repeated swap is answered the same.
        drop(running);
        running = place.start();
        let client = place.client(&running, node);
        match ask(&client, WitnessRequest::Read).unwrap() {
            WitnessReply::Record { record, .. } => {
                assert_eq!((record.record.v, record.record.primary), (v + 1, node))
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(ask(&client, request).unwrap(), WitnessReply::Won { .. }));
    }
}

#[test]
fn of_racing_swaps_exactly_one_wins() {
    let place = Place::new("race");
    let running = place.start();
    enrol(&place, &running);
    for v in 1..30u64 {
        let replies: Vec<(NodeId, WitnessReply)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u128)
                .map(|n| {
                    let (place, running) = (&place, &running);
                    let node = if n % 2 == 0 { NodeId::A } else { NodeId::B };
                    let nonce = u128::from(v) * 10 + n;
                    scope.spawn(move || {
                        (node, ask(&place.client(running, node), swap(v, node, nonce)).unwrap())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<NodeId> =
            replies.iter().filter(|(_, r)| matches!(r, WitnessReply::Won { .. })).map(|(n, _)| *n).collect();
        assert_eq!(winners.len(), 1, "{replies:?}");
        let told = replies.iter().filter_map(|(_, reply)| match reply {
            WitnessReply::Conflict { record, .. } => Some(record.record),
            _ => None,
        });
        assert!(told.into_iter().all(|record| record.v == v + 1 && record.primary == winners[0]));
    }
}

#[test]
fn what_cannot_start_says_why_in_one_line_with_its_exit_code() {
    let place = Place::new("refuse");
    let running = place.start();
    let refused = |args: &[String], code: i32, text: &str| {
        let output = Command::new(PROGRAM).args(args).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(text) && told.trim_end().lines().count() == 1, "{told}");
    };
    let args = place.witness_args();
    refused(&args, 1, "in use by another witness");
    drop(running);
    let with_key = |file: &Path| {
        let mut args = args.clone();
        *args.last_mut().unwrap() = file.display().to_string();
        args
    };
    refused(&with_key(&place.dir.join("key")), 78, "this is the cluster's key");
    refused(&with_key(&place.dir.join("none")), 78, "is missing");
    let loose = place.dir.join("loose.key");
    std::fs::copy(place.dir.join("witness.key"), &loose).unwrap();
    std::fs::set_permissions(&loose, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    refused(&with_key(&loose), 78, "chmod 0600");
}

#[test]
fn it_runs_without_root() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return need::skip("it_runs_without_root", "needs root to become somebody else");
    }
    let place = Place::new("user");
    let nobody = 65_534;
    std::fs::create_dir(place.dir.join("records")).unwrap();
    for name in ["", "records", "witness.key"] {
        std::os::unix::fs::chown(place.dir.join(name), Some(nobody), Some(nobody)).unwrap();
    }
    // The program itself may lie where only root can reach it.
    let program = place.dir.join("twinfs");
    // Copied by another process: a descriptor open for writing here could be inherited by a test beside this one, and a
    // file that is open for writing cannot be executed.
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
    let mut child = Command::new(&program)
        .arg("--json")
        .args(place.witness_args())
        .uid(nobody)
        .gid(nobody)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    let running = Running { child, address: said["listen"].as_str().unwrap().to_string() };
    enrol(&place, &running);
}
