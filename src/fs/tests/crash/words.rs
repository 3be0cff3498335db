//! Workloads in words: `mkdir A; create A/foo; write A/foo 0..4K; fsync A; rename A/foo A/bar`.
//!
//! Decides the notation, in which workloads are listed and failures are printed. A path `@x` names the inode that
//! `hold` opened; sizes take a K or M; an access list is five digits: owner, user 7, group, mask, others; `timer` is
//! the commit that nobody asked for; `begin` starts the recording (what came before is stable and not cut).

use std::fmt;

use twinfs::format::FileKind;
use twinfs::fs::Fallocate;

pub type Path = String;
/// An access list: the rights of the owner, of user 7, of the group, of the mask and of others.
pub type List = [u8; 5];

/// FS_IMMUTABLE_FL, FS_APPEND_FL and FS_NODUMP_FL as chattr(1) calls them.
pub const FLAGS: [(char, u32); 3] = [('i', 0x10), ('a', 0x20), ('d', 0x40)];

/// One step of a workload.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Make(FileKind, Path),
    Symlink(Path, Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path),
    /// RENAME_NOREPLACE
    RenameNew(Path, Path),
    /// RENAME_WHITEOUT
    RenameWhiteout(Path, Path),
    Exchange(Path, Path),
    Write(Path, u64, u64),
    Range(Fallocate, Path, u64, u64),
    /// A range of one file to an offset of another.
    Copy(Path, u64, u64, Path, u64),
    Truncate(Path, u64),
    Chmod(Path, u32),
    Chown(Path, u32, u32),
    /// Seconds of access and of change.
    Times(Path, i64, i64),
    SetFlags(Path, u32),
    /// The list that new files start with, or the file's own.
    SetList(bool, Path, List),
    RemoveList(bool, Path),
    SetXattr(Path, String, String),
    RemoveXattr(Path, String),
    Hold(Path, String),
    Release(String),
    Fsync(Path),
    Fdatasync(Path),
    Sync,
    Timer,
    Writeback,
    Checkpoint,
    Remount,
    Begin,
}

impl Op {
    /// Makes something stable.
    pub fn persists(&self) -> bool {
        matches!(self, Op::Fsync(_) | Op::Fdatasync(_) | Op::Sync)
    }
}

const RANGES: [(&str, Fallocate); 5] = [
    ("allocate", Fallocate::Allocate),
    ("allocate-keep-size", Fallocate::AllocateKeepSize),
    ("punch", Fallocate::PunchHole),
    ("zero", Fallocate::ZeroRange),
    ("zero-keep-size", Fallocate::ZeroRangeKeepSize),
];

const KINDS: [(&str, FileKind); 6] = [
    ("create", FileKind::File),
    ("mkdir", FileKind::Dir),
    ("mkfifo", FileKind::Fifo),
    ("mkchar", FileKind::Char),
    ("mkblock", FileKind::Block),
    ("mksocket", FileKind::Socket),
];

fn number(text: &str) -> u64 {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<u64>().unwrap_or_else(|_| panic!("not a size: {text}")) * unit
}

fn range(text: &str) -> (u64, u64) {
    let (from, to) = text.split_once("..").unwrap_or_else(|| panic!("not a range: {text}"));
    (number(from), number(to))
}

fn list(text: &str) -> List {
    let rights: Vec<u8> = text.bytes().map(|digit| digit - b'0').collect();
    rights.try_into().unwrap_or_else(|_| panic!("not five rights: {text}"))
}

fn flags(text: &str) -> u32 {
    FLAGS.iter().filter(|(letter, _)| text.contains(*letter)).map(|(_, bit)| bit).sum()
}

fn letters(flags: u32) -> String {
    let set: String = FLAGS.iter().filter(|(_, bit)| flags & bit != 0).map(|(letter, _)| letter).collect();
    if set.is_empty() { "-".to_string() } else { set }
}

/// Reads a workload.
pub fn parse(text: &str) -> Vec<Op> {
    text.split([';', '\n']).map(str::trim).filter(|step| !step.is_empty()).map(step).collect()
}

fn step(text: &str) -> Op {
    let words: Vec<&str> = text.split_whitespace().collect();
    let path = |n: usize| words.get(n).unwrap_or_else(|| panic!("too short: {text}")).to_string();
    if let Some((_, kind)) = KINDS.iter().find(|(word, _)| *word == words[0]) {
        return Op::Make(*kind, path(1));
    }
    if let Some((_, how)) = RANGES.iter().find(|(word, _)| *word == words[0]) {
        let (from, to) = range(words[2]);
        return Op::Range(*how, path(1), from, to);
    }
    match words[0] {
        "symlink" => Op::Symlink(path(1), path(2)),
        "link" => Op::Link(path(1), path(2)),
        "unlink" => Op::Unlink(path(1)),
        "rmdir" => Op::Rmdir(path(1)),
        "rename" => Op::Rename(path(1), path(2)),
        "rename-new" => Op::RenameNew(path(1), path(2)),
        "rename-whiteout" => Op::RenameWhiteout(path(1), path(2)),
        "exchange" => Op::Exchange(path(1), path(2)),
        "write" => {
            let (from, to) = range(words[2]);
            Op::Write(path(1), from, to)
        }
        "copy" => {
            let (from, to) = range(words[2]);
            Op::Copy(path(1), from, to, path(3), number(words[4]))
        }
        "truncate" => Op::Truncate(path(1), number(words[2])),
        "chmod" => Op::Chmod(path(1), u32::from_str_radix(words[2], 8).expect("an octal mode")),
        "chown" => Op::Chown(path(1), words[2].parse().expect("a user"), words[3].parse().expect("a group")),
        "times" => Op::Times(path(1), words[2].parse().expect("seconds"), words[3].parse().expect("seconds")),
        "setflags" => Op::SetFlags(path(1), flags(words[2])),
        "setacl" => Op::SetList(false, path(1), list(words[2])),
        "setacl-default" => Op::SetList(true, path(1), list(words[2])),
        "removeacl" => Op::RemoveList(false, path(1)),
        "removeacl-default" => Op::RemoveList(true, path(1)),
        "setxattr" => Op::SetXattr(path(1), path(2), path(3)),
        "removexattr" => Op::RemoveXattr(path(1), path(2)),
        "hold" => Op::Hold(path(1), path(2)),
        "release" => Op::Release(path(1)),
        "fsync" => Op::Fsync(path(1)),
        "fdatasync" => Op::Fdatasync(path(1)),
        "sync" => Op::Sync,
        "timer" => Op::Timer,
        "writeback" => Op::Writeback,
        "checkpoint" => Op::Checkpoint,
        "remount" => Op::Remount,
        "begin" => Op::Begin,
        other => panic!("unknown step: {other}"),
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Make(kind, path) => {
                let word = KINDS.iter().find(|(_, known)| known == kind).map_or("make", |(word, _)| word);
                write!(f, "{word} {path}")
            }
            Op::Range(how, path, from, to) => {
                let word = RANGES.iter().find(|(_, known)| known == how).map_or("range", |(word, _)| word);
                write!(f, "{word} {path} {from}..{to}")
            }
            Op::Symlink(target, path) => write!(f, "symlink {target} {path}"),
            Op::Link(from, to) => write!(f, "link {from} {to}"),
            Op::Unlink(path) => write!(f, "unlink {path}"),
            Op::Rmdir(path) => write!(f, "rmdir {path}"),
            Op::Rename(from, to) => write!(f, "rename {from} {to}"),
            Op::RenameNew(from, to) => write!(f, "rename-new {from} {to}"),
            Op::RenameWhiteout(from, to) => write!(f, "rename-whiteout {from} {to}"),
            Op::Exchange(from, to) => write!(f, "exchange {from} {to}"),
            Op::Write(path, from, to) => write!(f, "write {path} {from}..{to}"),
            Op::Copy(source, from, to, path, at) => write!(f, "copy {source} {from}..{to} {path} {at}"),
            Op::Truncate(path, size) => write!(f, "truncate {path} {size}"),
            Op::Chmod(path, mode) => write!(f, "chmod {path} {mode:o}"),
            Op::Chown(path, uid, gid) => write!(f, "chown {path} {uid} {gid}"),
            Op::Times(path, accessed, changed) => write!(f, "times {path} {accessed} {changed}"),
            Op::SetFlags(path, flags) => write!(f, "setflags {path} {}", letters(*flags)),
            Op::SetList(default, path, list) => {
                let digits: String = list.iter().map(u8::to_string).collect();
                write!(f, "setacl{} {path} {digits}", if *default { "-default" } else { "" })
            }
            Op::RemoveList(default, path) => {
                write!(f, "removeacl{} {path}", if *default { "-default" } else { "" })
            }
            Op::SetXattr(path, name, value) => write!(f, "setxattr {path} {name} {value}"),
            Op::RemoveXattr(path, name) => write!(f, "removexattr {path} {name}"),
            Op::Hold(path, label) => write!(f, "hold {path} {label}"),
            Op::Release(label) => write!(f, "release {label}"),
            Op::Fsync(path) => write!(f, "fsync {path}"),
            Op::Fdatasync(path) => write!(f, "fdatasync {path}"),
            Op::Sync => f.write_str("sync"),
            Op::Timer => f.write_str("timer"),
            Op::Writeback => f.write_str("writeback"),
            Op::Checkpoint => f.write_str("checkpoint"),
            Op::Remount => f.write_str("remount"),
            Op::Begin => f.write_str("begin"),
        }
    }
}

/// The workload as it was written.
pub fn show(ops: &[Op]) -> String {
    ops.iter().map(Op::to_string).collect::<Vec<_>>().join("; ")
}
