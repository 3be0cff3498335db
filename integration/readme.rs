//! The README's set-up, executed word for word on three nodes; then the primary dies, and the data is on the other.
//!
//! A block behind `<!-- on: NODES -->` is run line by line on each of these nodes. Only two things stand in for what a
//! node of namespaces lacks: `scp` copies through a shared folder, and a line that ends in `&` is kept running.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::path::Path;
use std::time::Duration;

use harness::need;
use harness::node::Running;
use harness::world::World;

/// (nodes, commands) of every marked block.
fn blocks(text: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(nodes) = line.strip_prefix("<!-- on: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        assert_eq!(lines.next(), Some("```"), "a mark without a block: {line}");
        let commands = lines.by_ref().take_while(|line| *line != "```").map(String::from).collect();
        found.push((nodes.split(' ').map(String::from).collect(), commands));
    }
    found
}

const SCP: &str = r#"#!/bin/sh
# scp -p FILE... HOST:DIR between the nodes of a test
for last; do :; done
host=${last%%:*} dir=${last#*:}
mkdir -p "$CARRIED/$host$dir"
for file; do case "$file" in -p|"$last") ;; *) cp -p "$file" "$CARRIED/$host$dir" ;; esac; done
"#;

#[test]
fn the_two_machines_of_the_readme_take_over() {
    let name = "the_two_machines_of_the_readme_take_over";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let blocks = blocks(&text);
    assert!((1..=6).contains(&blocks.len()), "more than six actions: {}", blocks.len());
    let world = World::new("readme", &["alpha", "beta", "gamma"], 1);
    prepare(&world);
    let mut kept: Vec<Running> = Vec::new();
    for (nodes, commands) in &blocks {
        for node in nodes {
            for command in commands {
                carry(&world, node);
                execute(&world, node, command, &mut kept);
            }
        }
    }

    let (alpha, beta) = (world.node("alpha"), world.node("beta"));
    assert_eq!(alpha.sh("readlink -f /srv/mail").ok().out.trim().split('/').nth(1), Some("replicated"));
    alpha.sh("echo letter > /srv/mail/inbox && sync /srv/mail/inbox").ok();
    let in_sync = harness::wait_for(Duration::from_secs(60), || alpha.run(&["twinfs", "status"]).code == 0);
    assert!(in_sync, "{}", alpha.run(&["twinfs", "status"]).out);
    alpha.kill_all();
    let served =
        harness::wait_for(Duration::from_secs(60), || beta.sh("cat /srv/mail/inbox").out == "letter\n");
    let status = beta.run(&["twinfs", "status"]);
    assert!(served, "beta does not serve: {}{}", status.out, status.err);
    let address = beta.sh("ip -o addr show").ok().out;
    assert!(address.contains("192.0.2.20/24"), "{address}");
}

fn prepare(world: &World) {
    std::fs::create_dir_all(world.dir.join("tree/target")).expect("tree");
    std::os::unix::fs::symlink(harness::bin_dir(), world.dir.join("tree/target/release")).expect("link");
    std::fs::write(world.dir.join("scp"), SCP).expect("scp");
    for node in &world.nodes {
        node.sh(&format!("install -m 755 {}/scp /usr/local/bin/scp", world.dir.display())).ok();
    }
    world.node("alpha").sh("mkdir -p /srv/mail && echo old > /srv/mail/old").ok();
    world.node("beta").sh("mkdir -p /srv").ok();
}

/// Puts what others have sent to `node` where they said.
fn carry(world: &World, node: &str) {
    let from = world.dir.join("carried").join(node);
    if from.exists() {
        let line = format!("cd {} && find . -type f -exec cp -p {{}} /{{}} \\;", from.display());
        world.node(node).sh(&line).ok();
        std::fs::remove_dir_all(from).expect("carried");
    }
}

#[track_caller]
fn execute(world: &World, name: &str, command: &str, kept: &mut Vec<Running>) {
    let node = world.node(name);
    let dir = world.dir.display();
    // What is installed must do: nothing but the tree's own path leads to the programs of the build.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let line =
        format!("export PATH={path} CARRIED={dir}/carried; cd {dir}/tree; {}", command.trim_end_matches('&'));
    if command.ends_with('&') {
        kept.push(node.spawn("kept.log", &["sh", "-c", &line]));
        std::thread::sleep(Duration::from_millis(500));
        return;
    }
    let mut ran = node.sh(&line);
    if command == "twinfs status" {
        // Its exit code is the health: whoever looks at once sees the first copy still being made.
        harness::wait_for(Duration::from_secs(60), || {
            ran = node.sh(&line);
            ran.code == 0
        });
    }
    assert!(ran.code == 0, "on {name}: {command}\nexit {}\n{}{}", ran.code, ran.out, ran.err);
}
