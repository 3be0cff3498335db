//! Every small workload over few names: what the known bugs have in common is that two or three operations and a sync
//! are enough.
//!
//! Decides the bounds: two directories, names that meet each other, a handful of ranges, a promise behind each
//! operation.

use super::run::Start;
use super::tree::Tree;
use super::words::{Op, parse};

/// What is there before.
pub const SETUP: &str = "mkdir A; mkdir B; create foo; create A/foo; write foo 0..7000; write A/foo 0..8K; \
                         setxattr foo user.a 1; setacl A/foo 66440";

const OPS: &str = "create bar; create A/bar; create B/foo; mkdir C; mkdir A/C; symlink t bar; symlink t A/bar; \
    mkfifo A/bar; link foo bar; link foo A/bar; link A/foo B/foo; link A/foo A/bar; link A/foo bar; \
    unlink foo; unlink A/foo; unlink bar; unlink A/bar; unlink B/foo; rmdir B; rmdir C; rmdir A/C; \
    rename foo bar; rename foo A/foo; \
    rename A/foo foo; rename A/foo A/bar; rename A/foo B/foo; rename foo A/bar; rename A B; rename A C; \
    rename B A/C; rename bar foo; rename A/bar A/foo; rename B/foo A/foo; exchange foo A/foo; exchange A B; \
    write foo 7000..7500; write foo 7000..12K; write foo 0..4K; write foo 1000..5000; write foo 20K..24K; \
    write foo 6K..10K; write foo 0..160K; write A/foo 8K..12K; write A/foo 0..4K; write bar 0..4K; \
    write A/bar 0..6000; write B/foo 0..4K; truncate foo 3000; truncate foo 20K; truncate foo 0; \
    truncate A/foo 4K; punch foo 3000..6000; punch foo 0..8K; zero foo 2000..12K; zero-keep-size foo 4K..16K; \
    allocate foo 4K..20K; allocate-keep-size foo 8K..16K; setxattr foo user.b 2; setxattr A/foo user.a 3; \
    removexattr foo user.a; chmod foo 600; chmod A 700; \
    chown foo 7 8; chown A 7 8; times foo 10 20; times A -10 5000000000; \
    rename-new foo bar; rename-new A/foo B/foo; rename-new A C; \
    rename-whiteout foo bar; rename-whiteout foo A/foo; rename-whiteout A/foo B/foo; rename-whiteout A/bar foo; \
    setacl foo 76420; removeacl A/foo; chmod A/foo 604; setacl-default A 77550; removeacl-default A; \
    setflags foo i; setflags foo a; setflags foo -; setflags A i; setflags A a; setflags A/foo d; \
    copy foo 0..7000 A/foo 4K; copy A/foo 0..8K foo 0; copy foo 0..4K foo 8K; copy foo 1000..3000 bar 0";

/// What may follow an operation. `x` stands for the path it touched, `x/..` for its directory.
const PROMISES: [&str; 5] = ["fsync x", "fsync x/..", "sync", "fdatasync x", "fsync A"];

fn touched(op: &Op) -> &str {
    match op {
        Op::Make(_, path) | Op::Symlink(_, path) | Op::Link(_, path) => path,
        Op::Rename(_, path) | Op::Exchange(_, path) | Op::Write(path, ..) => path,
        Op::Range(_, path, ..) | Op::Truncate(path, _) | Op::Chmod(path, _) => path,
        Op::SetXattr(path, ..) | Op::RemoveXattr(path, _) => path,
        Op::Chown(path, ..) | Op::Times(path, ..) | Op::SetFlags(path, _) => path,
        Op::SetList(_, path, _) | Op::RemoveList(_, path) => path,
        Op::RenameNew(_, path) | Op::RenameWhiteout(_, path) | Op::Copy(_, _, _, path, _) => path,
        Op::Unlink(path) | Op::Rmdir(path) => path.rsplit_once('/').map_or(".", |(dir, _)| dir),
        _ => ".",
    }
}

fn promise(which: usize, op: &Op) -> Op {
    let path = touched(op).to_string();
    let parent = path.rsplit_once('/').map_or(".", |(dir, _)| dir).to_string();
    match PROMISES[which] {
        "fsync x" => Op::Fsync(path),
        "fsync x/.." => Op::Fsync(parent),
        "sync" => Op::Sync,
        "fdatasync x" => Op::Fdatasync(path),
        _ => Op::Fsync("A".to_string()),
    }
}

/// Calls `each` with every workload of `len` operations: all sequences that are possible, each with all choices of
/// promises behind its operations (behind the last one always one). `number` counts them.
pub fn each_workload(start: &Start, len: usize, each: &mut dyn FnMut(u64, &[Op])) -> u64 {
    let pool = parse(OPS);
    let mut number = 0;
    extend(&start.tree, &pool, len, &mut Vec::new(), &mut number, each);
    number
}

fn extend(
    tree: &Tree,
    pool: &[Op],
    left: usize,
    ops: &mut Vec<Op>,
    number: &mut u64,
    each: &mut dyn FnMut(u64, &[Op]),
) {
    for (nth, op) in pool.iter().enumerate() {
        let mut next = tree.clone();
        if next.apply(op, 1000 + ops.len() as u64, ops.len() as u64).is_none() {
            continue;
        }
        next.forget_unnamed();
        ops.push(op.clone());
        if left > 1 {
            extend(&next, pool, left - 1, ops, number, each);
        }
        for which in 0..PROMISES.len() {
            let promised = promise(which, op);
            let path = match &promised {
                Op::Fsync(path) | Op::Fdatasync(path) => path.as_str(),
                _ => ".",
            };
            // Equal ones once: the directory of a name at the top, or one that went.
            let repeats = (0..which).any(|other| promise(other, op) == promised);
            if next.find(path).is_none() || repeats {
                continue;
            }
            ops.push(promised);
            if left == 1 {
                each(*number, ops);
                *number += 1;
            } else if (nth + which) % 2 == 0 {
                extend(&next, pool, left - 1, ops, number, each);
            }
            ops.pop();
        }
        ops.pop();
    }
}
