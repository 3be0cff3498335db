//! Real daemons with real fence agents: who is stopped, who goes on, and what a restarted node does not do.
//!
//! The agents are programs on the nodes that ask the test to do what a power switch would: it kills the daemon of the
//! other node at once and says so.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::path::PathBuf;
use std::time::Duration;

use harness::pair::{MOUNT, Pair, Plan};
use harness::{need, wait_for};
use nix::sys::signal::Signal;

/// Requests lie in the folder that stands for DIR; the node comes with the options.
const AGENT: &str = r#"#!/bin/sh
given=$(cat)
case "$given" in *action=monitor*) exit 0;; esac
node=$(echo "$given" | sed -n 's/^plug=//p')
echo "$given" > "DIR/asked-$node"
n=0
while [ $n -lt 200 ]; do
  [ -e "DIR/done-$node" ] && exit 0
  [ -e "DIR/fails" ] && { echo "the switch does not answer" >&2; exit 1; }
  sleep 0.05; n=$((n + 1))
done
exit 1
"#;

/// A service that takes its time to stop.
const SLOW: &str = "#!/bin/sh\n[ \"$1\" != stop ] || sleep 1\nexit 0\n";

struct Switch {
    dir: PathBuf,
}

impl Switch {
    fn asked(&self, node: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join(format!("asked-{node}"))).ok()
    }

    #[track_caller]
    fn wait_asked(&self, node: &str) -> String {
        assert!(
            wait_for(Duration::from_secs(20), || self.asked(node).is_some_and(|text| !text.is_empty())),
            "nobody asked to stop {node}"
        );
        self.asked(node).expect("asked")
    }

    /// Stops the node, and only then says so.
    fn stop(&self, pair: &Pair, node: &str) {
        pair.node(node).signal("twinfs daemon", Signal::SIGKILL);
        std::fs::write(self.dir.join(format!("done-{node}")), "").expect("scratch folder");
    }

    fn clear(&self) {
        for node in ["alpha", "beta"] {
            let _ = std::fs::remove_file(self.dir.join(format!("asked-{node}")));
            let _ = std::fs::remove_file(self.dir.join(format!("done-{node}")));
        }
    }
}

fn start(test: &str) -> (Pair, Switch) {
    start_with(test, "", "")
}

/// `lines` of the volume, and the script of a service that they may name.
fn start_with(test: &str, lines: &str, service: &str) -> (Pair, Switch) {
    let agent = "\"/usr/local/sbin/fence_test\"";
    let section = |node: &str| {
        format!("\n[fence.{node}]\ntarget = \"{node}\"\nagent = {agent}\noptions = [\"plug={node}\"]\n")
    };
    let volume = lines.to_string() + &section("alpha") + &section("beta");
    let plan = Plan { arbitration: "fence", volume, ..Plan::default() };
    let mut pair = Pair::prepare(test, &plan);
    // Seen by both nodes under its own path.
    let dir = pair.world.dir.join("power-switch");
    std::fs::create_dir(&dir).expect("scratch folder");
    for name in ["alpha", "beta"] {
        let node = pair.node(name);
        let script = AGENT.replace("DIR", &dir.display().to_string());
        std::fs::write(node.dir.join("agent"), script).expect("agent");
        let place = "/usr/local/sbin/fence_test";
        node.sh(&format!("cp {}/agent {place} && chmod 755 {place}", node.dir.display())).ok();
        std::fs::write(node.dir.join("slow"), service).expect("service");
        node.sh(&format!("install -m 755 {}/slow /usr/local/sbin/slow", node.dir.display())).ok();
    }
    for name in ["alpha", "beta"] {
        pair.start_daemon(name);
    }
    pair.wait_in_sync("alpha");
    (pair, Switch { dir })
}

#[test]
fn a_cut_link_stops_the_secondary_and_its_restart_shoots_nobody() {
    let name = "a_cut_link_stops_the_secondary_and_its_restart_shoots_nobody";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let (mut pair, switch) = start("fence-cut");
    pair.node("alpha").sh(&format!("echo before > {MOUNT}/before && sync {MOUNT}/before")).ok();
    pair.world.part("alpha", "beta");
    let given = switch.wait_asked("beta");
    assert!(given.contains("action=reboot\n") && given.contains("plug=beta"), "{given}");
    assert_ne!(pair.volume("alpha")["state"], "alone", "it went on before the agent answered");
    switch.stop(&pair, "beta");
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone" && volume["serving"] == true);
    pair.node("alpha").sh(&format!("echo alone > {MOUNT}/alone && sync {MOUNT}/alone")).ok();
    switch.clear();
    pair.start_daemon("beta");
    // Well past initdead, and past deadtime and fence_delay.
    std::thread::sleep(Duration::from_secs(14));
    assert_eq!(switch.asked("alpha"), None, "a restarted node shot the only current copy");
    assert_ne!(pair.volume("beta")["serving"], true, "two primaries");
    pair.world.heal();
    pair.wait_in_sync("alpha");
    pair.compare_images();
}

#[test]
fn a_request_of_a_daemon_that_died_is_settled_before_the_pair_is_whole_again() {
    let name = "a_request_of_a_daemon_that_died_is_settled_before_the_pair_is_whole_again";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let (mut pair, switch) = start("fence-left");
    pair.world.part("alpha", "beta");
    switch.wait_asked("beta");
    pair.node("alpha").signal("twinfs daemon", Signal::SIGKILL);
    assert!(!pair.node("alpha").pids_of("fence_test").is_empty(), "the agent went with the daemon");
    pair.world.heal();
    pair.start_daemon("alpha");
    pair.wait_in_sync("alpha");
    assert!(pair.node("alpha").pids_of("fence_test").is_empty(), "an agent may still shoot a member");
    let told = pair.node("alpha").run(&["twinfs", "events"]).out;
    assert!(told.contains("that is settled first"), "{told}");
    pair.compare_images();
}

#[test]
fn where_no_agent_helps_a_word_with_its_code_does_and_no_other() {
    let name = "where_no_agent_helps_a_word_with_its_code_does_and_no_other";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let (mut pair, switch) = start("fence-word");
    std::fs::write(switch.dir.join("fails"), "").expect("scratch folder");
    let early = pair.node("beta").run(&["twinfs", "fence-confirm"]);
    assert!(early.code == 7 && early.err.contains("nothing to confirm"), "{} {}", early.code, early.err);
    pair.node("alpha").signal("twinfs daemon", Signal::SIGKILL);
    switch.wait_asked("alpha");
    pair.wait("beta", "asking for a word", |volume| {
        volume["reason"].as_str().is_some_and(|text| text.contains("fence-confirm"))
    });
    assert_ne!(pair.volume("beta")["serving"], true, "it serves without anybody's word");
    let told = pair.node("beta").run(&["twinfs", "fence-confirm", "data"]);
    assert!(told.code == 7 && told.err.contains("both nodes write"), "{} {}", told.code, told.err);
    let wrong = pair.node("beta").run(&["twinfs", "fence-confirm", "data", "--code", "000000"]);
    assert!(wrong.code == 7 && wrong.err.contains("is not the code"), "{} {}", wrong.code, wrong.err);
    // Between two rounds the agents are asked anew, and each round has its own code.
    let taken = wait_for(Duration::from_secs(30), || {
        let code = pair.volume("beta")["fence_code"].as_str().unwrap_or("").to_string();
        !code.is_empty()
            && pair.node("beta").run(&["twinfs", "fence-confirm", "data", "--code", &code]).code == 0
    });
    assert!(taken, "{:#}", pair.volume("beta"));
    pair.wait_serving("beta");
    let _ = std::fs::remove_file(switch.dir.join("fails"));
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    pair.compare_images();
}

#[test]
fn a_held_node_takes_nothing_over_and_stays_held_over_a_restart() {
    let name = "a_held_node_takes_nothing_over_and_stays_held_over_a_restart";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("hold", &Plan::default());
    let other = pair.node("beta").run(&["twinfs", "hold", "alpha"]);
    assert!(other.code == 2 && other.err.contains("say it on alpha"), "{} {}", other.code, other.err);
    pair.node("beta").run(&["twinfs", "hold"]).ok();
    assert_eq!(pair.volume("beta")["held"], true);
    pair.node("beta").signal("twinfs daemon", Signal::SIGKILL);
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    assert_eq!(pair.volume("beta")["held"], true, "forgotten over a restart");
    pair.node("alpha").signal("twinfs daemon", Signal::SIGKILL);
    std::thread::sleep(Duration::from_secs(8));
    assert_ne!(pair.volume("beta")["serving"], true, "a held node took over");
    pair.node("beta").run(&["twinfs", "hold", "--off"]).ok();
    pair.wait_serving("beta");
    // The other way round: whoever serves hands over before it is held.
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    pair.node("beta").run(&["twinfs", "hold", "beta"]).ok();
    pair.wait_serving("alpha");
    pair.wait_in_sync("alpha");
    pair.compare_images();
}

#[test]
fn a_secondary_that_is_stopped_on_purpose_is_not_shot() {
    let name = "a_secondary_that_is_stopped_on_purpose_is_not_shot";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let (mut pair, switch) = start("fencing-farewell");
    pair.node("beta").run(&["twinfs", "down"]).ok();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone" && volume["serving"] == true);
    let reason = pair.volume("alpha")["reason"].to_string();
    assert!(reason.contains("on purpose"), "{reason}");
    // Beyond the deadtime, when a node that fell silent would have been stopped.
    std::thread::sleep(Duration::from_secs(6));
    pair.node("alpha").sh(&format!("echo alone > {MOUNT}/alone && sync {MOUNT}/alone")).ok();
    assert_eq!((switch.asked("alpha"), switch.asked("beta")), (None, None), "somebody was shot");
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    pair.node("alpha").run(&["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    // Hands over first, and leaves then.
    pair.node("beta").run(&["twinfs", "down"]).ok();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone" && volume["serving"] == true);
    assert_eq!(pair.node("alpha").sh(&format!("cat {MOUNT}/alone")).ok().out, "alone\n");
    assert_eq!((switch.asked("alpha"), switch.asked("beta")), (None, None), "somebody was shot");
}

/// The primary is told that the secondary leaves while it hands over: it may not go on alone, as it leaves too.
#[test]
fn both_nodes_stopped_at_once_end_soon_and_come_back_with_everything() {
    let name = "both_nodes_stopped_at_once_end_soon_and_come_back_with_everything";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let lines = "services = [\"exec:/usr/local/sbin/slow\"]\n";
    let (mut pair, switch) = start_with("fencing-both-down", lines, SLOW);
    // Before, in the middle of and after the time that the service takes to stop.
    for (round, (first, late)) in [("beta", 0), ("alpha", 200), ("alpha", 1300)].into_iter().enumerate() {
        pair.node("alpha").sh(&format!("echo {round} > {MOUNT}/round && sync {MOUNT}/round")).ok();
        let other = if first == "alpha" { "beta" } else { "alpha" };
        let began = std::time::Instant::now();
        std::thread::scope(|scope| {
            let pair = &pair;
            scope.spawn(move || pair.node(first).run(&["twinfs", "down"]).ok());
            std::thread::sleep(Duration::from_millis(late));
            pair.node(other).run(&["twinfs", "down"]).ok();
        });
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "round {round}: {took:?}");
        assert_eq!((switch.asked("alpha"), switch.asked("beta")), (None, None), "somebody was shot");
        for node in ["alpha", "beta"] {
            assert!(pair.node(node).pids_of("twinfs daemon").is_empty(), "{node} goes on");
            let mounts = pair.node(node).sh("cat /proc/mounts").ok().out;
            assert!(!mounts.contains(MOUNT), "{node}: {mounts}");
        }
        for node in ["alpha", "beta"] {
            pair.start_daemon(node);
        }
        let serving = || ["alpha", "beta"].into_iter().find(|node| pair.volume(node)["serving"] == true);
        assert!(wait_for(Duration::from_secs(20), || serving().is_some()), "nobody serves");
        let primary = serving().unwrap_or("alpha");
        pair.wait_in_sync(primary);
        let read = pair.node(primary).sh(&format!("cat {MOUNT}/round")).ok().out;
        assert_eq!(read, format!("{round}\n"));
        if primary == "beta" {
            pair.node("beta").run(&["twinfs", "switchover"]).ok();
            pair.wait_in_sync("alpha");
        }
    }
    pair.compare_images();
}
