//! Two real nodes and a witness under every trouble at random, and clients that note what they were told.
//!
//! From a printed seed: daemons and whole machines are killed, stopped and thawed, cables pulled, cut one way and made
//! to lose packets, the witness goes away, the primary moves, bytes of an image are flipped behind its daemon. Clients
//! on both nodes append, overwrite, deliver by rename and insert into SQLite; probes note who has the service address.
//! In the end one volume has to explain all notes (`torture/history.rs`), both images are equal, and fsck finds nothing.
//!
//! Five minutes; ten with TWINFS_LONG=1, as many as TWINFS_TORTURE_MINUTES says. TWINFS_TORTURE_SEED repeats the
//! troubles of a run, though not its timing.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;
#[path = "torture/history.rs"]
mod history;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::need;
use harness::node::Running;
use harness::pair::{MOUNT, Pair, Plan};
use history::Op;
use nix::sys::signal::Signal;

const ADDRESS: &str = "192.0.2.20";
const CLIENT: &str = include_str!("torture/client.py");
const PROBE: &str = include_str!("torture/probe.py");
const NODES: [&str; 2] = ["alpha", "beta"];
const KEYS: [&str; 6] = ["10", "11", "12", "20", "21", "22"];
/// Bytes of a file that nobody touches again, in 4 KiB blocks that can be told from each other.
const COLD_BLOCKS: usize = 512;

/// Everything that is done to the pair; what moves the primary for certain is there twice.
const TROUBLES: [&str; 19] = [
    "kill the primary's daemon",
    "kill the primary's machine",
    "kill the primary's machine",
    "end the primary's daemon in order",
    "end both daemons in order",
    "upgrade the primary's daemon",
    "kill the secondary's daemon",
    "kill the secondary's machine",
    "kill both machines",
    "stop the primary's daemon",
    "stop the secondary's daemon",
    "part the nodes",
    "part the primary from all",
    "one way only",
    "pull one cable",
    "lose packets",
    "take the witness away",
    "switch over",
    "switch over",
];

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

/// The pair, its clients, and what was done to it.
struct Torture {
    pair: Pair,
    dice: Dice,
    running: Vec<(&'static str, Running)>,
    /// Clients that were started, so that none uses a number twice.
    started: usize,
    primary: &'static str,
    takeovers: usize,
    done: BTreeMap<&'static str, usize>,
    /// Blocks of the cold file that are damaged or may be, and where each node's image has each block.
    flipped: Vec<usize>,
    places: [Vec<u64>; 2],
}

fn other(name: &str) -> &'static str {
    if name == "alpha" { "beta" } else { "alpha" }
}

fn cold_block(number: usize) -> Vec<u8> {
    let mut dice = Dice(number as u64 + 0x9E37_79B9);
    (0..512).flat_map(|_| dice.below(u64::MAX).to_le_bytes()).collect()
}

impl Torture {
    fn start(seed: u64) -> Torture {
        let plan = Plan {
            paths: 2,
            volume: format!("address = \"{ADDRESS}/24\"\nscrub = \"never\"\n"),
            ..Plan::default()
        };
        let pair = Pair::start("torture", &plan);
        let alpha = pair.node("alpha");
        let cold: Vec<u8> = (0..COLD_BLOCKS).flat_map(cold_block).collect();
        std::fs::write(alpha.dir.join("cold"), cold).expect("the cold file");
        alpha
            .sh(&format!("mkdir {MOUNT}/torture && cp {}/cold {MOUNT}/torture/cold", alpha.dir.display()))
            .ok();
        for key in KEYS {
            alpha.sh(&format!(
                "cd {MOUNT}/torture && printf none > reg-{key} && printf none > box-{key} && touch log-{key} && \
                 python3 -c \"import sqlite3; sqlite3.connect('rows-{key}.db').execute('CREATE TABLE rows (v)')\""
            ))
            .ok();
        }
        alpha.run(&["twinfs", "sync"]).ok();
        let mut torture = Torture {
            pair,
            dice: Dice(seed),
            running: Vec::new(),
            started: 0,
            primary: "alpha",
            takeovers: 0,
            done: BTreeMap::new(),
            flipped: Vec::new(),
            places: [Vec::new(), Vec::new()],
        };
        // The checkpoint brings the file home on both.
        std::thread::sleep(Duration::from_secs(3));
        torture.places = NODES.map(|name| places(&torture.image(name)));
        NODES.iter().for_each(|name| torture.start_programs(name));
        torture
    }

    fn image(&self, name: &str) -> PathBuf {
        self.pair.node(name).dir.join("images/data.img")
    }

    /// Two clients and the probe of a node.
    fn start_programs(&mut self, name: &'static str) {
        let node = self.pair.node(name);
        self.running.retain(|(owner, _)| *owner != name);
        for client in 1..=2 {
            self.started += 1;
            let (who, first) = (format!("{name}{client}"), (self.started * 1_000_000).to_string());
            let notes = node.dir.join(format!("notes-{}", self.started)).display().to_string();
            let log = format!("client-{}.log", self.started);
            self.running
                .push((name, node.spawn(&log, &["/usr/bin/python3", "-c", CLIENT, &who, &notes, &first])));
        }
        let held = node.dir.join(format!("held-{}", self.started)).display().to_string();
        self.running
            .push((name, node.spawn("probe.log", &["/usr/bin/python3", "-c", PROBE, ADDRESS, &held])));
    }

    fn seconds(&mut self, from: u64, to: u64) {
        let ms = self.dice.below((to - from) * 1000 + 1);
        std::thread::sleep(Duration::from_millis(from * 1000 + ms));
    }

    fn kill_machine(&mut self, name: &'static str) {
        self.pair.node(name).kill_all();
        // Sometimes back before the deadtime (4 s), sometimes after it.
        self.seconds(0, 9);
        self.start_programs(name);
    }

    /// Does one thing and takes it back; the daemons may be dead afterwards.
    fn trouble(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
        let (primary, secondary) = (self.primary, other(self.primary));
        let victim = if what.contains("primary") { primary } else { secondary };
        match what {
            "kill the primary's daemon" | "kill the secondary's daemon" => {
                self.pair.node(victim).signal("twinfs daemon", Signal::SIGKILL);
                self.seconds(0, 9);
            }
            "kill the primary's machine" | "kill the secondary's machine" => self.kill_machine(victim),
            "kill both machines" => {
                self.pair.end_both();
                NODES.iter().for_each(|name| self.start_programs(name));
            }
            "stop the primary's daemon" | "stop the secondary's daemon" => {
                self.pair.node(victim).signal("twinfs daemon", Signal::SIGSTOP);
                self.seconds(0, 9);
                self.pair.node(victim).signal("twinfs daemon", Signal::SIGCONT);
            }
            "part the nodes" => {
                self.pair.world.part("alpha", "beta");
                self.seconds(0, 8);
            }
            "part the primary from all" => {
                self.pair.world.part("alpha", "beta");
                self.pair.world.part(primary, "gamma");
                self.seconds(1, 9);
            }
            "one way only" => {
                let deaf = NODES[self.dice.below(2) as usize];
                for path in 0..2 {
                    self.pair.node(deaf).drop_from(&self.pair.world.address(other(deaf), path));
                }
                self.seconds(0, 8);
            }
            "pull one cable" => {
                let path = self.dice.below(2) as usize;
                self.pair.world.cable(NODES[self.dice.below(2) as usize], path, false);
                self.seconds(0, 5);
            }
            "lose packets" => {
                let rule = "add table inet cut; add chain inet cut in { type filter hook input priority -300; }; \
                            add rule inet cut in numgen random mod 10 < 3 drop";
                for name in NODES {
                    self.pair.node(name).run(&["nft", rule]).ok();
                }
                self.seconds(2, 6);
            }
            "end the primary's daemon in order" => {
                self.pair.node(victim).run(&["twinfs", "down"]).ok();
            }
            "end both daemons in order" => {
                let pair = &self.pair;
                std::thread::scope(|scope| {
                    scope.spawn(|| pair.node(primary).run(&["twinfs", "down"]).ok());
                    pair.node(secondary).run(&["twinfs", "down"]).ok();
                });
            }
            "upgrade the primary's daemon" => {
                let ran = self.pair.node(victim).run(&["twinfs", "upgrade"]);
                // 75: not at this moment.
                assert!([0, 75].contains(&ran.code), "{what}: {}{}", ran.out, ran.err);
            }
            "take the witness away" => {
                self.pair.stop_witness();
                if self.dice.below(2) == 0 {
                    self.pair.node(victim).signal("twinfs daemon", Signal::SIGKILL);
                }
                self.seconds(0, 6);
                self.pair.start_witness();
            }
            _ => {
                let _ = self.pair.node(primary).run(&["twinfs", "switchover"]);
            }
        }
        self.pair.world.heal();
    }

    /// Everything runs again, both copies are in sync, and clients are answered.
    fn recover(&mut self, what: &str) -> Duration {
        let began = Instant::now();
        for name in NODES {
            if self.pair.node(name).pids_of("twinfs daemon").is_empty() {
                self.pair.start_daemon(name);
            }
        }
        self.pair.wait_either_in_sync();
        let now = self.pair.primary().unwrap_or_else(|| panic!("nobody serves after: {what}"));
        if now != self.primary {
            self.takeovers += 1;
            self.primary = now;
        }
        // Of what is noted from now on, so that a long run does not read all notes again and again.
        let files: Vec<(PathBuf, u64)> =
            self.notes().map(|(_, file)| (file.clone(), length(&file))).collect();
        let answered = harness::wait_for(Duration::from_secs(30), || {
            files.iter().map(|(file, from)| answers_since(file, *from)).sum::<usize>() > 20
        });
        assert!(answered, "no client is answered at {now} after: {what}");
        began.elapsed()
    }

    /// Flips bytes of a block of the cold file in one node's image; the file has to come out whole.
    fn flip(&mut self) {
        let number = self.dice.below(COLD_BLOCKS as u64) as usize;
        let node = self.dice.below(2) as usize;
        let Some(place) = self.places[node].get(number).copied().filter(|_| !self.flipped.contains(&number))
        else {
            return;
        };
        let image = std::fs::File::options().write(true).open(self.image(NODES[node])).expect("image");
        image.write_all_at(b"not what was written", place + 700).expect("write into the image");
        image.sync_all().expect("sync");
        self.flipped.push(number);
        let node = self.pair.node(self.primary);
        let path = node.dir.join("read");
        let read = format!("dd if={MOUNT}/torture/cold of={} bs=1M iflag=direct", path.display());
        node.run(&["sh", "-c", &read]).ok();
        let there = std::fs::read(&path).expect("the cold file");
        let wrong: Vec<usize> = (0..COLD_BLOCKS)
            .filter(|number| there.get(number * 4096..(number + 1) * 4096) != Some(&cold_block(*number)[..]))
            .collect();
        assert!(
            wrong.is_empty(),
            "blocks {wrong:?} of a file that nobody touched are wrong on {}",
            self.primary
        );
    }

    /// Every file of notes that may be there, and the node of its client.
    fn notes(&self) -> impl Iterator<Item = (&'static str, PathBuf)> + '_ {
        let of = move |name| {
            (0..=self.started).map(move |n| (name, self.pair.node(name).dir.join(format!("notes-{n}"))))
        };
        NODES.into_iter().flat_map(of)
    }

    fn ops(&self) -> Vec<Op> {
        let read = |(name, file): (&str, PathBuf)| {
            history::read(name, &std::fs::read_to_string(file).unwrap_or_default())
        };
        self.notes().flat_map(read).collect()
    }

    /// What `command` prints for each key on the primary.
    fn each_key(&self, command: &str) -> BTreeMap<String, String> {
        let node = self.pair.node(self.primary);
        let ask = |key: &&str| {
            let line = format!("cd {MOUNT}/torture && {}", command.replace("KEY", key));
            ((*key).to_string(), node.run(&["sh", "-c", &line]).ok().out)
        };
        KEYS.iter().map(ask).collect()
    }

    /// What is wrong with what the clients saw and with what lies on the volume now.
    fn judge(&self) -> (Vec<Op>, Vec<String>) {
        let (ops, mut wrong) = (self.ops(), Vec::new());
        let trimmed = |all: BTreeMap<String, String>| -> BTreeMap<String, String> {
            all.into_iter().map(|(key, text)| (key, text.trim_end_matches([' ', '\n']).to_string())).collect()
        };
        history::lines(&ops, "append", &self.each_key("cat log-KEY"), &mut wrong);
        history::registers(&ops, "put", "get", &trimmed(self.each_key("cat reg-KEY")), &mut wrong);
        history::registers(&ops, "deliver", "", &trimmed(self.each_key("cat box-KEY")), &mut wrong);
        let rows = "import sqlite3; c = sqlite3.connect('rows-KEY.db'); \
                    assert c.execute('PRAGMA integrity_check').fetchall() == [('ok',)]; \
                    [print(v) for v, in c.execute('SELECT v FROM rows ORDER BY rowid')]";
        let rows = self.each_key(&format!("python3 -c \"{rows}\""));
        history::lines(&ops, "insert", &rows, &mut wrong);
        history::one_at_a_time(&ops, &mut wrong);
        let held = NODES.map(|name| -> Vec<(f64, f64)> {
            let all = (0..=self.started).map(|n| self.pair.node(name).log(&format!("held-{n}")));
            all.flat_map(|text| history::held(&text)).collect()
        });
        assert!(!held[0].is_empty() && !held[1].is_empty(), "the probes saw no address: {held:?}");
        history::one_address(&held[0], &held[1], &mut wrong);
        (ops, wrong)
    }
}

fn length(file: &std::path::Path) -> u64 {
    std::fs::metadata(file).map_or(0, |found| found.len())
}

/// Operations that were answered in the notes behind the first `from` bytes.
fn answers_since(file: &std::path::Path, from: u64) -> usize {
    let bytes = std::fs::read(file).unwrap_or_default();
    let new = String::from_utf8_lossy(bytes.get(from as usize..).unwrap_or_default());
    history::read("", &new).iter().filter(|op| op.done.is_some()).count()
}

/// Where the blocks of the cold file lie in an image.
fn places(image: &std::path::Path) -> Vec<u64> {
    let bytes = std::fs::read(image).expect("image");
    let known: BTreeMap<Vec<u8>, usize> =
        (0..COLD_BLOCKS).map(|number| (cold_block(number), number)).collect();
    let mut places = vec![0; COLD_BLOCKS];
    for (index, block) in bytes.chunks(4096).enumerate() {
        if let Some(number) = known.get(block) {
            places[*number] = index as u64 * 4096;
        }
    }
    assert!(places.iter().all(|place| *place > 0), "the cold file is not in the image");
    places
}

fn minutes() -> u64 {
    let said = std::env::var("TWINFS_TORTURE_MINUTES").ok().and_then(|text| text.parse().ok());
    said.unwrap_or(if std::env::var_os("TWINFS_LONG").is_some() { 10 } else { 5 })
}

#[test]
fn whatever_is_done_to_a_pair_one_volume_explains_what_its_clients_saw() {
    let name = "whatever_is_done_to_a_pair_one_volume_explains_what_its_clients_saw";
    if !need::have_nodes(name, &[("/usr/bin/python3", "python3"), ("dd", "coreutils")]) {
        return;
    }
    let seed = std::env::var("TWINFS_TORTURE_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    harness::say(&format!("torture: {} minutes, TWINFS_TORTURE_SEED={seed}", minutes()));
    let mut torture = Torture::start(seed);
    let end = Instant::now() + Duration::from_secs(60 * minutes());
    let mut longest = Duration::ZERO;
    let mut left: Vec<&str> = Vec::new();
    while Instant::now() < end {
        // Each trouble once before any comes again.
        if left.is_empty() {
            left = TROUBLES.to_vec();
        }
        let what = left.swap_remove(torture.dice.below(left.len() as u64) as usize);
        torture.seconds(0, 2);
        torture.trouble(what);
        let took = torture.recover(what);
        longest = longest.max(took);
        println!(
            "{what}: {} serves, in sync and answering after {:.1} s",
            torture.primary,
            took.as_secs_f64()
        );
        torture.flip();
    }
    torture.running.clear();
    for name in NODES {
        let _ = torture.pair.node(name).run(&["pkill", "-9", "python3"]);
    }
    let (ops, wrong) = torture.judge();
    let shown = wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "seed {seed}: {} things are wrong:\n{shown}", wrong.len());
    let repaired = torture.pair.node(torture.primary).run(&["twinfs", "verify", "--repair"]);
    let clean = torture.pair.node(torture.primary).run(&["twinfs", "verify"]);
    assert_eq!(clean.code, 0, "{}{}{}", repaired.out, clean.out, clean.err);
    torture.pair.compare_images();
    for name in NODES {
        let image = torture.image(name).display().to_string();
        torture.pair.node("gamma").run(&["fsck-twinfs", "-n", "-f", &image]).ok();
    }
    let acknowledged = ops.iter().filter(|op| op.done.is_some()).count();
    harness::say(&format!(
        "torture: {} troubles, {} changes of the primary, {} flipped blocks, {acknowledged} of {} operations \
         acknowledged, none lost; longest way back to sync {:.1} s; {:?}",
        torture.done.values().sum::<usize>(),
        torture.takeovers,
        torture.flipped.len(),
        ops.len(),
        longest.as_secs_f64(),
        torture.done
    ));
    let wanted = 2 * minutes() as usize;
    assert!(torture.takeovers >= wanted, "only {} changes of the primary", torture.takeovers);
}
