//! The test bench itself: nodes are apart, cuts cut one way, the power-cut disk loses what it should, nothing is left.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::io::{Read, Seek, SeekFrom, Write};

use harness::need;
use harness::powercut::{Cut, PowerDisk};
use harness::world::{World, scratch};

fn pings(world: &World, from: &str, to: &str, path: usize) -> bool {
    let target = world.address(to, path);
    // A UDP datagram with an answer, without needing ping(8): bash of the node talks to a one-shot listener.
    let listener = world.node(to).spawn("listen.log", &["perl", "-e", LISTEN, &target]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let ran = world.node(from).run(&["perl", "-e", SEND, &target]);
    drop(listener);
    ran.code == 0
}

const LISTEN: &str = r#"use IO::Socket::INET; my $s=IO::Socket::INET->new(LocalAddr=>$ARGV[0],LocalPort=>9,Proto=>"udp")
 or die; my $m; my $p=$s->recv($m,9); $s->send("ok");"#;
const SEND: &str = r#"use IO::Socket::INET; my $s=IO::Socket::INET->new(PeerAddr=>$ARGV[0],PeerPort=>9,Proto=>"udp")
 or die; $SIG{ALRM}=sub{exit 3}; alarm 2; $s->send("hi"); my $m; $s->recv($m,9); exit($m eq "ok" ? 0 : 4);"#;

#[test]
fn nodes_are_apart_and_cables_cut_one_way_or_both() {
    let name = "nodes_are_apart_and_cables_cut_one_way_or_both";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let world = World::new("netns", &["alpha", "beta", "gamma"], 2);
    let (alpha, beta) = (world.node("alpha"), world.node("beta"));

    assert_eq!(alpha.sh("hostname").ok().out.trim(), "alpha");
    alpha
        .sh("mkdir /replicated /etc/twinfs; echo a > /etc/twinfs/who; echo a > /run/who; echo a > /var/lib/twinfs/who")
        .ok();
    for path in ["/replicated", "/etc/twinfs/who", "/run/who", "/var/lib/twinfs/who"] {
        assert_ne!(beta.run(&["test", "-e", path]).code, 0, "{path} of alpha is seen by beta");
        assert!(
            !std::path::Path::new(path).exists() || path == "/replicated",
            "{path} leaked to the machine"
        );
    }

    assert!(pings(&world, "alpha", "beta", 0) && pings(&world, "beta", "alpha", 1));
    world.cable("alpha", 0, false);
    assert!(!pings(&world, "alpha", "beta", 0), "a pulled cable carries packets");
    assert!(pings(&world, "alpha", "beta", 1), "the second path went with the first");
    world.part("alpha", "beta");
    assert!(!pings(&world, "alpha", "beta", 1));
    assert!(pings(&world, "alpha", "gamma", 1), "the third node must still see both");
    world.heal();
    assert!(pings(&world, "alpha", "beta", 0));
    beta.drop_from(&world.address("alpha", 0));
    assert!(pings(&world, "alpha", "beta", 1));
    assert!(!pings(&world, "alpha", "beta", 0));
    world.heal();

    let mut sleeper = alpha.spawn("sleep.log", &["sleep", "600"]);
    assert!(harness::wait_for(std::time::Duration::from_secs(5), || alpha.pids_of("sleep 600").len() == 1));
    alpha.kill_all();
    assert!(sleeper.wait(std::time::Duration::from_secs(5)).is_some());
    assert_eq!(alpha.sh("cat /run/who").ok().out.trim(), "a", "mounts must outlive the processes");

    let (pid, dir) = (alpha.pid(), world.dir.clone());
    drop(world);
    assert!(
        !dir.exists() && !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "something was left behind"
    );
}

#[test]
fn the_power_cut_disk_keeps_what_was_flushed_and_only_what_the_mode_allows() {
    let name = "the_power_cut_disk_keeps_what_was_flushed_and_only_what_the_mode_allows";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let dir = scratch("power");
    let disk = PowerDisk::mount(&dir.join("mnt"), 8 << 20);
    let mut file =
        std::fs::OpenOptions::new().read(true).write(true).open(disk.file()).expect("opens the disk");
    let mut at = |offset: u64, write: Option<&[u8]>| {
        file.seek(SeekFrom::Start(offset)).expect("seeks");
        let mut block = vec![0; 4096];
        match write {
            Some(data) => file.write_all(data).expect("writes"),
            None => file.read_exact(&mut block).expect("reads"),
        }
        block
    };
    let sync = || std::fs::File::open(disk.file()).and_then(|file| file.sync_data()).expect("flushes");

    at(0, Some(&[1; 4096]));
    sync();
    at(0, Some(&[2; 4096]));
    assert_eq!(disk.unflushed(), 1);
    disk.cut(Cut::Drop);
    at(4096, Some(&[3; 4096]));
    let path = disk.file();
    let late = std::thread::spawn(move || std::fs::File::open(path).and_then(|file| file.sync_data()));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!late.is_finished(), "a flush was answered after the cut");
    disk.release();
    assert!(late.join().expect("no panic").is_err(), "a flush succeeded after the cut");
    assert_eq!(at(0, None)[0], 2, "still readable until the restart");
    disk.restore();
    assert_eq!(at(0, None), vec![1; 4096]);
    assert_eq!(at(4096, None), vec![0; 4096], "written after the power went");

    at(0, Some(&[4; 4096]));
    disk.cut(Cut::Keep);
    disk.restore();
    assert_eq!(at(0, None), vec![4; 4096]);

    for block in 0..64 {
        at(block * 4096, Some(&[5; 4096]));
    }
    disk.cut(Cut::Random(7));
    disk.restore();
    let kept = (1..64).filter(|block| at(block * 4096, None) == vec![5; 4096]).count();
    let lost = (1..64).filter(|block| at(block * 4096, None) == vec![0; 4096]).count();
    assert!(kept > 10 && lost > 10 && kept + lost == 63, "{kept} kept, {lost} lost");

    at(1 << 20, Some(&[6; 4096]));
    disk.cut(Cut::Torn(9));
    disk.restore();
    let torn = at(1 << 20, None);
    let sectors: Vec<u8> = torn.chunks(512).map(|sector| sector[0]).collect();
    assert!(sectors.contains(&6) && sectors.contains(&0), "no torn block: {sectors:?}");
    drop(disk);
    std::fs::remove_dir_all(dir).expect("removes the scratch folder");
}
