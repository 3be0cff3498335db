//! Bad input: every wrong key, file, image and packet gets one clear line and a documented exit code, and changes nothing.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::time::Duration;

use harness::need;
use harness::node::{Node, Ran};
use harness::pair::{MOUNT, Pair, Plan};
use nix::sys::signal::Signal;

const IMAGE: &str = "/var/lib/twinfs/data.img";

fn small() -> Plan {
    Plan { size: "64MiB", ..Plan::default() }
}

/// Everything on a node that bad input might change: names, modes, sizes and content; and what is mounted.
fn everything(node: &Node) -> String {
    node.sh(
        "find /etc/twinfs /var/lib/twinfs -path '*/history*' -prune -o -type f -printf '%p %m %s ' -exec sha256sum {} \\; ; \
         ls -la --full-time / | grep replicated; ls -A /replicated 2>/dev/null; cat /proc/mounts",
    )
    .ok()
    .out
}

/// One line on standard error, with these words, and this exit code.
#[track_caller]
fn refused(what: &str, ran: &Ran, code: i32, words: &[&str]) {
    let said = ran.err.trim_end();
    harness::say(&format!("{what}: exit {}: {said}", ran.code));
    assert_eq!(ran.code, code, "{what}: {said}");
    assert_eq!(said.lines().count(), 1, "{what}: not one line: {said}");
    for word in words {
        assert!(said.contains(word), "{what}: says nothing of {word}: {said}");
    }
}

/// Makes something wrong on `node`, runs a command that must refuse it, and sees that the command changed nothing.
#[track_caller]
fn case(node: &Node, what: &str, spoil: &str, command: &[&str], code: i32, words: &[&str]) {
    node.sh(spoil).ok();
    let before = everything(node);
    let ran = node.run_within(Duration::from_secs(20), command);
    refused(what, &ran, code, words);
    assert_eq!(everything(node), before, "{what}: something was changed");
    assert!(node.pids_of("twinfs daemon").is_empty(), "{what}: a daemon was left");
    node.sh(&format!("rm -rf /etc/twinfs/* /var/lib/twinfs/* {MOUNT}; {RESTORE}")).ok();
}

/// What `wrong_files_...` keeps for the next case.
const KEEP: &str = "cp -a /etc/twinfs /good.etc && cp -a --sparse=always /var/lib/twinfs /good.lib";
const RESTORE: &str = "cp -a /good.etc/. /etc/twinfs && cp -a --sparse=always /good.lib/. /var/lib/twinfs";

#[test]
fn wrong_files_end_a_daemon_with_one_line_and_change_nothing() {
    let name = "wrong_files_end_a_daemon_with_one_line_and_change_nothing";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::prepare("bad-files", &small());
    let alpha = pair.node("alpha");
    alpha.sh(KEEP).ok();
    let daemon = &["twinfs", "daemon"][..];
    let check = &["twinfs", "config", "check"][..];
    let config = "/etc/twinfs/twinfs.toml";

    for command in [daemon, check] {
        case(alpha, "key readable by all", "chmod 644 /etc/twinfs/key", command, 78, &["key", "chmod 0600"]);
        case(alpha, "broken key", "echo nonsense > /etc/twinfs/key", command, 78, &["/etc/twinfs/key"]);
        case(alpha, "no key", "rm /etc/twinfs/key", command, 78, &["/etc/twinfs/key"]);
        let mistyped = format!("sed -i s/deadtime/deadtme/ {config}");
        case(alpha, "mistyped setting", &mistyped, command, 78, &["deadtme", "deadtime", config]);
    }
    let renamed = format!("sed -i s/volume.data/volume.mail/ {config}");
    case(alpha, "image of another volume", &renamed, daemon, 78, &[IMAGE, "belongs to volume"]);
    let other = &["twinfs", "daemon", "--node", "beta"];
    case(alpha, "image of the other node", "true", other, 78, &[IMAGE, "copy of node alpha"]);
    let short = format!("truncate -s -4M {IMAGE}");
    case(alpha, "truncated image", &short, daemon, 78, &[IMAGE, "truncated"]);
    let noise = format!("head -c 67108864 /dev/urandom > {IMAGE}");
    case(alpha, "no image at all", &noise, daemon, 78, &[IMAGE, "not a twinfs image"]);
    case(alpha, "missing image", &format!("rm {IMAGE}"), daemon, 78, &[IMAGE, "twinfs init"]);
    let filled = format!("mkdir {MOUNT} && echo mine > {MOUNT}/file");
    case(alpha, "mount point not empty", &filled, daemon, 78, &[MOUNT, "not empty"]);
    let used = format!("setsid flock {IMAGE} sleep 15 >/dev/null 2>&1 & sleep 0.5");
    case(alpha, "image in use", &used, daemon, 78, &[IMAGE, "in use by process"]);
}

#[test]
fn an_image_in_use_is_left_alone_by_every_command() {
    let name = "an_image_in_use_is_left_alone_by_every_command";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let pair = Pair::start("bad-use", &small());
    let alpha = pair.node("alpha");
    alpha.sh(&format!("echo kept > {MOUNT}/kept && sync {MOUNT}/kept; mkdir /elsewhere")).ok();
    let commands: [(&[&str], i32); 4] = [
        (&["twinfs", "daemon"], 1),
        (&["twinfs", "mkfs", "--force", IMAGE], 78),
        (&["twinfs", "dump", "superblock", IMAGE], 78),
        (&["fsck-twinfs", "-n", IMAGE], 8),
    ];
    for (words, code) in commands {
        let ran = alpha.run_within(Duration::from_secs(40), words);
        let said = format!("{}{}", ran.out, ran.err);
        eprintln!("{}: exit {}: {}", words.join(" "), ran.code, said.trim_end());
        assert_eq!(ran.code, code, "{words:?}: {said}");
        assert!(said.contains("in use") || said.contains("running already"), "{words:?}: {said}");
    }
    assert_eq!(alpha.sh(&format!("cat {MOUNT}/kept")).ok().out, "kept\n");
    pair.wait_in_sync("alpha");
}

/// The newest events of a node, as text.
fn events(node: &Node) -> String {
    node.run(&["twinfs", "events"]).out
}

#[test]
fn a_peer_with_another_key_or_configuration_is_refused_until_it_is_put_right() {
    let name = "a_peer_with_another_key_or_configuration_is_refused_until_it_is_put_right";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("bad-peer", &small());
    let spoilt = [
        (
            "another key",
            "cd /etc/twinfs && mv key good && twinfs key generate key",
            "mv /etc/twinfs/good /etc/twinfs/key",
        ),
        (
            "twinfs.toml differs",
            "cd /etc/twinfs && cp -p twinfs.toml good && echo 'service_timeout = \"61s\"' >> twinfs.toml",
            "mv /etc/twinfs/good /etc/twinfs/twinfs.toml",
        ),
    ];
    for (words, spoil, repair) in spoilt {
        pair.node("beta").signal("twinfs daemon", Signal::SIGKILL);
        pair.node("beta").sh(spoil).ok();
        pair.start_daemon("beta");
        let told = harness::wait_for(Duration::from_secs(30), || events(pair.node("alpha")).contains(words));
        assert!(told, "{words}: {}", events(pair.node("alpha")));
        let line =
            events(pair.node("alpha")).lines().rev().find(|line| line.contains(words)).map(String::from);
        eprintln!("{words}: {}", line.unwrap_or_default());
        // Longer than the deadtime and initdead: a stranger is no peer, and takes nothing over.
        std::thread::sleep(Duration::from_secs(9));
        assert_ne!(pair.volume("beta")["serving"], true, "{words}: beta serves");
        pair.wait_serving("alpha");
        let status = pair.node("alpha").run(&["twinfs", "status"]);
        assert_eq!(status.code, 4, "{words}: {}{}", status.out, status.err);
        pair.node("alpha").sh(&format!("echo {} > {MOUNT}/file && sync {MOUNT}/file", words.len())).ok();
        pair.node("beta").sh(repair).ok();
        pair.node("beta").run(&["twinfs", "down"]).ok();
        pair.start_daemon("beta");
        pair.wait_in_sync("alpha");
        assert_eq!(pair.node("alpha").run(&["twinfs", "status"]).code, 0);
    }
    pair.compare_images();
}

/// Records the payload of every datagram to port 8790 that this machine sends or gets, one line of hex each.
const CAPTURE: &str = r#"
use strict; use Socket; use IO::Handle;
socket(my $s, 17, SOCK_DGRAM, unpack("S", pack("n", 0x0003))) or die "packet socket: $!";
open(my $out, ">", $ARGV[0]) or die; $out->autoflush(1);
while (defined recv($s, my $p, 65536, 0)) {
  next unless length $p > 28 and ord(substr($p, 9, 1)) == 17;
  my $h = (ord($p) & 15) * 4;
  next unless unpack("n", substr($p, $h + 2, 2)) == 8790;
  print $out unpack("H*", substr($p, $h + 8, unpack("n", substr($p, $h + 4, 2)) - 8)), "\n";
}
"#;

/// Sends every recorded datagram again and again, and garbage between them: random, and altered in one bit.
const REPLAY: &str = r#"
use strict; use IO::Socket::INET;
$| = 1;
my ($file, @targets) = @ARGV;
open(my $in, "<", $file) or die; my @old = map { chomp; pack("H*", $_) } <$in>;
my @to = map { IO::Socket::INET->new(PeerAddr => $_, PeerPort => 8790, Proto => "udp") or die } @targets;
for (my $n = 0; ; $n++) {
  my $old = $old[$n % @old];
  my $bent = $old; my $at = int(rand(length $bent)); substr($bent, $at, 1) ^= chr(1 << int(rand(8)));
  my $noise = join "", map { chr(int(rand(256))) } 1 .. int(rand(1200));
  for my $to (@to) { $to->send($_) for $old, $bent, $noise; }
  print "$n\n" if $n % 500 == 0;
  select(undef, undef, undef, 0.002);
}
"#;

/// Holds connections that say nothing, and makes others that say nonsense, half sentences or a great deal.
const BABBLE: &str = r#"
use strict; use IO::Socket::INET;
$SIG{PIPE} = "IGNORE"; $| = 1;
my @targets = @ARGV; my @silent;
for (my $n = 0; ; $n++) {
  my $to = $targets[$n % @targets];
  my $s = IO::Socket::INET->new(PeerAddr => $to, PeerPort => 8790, Proto => "tcp", Timeout => 1) or next;
  if ($n % 4 == 0) { push @silent, $s; shift @silent if @silent > 40; }
  elsif ($n % 4 == 1) { $s->send(join "", map { chr(int(rand(256))) } 1 .. int(rand(4000))); }
  elsif ($n % 4 == 2) { $s->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); }
  else { $s->send("\xff" x 100000); }
  print "$n\n" if $n % 100 == 0;
  select(undef, undef, undef, 0.005);
}
"#;

#[test]
fn garbage_and_replays_move_nothing_and_keep_no_dead_primary_alive() {
    let name = "garbage_and_replays_move_nothing_and_keep_no_dead_primary_alive";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let mut pair = Pair::start("bad-packets", &small());
    let record = pair.world.dir.join("datagrams").display().to_string();
    let capture = pair.node("alpha").spawn("capture.log", &["perl", "-e", CAPTURE, &record]);
    let lines = |path: &str| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    assert!(harness::wait_for(Duration::from_secs(20), || lines(&record) > 60), "no datagram was recorded");
    drop(capture);
    pair.node("alpha").sh("pkill perl; true").ok();
    let (a, b) = (pair.world.address("alpha", 0), pair.world.address("beta", 0));
    let v = pair.volume("alpha")["record_v"].clone();
    let replay = pair.node("gamma").spawn("replay.log", &["perl", "-e", REPLAY, &record, &a, &b]);
    // From a stranger and, as if it were one of its programs, from the peer's own machine.
    let babble = pair.node("gamma").spawn("babble.log", &["perl", "-e", BABBLE, &a, &b]);
    let inside = pair.node("beta").spawn("babble.log", &["perl", "-e", BABBLE, &a]);
    let until = std::time::Instant::now() + Duration::from_secs(8);
    let mut looks = 0;
    while std::time::Instant::now() < until {
        let volume = pair.volume("alpha");
        assert_eq!((&volume["state"], &volume["record_v"]), (&"in-sync".into(), &v), "{volume:#}");
        pair.node("alpha").sh(&format!("echo {looks} > {MOUNT}/file && sync {MOUNT}/file")).ok();
        looks += 1;
    }
    // What was refused is counted by class, and the forgery is said; the noise of a stranger is not.
    let status: serde_json::Value =
        serde_json::from_str(&pair.node("alpha").run(&["twinfs", "--json", "status", "--links"]).out)
            .expect("JSON");
    let link = &status["links"][0];
    for class in ["forged", "replayed", "foreign"] {
        assert!(link["refused"][class].as_u64() > Some(100), "{class}: {link:#}");
    }
    assert!(link["problem"].as_str().unwrap_or_default().contains("forged"), "{link:#}");
    assert!(link["lost"].as_u64() < Some(5) && link["late"] == 0, "replays are no loss: {link:#}");
    assert!(link["answers"].as_u64() > Some(2), "{link:#}");
    // A new stream must find a slot among the babblers.
    pair.node("alpha").run(&["twinfs", "disconnect"]).ok();
    pair.node("alpha").run(&["twinfs", "connect"]).ok();
    pair.wait_in_sync("alpha");
    // The replayed heartbeats of a dead primary must not keep it alive.
    pair.node("alpha").signal("twinfs daemon", Signal::SIGKILL);
    let began = std::time::Instant::now();
    pair.wait_serving("beta");
    let took = began.elapsed();
    let heard = pair.volume("beta")["peer_heard_ms"].as_u64().unwrap_or(0);
    assert!(
        u128::from(heard) + 1_500 >= took.as_millis(),
        "replays of a dead node count as heard: {heard} ms"
    );
    assert!(took < Duration::from_secs(20), "replays delayed the takeover: {took:?}");
    assert_eq!(pair.node("beta").sh(&format!("cat {MOUNT}/file")).ok().out, format!("{}\n", looks - 1));
    let last = |node: &str, log: &str| pair.node(node).log(log).lines().last().unwrap_or("0").to_string();
    let (datagrams, strangers) = (last("gamma", "replay.log"), last("gamma", "babble.log"));
    assert!(datagrams != "0" && strangers != "0", "nothing was sent");
    harness::say(&format!(
        "{} recorded, about {datagrams} replays and twice as much garbage to each node, {strangers} + {} bad \
         connections; {looks} looks in sync, takeover in {took:.1?}",
        lines(&record),
        last("beta", "babble.log")
    ));
    drop((replay, babble, inside));
    pair.node("gamma").sh("pkill perl; true").ok();
    pair.node("beta").sh("pkill perl; true").ok();
    pair.start_daemon("alpha");
    pair.wait_in_sync("beta");
    pair.compare_images();
}

#[test]
fn a_full_image_is_enospc_for_the_application_and_nothing_else() {
    let name = "a_full_image_is_enospc_for_the_application_and_nothing_else";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let mut pair = Pair::start("bad-full", &small());
    let alpha = pair.node("alpha");
    alpha
        .sh(&format!("mkdir {MOUNT}/old && cp -r /usr/share/perl5/Debconf {MOUNT}/old/ && sync {MOUNT}/old"))
        .ok();
    for round in 0..3 {
        let ran = alpha.sh(&format!("dd if=/dev/urandom of={MOUNT}/big bs=64k conv=fsync"));
        eprintln!("round {round}: exit {}: {}", ran.code, ran.err.lines().next().unwrap_or_default());
        assert!(ran.code != 0 && ran.err.contains("No space left on device"), "{}{}", ran.code, ran.err);
        let many = "for (0 .. 200000) { mkdir \"$ARGV[0]/$_\" or ($! == 28 ? exit 0 : die \"$!\") } exit 1";
        alpha.sh(&format!("mkdir {MOUNT}/many")).ok();
        let ran = alpha.run(&["perl", "-e", many, &format!("{MOUNT}/many")]);
        eprintln!("round {round}: directories until ENOSPC: exit {}", ran.code);
        assert_eq!(ran.code, 0, "no ENOSPC for names: {}", ran.err);
        alpha.sh(&format!("diff -r /usr/share/perl5/Debconf {MOUNT}/old/Debconf")).ok();
        alpha.sh(&format!("rm -r {MOUNT}/big {MOUNT}/many && sync {MOUNT}")).ok();
        let again = || alpha.sh(&format!("echo again > {MOUNT}/again && sync {MOUNT}/again")).code == 0;
        assert!(harness::wait_for(Duration::from_secs(10), again), "no space came back");
    }
    pair.wait_in_sync("alpha");
    pair.compare_images();
    for node in ["alpha", "beta"] {
        let image = pair.node(node).dir.join("images/data.img");
        let output =
            std::process::Command::new(harness::bin_dir().join("fsck-twinfs")).arg("-n").arg(image).output();
        let ran = Ran::from(output.expect("fsck runs"));
        assert_eq!(ran.code, 0, "fsck on {node}: {}{}", ran.out, ran.err);
    }
    harness::say("full: 3 rounds, old files intact, fsck clean on both images");
}
