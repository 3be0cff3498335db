//! One test for each rule that an operation must keep.

use crate::base::{BlockNo, Ino};
use crate::format::{FileKind, Time};
use crate::fs::{
    Atime, Ctx, Fallocate, FilePart, Fs, FsError, NewNode, Place, RenameHow, SetAttr, SetXattr, Store, Whose,
};

use super::names_model_tests::{Model, list};
use super::tests::mem::{Cut, Player};
use super::tests::{fresh, open};

fn fs_with(atime: Atime) -> Fs {
    Fs::new(Store::for_tests(), atime)
}

fn fs() -> Fs {
    fs_with(Atime::Relative)
}

fn at(secs: i64) -> Ctx {
    Ctx { now: Time { secs, nanos: 0 }, umask: 0o022, ..Ctx::default() }
}

const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// user::rwx user:1000:rw- group::r-x mask::rwx other::---
fn list_with_user() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 6, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn random_operations_agree_with_the_model_also_after_power_cuts() {
    for seed in 0..8 {
        let (mut blocks, store) = fresh();
        let mut fs = Fs::new(store, Atime::Relative);
        let mut model = Model::new(seed);
        for _ in 0..6 {
            let base = blocks.record();
            for _ in 0..40 {
                model.step(&fs);
                model.compare(&fs);
            }
            match model.random(4) {
                0 => fs.store().writeback(true).unwrap(),
                1 => fs.store().checkpoint().unwrap(),
                _ => {}
            }
            let ticket = fs.fsync_all().unwrap();
            assert!(fs.store().commit().unwrap() >= ticket);
            // The power goes; of what was not flushed nothing is left.
            let events = blocks.events();
            let left = Player::new(&base).cut(&events, events.len(), Cut::LoseAll);
            fs = Fs::new(open(&left), Atime::Relative);
            blocks = left;
            model.hold_all(&fs);
            model.compare(&fs);
        }
    }
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten() {
    let fs = fs();
    let node = fs.create(&at(1), Ino::ROOT, b"f", 0o644).unwrap();
    fs.write(&at(2), node.ino, 0, b"still here", false).unwrap();
    fs.unlink(&at(3), Ino::ROOT, b"f").unwrap();
    fs.reap().unwrap();
    assert_eq!(fs.read(node.ino, 0, 100).unwrap(), b"still here");
    assert!(fs.forget(node.ino, 1));
    assert_eq!(fs.reap().unwrap(), 1);
    assert_eq!(fs.getattr(node.ino), Err(FsError::Stale));
}

#[test]
fn a_set_group_id_directory_hands_down_its_group_and_to_directories_the_bit() {
    let fs = fs();
    let dir = fs.mkdir(&at(1), Ino::ROOT, b"d", 0o755).unwrap().ino;
    fs.setattr(&at(1), dir, SetAttr { gid: Some(77), ..SetAttr::default() }).unwrap();
    fs.setattr(&at(1), dir, SetAttr { mode: Some(0o2755), ..SetAttr::default() }).unwrap();
    let file = fs.create(&at(2), dir, b"f", 0o644).unwrap();
    assert_eq!((file.rec.gid, file.rec.mode & 0o7777), (77, 0o644));
    let sub = fs.mkdir(&at(2), dir, b"s", 0o755).unwrap();
    assert_eq!((sub.rec.gid, sub.rec.mode & 0o7777), (77, 0o2755));
}

#[test]
fn a_default_list_replaces_the_umask_and_is_inherited_by_directories() {
    let fs = fs();
    let dir = fs.mkdir(&at(1), Ino::ROOT, b"d", 0o755).unwrap().ino;
    fs.setxattr(&at(1), dir, DEFAULT_LIST, &list_with_user(), SetXattr::Either).unwrap();
    let strict = Ctx { umask: 0o077, ..at(2) };
    let file = fs.create(&strict, dir, b"f", 0o664).unwrap();
    assert_eq!(file.rec.mode & 0o777, 0o660, "the mask stands for the group, the umask counts for nothing");
    assert!(fs.getxattr(file.ino, ACCESS_LIST).is_ok());
    let sub = fs.mkdir(&strict, dir, b"s", 0o777).unwrap();
    assert_eq!(fs.getxattr(sub.ino, DEFAULT_LIST).unwrap(), list_with_user());
    let plain = fs.create(&strict, Ino::ROOT, b"f", 0o664).unwrap();
    assert_eq!(plain.rec.mode & 0o777, 0o600);
}

#[test]
fn chmod_and_the_access_list_follow_each_other() {
    let fs = fs();
    let file = fs.create(&at(1), Ino::ROOT, b"f", 0o644).unwrap().ino;
    fs.setxattr(&at(1), file, ACCESS_LIST, &list_with_user(), SetXattr::Either).unwrap();
    assert_eq!(fs.getattr(file).unwrap().rec.mode & 0o777, 0o770);
    fs.setattr(&at(2), file, SetAttr { mode: Some(0o640), ..SetAttr::default() }).unwrap();
    let list = fs.getxattr(file, ACCESS_LIST).unwrap();
    assert_eq!(list[4 + 3 * 8 + 2], 4, "the mask is r--");
    // A list that says no more than the mode is not kept.
    let plain: Vec<u8> = [&list[..4], &list[4..12], &list[20..28], &list[36..44]].concat();
    fs.setxattr(&at(3), file, ACCESS_LIST, &plain, SetXattr::Either).unwrap();
    assert_eq!(fs.getxattr(file, ACCESS_LIST), Err(FsError::NoAttr));
    assert_eq!(
        fs.setxattr(&at(3), file, DEFAULT_LIST, &list_with_user(), SetXattr::Either),
        Err(FsError::Access)
    );
}

#[test]
fn set_id_bits_and_capabilities_go_when_owner_or_content_change() {
    let fs = fs();
    let file = fs.create(&at(1), Ino::ROOT, b"f", 0o755).unwrap().ino;
    let arm = || {
        fs.setattr(&at(1), file, SetAttr { mode: Some(0o6755), ..SetAttr::default() }).unwrap();
        fs.setxattr(&at(1), file, b"security.capability", b"x", SetXattr::Either).unwrap();
    };
    let mode = || fs.getattr(file).unwrap().rec.mode & 0o7777;
    let armed = || mode() == 0o6755 && fs.getxattr(file, b"security.capability").is_ok();
    arm();
    fs.setattr(&at(2), file, SetAttr { uid: Some(5), ..SetAttr::default() }).unwrap();
    assert_eq!(mode(), 0o755, "chown");
    assert_eq!(fs.getxattr(file, b"security.capability"), Err(FsError::NoAttr));
    arm();
    fs.setattr(&at(3), file, SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert!(armed(), "root may truncate");
    fs.setattr(&Ctx { uid: 5, ..at(3) }, file, SetAttr { size: Some(9), ..SetAttr::default() }).unwrap();
    assert_eq!(mode(), 0o755, "truncate by somebody else");
    arm();
    fs.write(&at(4), file, 0, b"x", false).unwrap();
    assert!(armed(), "no request to drop");
    fs.write(&at(4), file, 0, b"x", true).unwrap();
    assert_eq!(mode(), 0o755, "write that must drop");
    fs.setattr(&at(5), file, SetAttr { mode: Some(0o2745), ..SetAttr::default() }).unwrap();
    fs.write(&at(5), file, 0, b"x", true).unwrap();
    assert_eq!(mode(), 0o2745, "without group execution the bit is no right");
}

#[test]
fn frozen_files_and_directories_refuse_what_they_must() {
    let fs = fs();
    let dir = fs.mkdir(&at(1), Ino::ROOT, b"d", 0o755).unwrap().ino;
    let file = fs.create(&at(1), dir, b"f", 0o644).unwrap().ino;
    let no = Err(FsError::NotPermitted);
    assert_eq!(fs.set_flags(&Ctx { uid: 1, ..at(2) }, file, 0x10), no, "only root freezes");
    fs.set_flags(&at(2), file, 0x10).unwrap();
    assert_eq!(fs.write(&at(3), file, 0, b"x", false), no);
    assert_eq!(fs.unlink(&at(3), dir, b"f"), no);
    assert_eq!(fs.link(&at(3), file, dir, b"g").map(|_| ()), no);
    assert_eq!(fs.setattr(&at(3), file, SetAttr { mode: Some(0), ..SetAttr::default() }).map(|_| ()), no);
    fs.set_flags(&at(4), file, 0x20).unwrap();
    fs.write(&at(5), file, 0, b"abc", false).unwrap();
    assert_eq!(fs.write(&at(5), file, 1, b"x", false), no, "append-only");
    fs.write(&at(5), file, 3, b"def", false).unwrap();
    fs.set_flags(&at(6), file, 0).unwrap();
    fs.set_flags(&at(6), dir, 0x10).unwrap();
    assert_eq!(fs.create(&at(7), dir, b"g", 0o644).map(|_| ()), no);
    assert_eq!(fs.unlink(&at(7), dir, b"f"), no);
    fs.set_flags(&at(8), dir, 0x20).unwrap();
    fs.create(&at(9), dir, b"g", 0o644).unwrap();
    assert_eq!(fs.unlink(&at(9), dir, b"f"), no, "an append-only directory only gains names");
}

#[test]
fn a_listing_sees_what_stays_exactly_once_while_names_change() {
    let fs = fs();
    let dir = fs.mkdir(&at(1), Ino::ROOT, b"d", 0o755).unwrap().ino;
    for n in 0..200 {
        fs.create(&at(2), dir, format!("stay{n}").as_bytes(), 0o644).unwrap();
        fs.create(&at(2), dir, format!("go{n}").as_bytes(), 0o644).unwrap();
    }
    let (mut seen, mut after, mut round) = (Vec::new(), 0, 0);
    loop {
        let items = fs.readdir(dir, after, 7).unwrap();
        let Some(last) = items.last() else { break };
        after = last.cookie;
        seen.extend(items.into_iter().map(|i| i.name));
        let gone = format!("go{round}");
        fs.unlink(&at(3), dir, gone.as_bytes()).unwrap_or(());
        fs.create(&at(3), dir, format!("new{round}").as_bytes(), 0o644).unwrap();
        // Replacing a name keeps its place.
        let (from, to) = (format!("new{round}"), format!("stay{round}"));
        let from = Place { dir, name: from.as_bytes() };
        fs.rename(&at(3), from, Place { dir, name: to.as_bytes() }, RenameHow::default()).unwrap();
        round += 1;
        if round >= 200 {
            break;
        }
    }
    for n in 0..200 {
        let name = format!("stay{n}").into_bytes();
        assert_eq!(seen.iter().filter(|s| **s == name).count(), 1, "stay{n}");
    }
}

#[test]
fn names_are_checked() {
    let fs = fs();
    assert_eq!(fs.lookup(Ino::ROOT, &[b'x'; 256]), Err(FsError::NameTooLong));
    assert_eq!(fs.lookup(Ino::ROOT, b"x"), Err(FsError::NotFound));
    assert_eq!(fs.create(&at(1), Ino::ROOT, b"a/b", 0o644).map(|_| ()), Err(FsError::Invalid));
    assert_eq!(fs.create(&at(1), Ino::ROOT, b"..", 0o644).map(|_| ()), Err(FsError::Exists));
    fs.create(&at(1), Ino::ROOT, &[b'x'; 255], 0o644).unwrap();
    assert_eq!(fs.symlink(&at(1), Ino::ROOT, b"l", &[b'x'; 4096]).map(|_| ()), Err(FsError::NameTooLong));
}

#[test]
fn a_whiteout_takes_the_old_place() {
    let fs = fs();
    fs.create(&at(1), Ino::ROOT, b"a", 0o644).unwrap();
    let (from, to) = (Place { dir: Ino::ROOT, name: b"a" }, Place { dir: Ino::ROOT, name: b"b" });
    fs.rename(&at(2), from, to, RenameHow { whiteout: true, ..RenameHow::default() }).unwrap();
    let white = fs.lookup(Ino::ROOT, b"a").unwrap().rec;
    assert_eq!((white.kind(), white.rdev, white.nlink), (FileKind::Char, 0, 1));
    assert_eq!(list(&fs, Ino::ROOT).len(), 2);
}

#[test]
fn reads_move_the_access_time_by_policy() {
    for (policy, moved) in [(Atime::Relative, true), (Atime::Never, false), (Atime::Strict, true)] {
        let fs = fs_with(policy);
        let file = fs.create(&at(10), Ino::ROOT, b"f", 0o644).unwrap().ino;
        fs.accessed(&at(20), file);
        assert_eq!(fs.getattr(file).unwrap().rec.atime.secs == 20, moved, "{policy:?} after a change");
        fs.accessed(&at(30), file);
        let again = fs.getattr(file).unwrap().rec.atime.secs == 30;
        assert_eq!(again, policy == Atime::Strict, "{policy:?} soon after");
        fs.accessed(&at(30 + 86_400), file);
        let later = fs.getattr(file).unwrap().rec.atime.secs == 30 + 86_400;
        assert_eq!(later, moved, "{policy:?} a day later");
    }
}

#[test]
fn attribute_names_and_sizes_are_checked() {
    let fs = fs();
    let file = fs.create(&at(1), Ino::ROOT, b"f", 0o644).unwrap().ino;
    let set = |name: &[u8], value: &[u8]| fs.setxattr(&at(2), file, name, value, SetXattr::Either);
    assert_eq!(set(b"bogus.x", b""), Err(FsError::NotSupported));
    assert_eq!(set(b"user.", b""), Err(FsError::NotSupported));
    assert_eq!(set(b"user.big", &vec![0; 65_537]), Err(FsError::TooBig));
    set(b"user.big", &vec![1; 65_536]).unwrap();
    for n in 0..1_000 {
        set(format!("user.{n}").as_bytes(), b"v").unwrap();
    }
    set(b"trusted.t", b"").unwrap();
    let names = |uid| fs.listxattr(&Ctx { uid, ..at(3) }, file).unwrap();
    assert_eq!(names(0).iter().filter(|b| **b == 0).count(), 1_002);
    assert_eq!(names(1).iter().filter(|b| **b == 0).count(), 1_001, "trusted names are for root");
    assert_eq!(fs.getxattr(file, b"user.big").unwrap().len(), 65_536);
}

#[test]
fn a_handle_finds_its_inode_and_the_directory_above_until_the_last_name_is_gone() {
    let fs = fs();
    let dir = fs.mkdir(&at(1), Ino::ROOT, b"d", 0o755).unwrap().ino;
    let file = fs.create(&at(1), dir, b"f", 0o644).unwrap().ino;
    let look = |ino, name: &[u8]| fs.lookup(ino, name).map(|node| node.ino);
    assert_eq!((look(file, b"."), look(dir, b"."), look(dir, b"..")), (Ok(file), Ok(dir), Ok(Ino::ROOT)));
    assert_eq!((look(Ino::ROOT, b".."), look(file, b"..")), (Ok(Ino::ROOT), Err(FsError::NotDir)));
    fs.unlink(&at(2), dir, b"f").unwrap();
    assert_eq!(look(file, b"."), Err(FsError::Stale), "held, but without a name");
    fs.forget(file, 2);
    fs.reap().unwrap();
    assert_eq!(look(file, b"."), Err(FsError::Stale));
}

#[test]
fn only_flags_that_are_kept_can_be_set() {
    let fs = fs();
    let file = fs.create(&at(1), Ino::ROOT, b"f", 0o644).unwrap().ino;
    for flag in [0x10, 0x20, 0x40, 0x80] {
        fs.set_flags(&at(2), file, flag).unwrap();
        assert_eq!(fs.flags(file), Ok(flag));
    }
    for flag in [0x04, 0x08, 0x0001_0000, 0x0080_0000] {
        assert_eq!(fs.set_flags(&at(2), file, flag), Err(FsError::NotSupported), "{flag:#x}");
    }
}

#[test]
fn after_going_down_everything_is_an_error_and_read_only_refuses_only_changes() {
    let fs = fs();
    let node = NewNode { kind: FileKind::Fifo, mode: 0o600, rdev: 0, target: b"" };
    fs.make(&at(1), Ino::ROOT, b"p", node).unwrap();
    fs.make_read_only();
    assert_eq!(fs.unlink(&at(2), Ino::ROOT, b"p"), Err(FsError::ReadOnly));
    assert!(fs.lookup(Ino::ROOT, b"p").is_ok());
    fs.shut_down();
    assert!(matches!(fs.lookup(Ino::ROOT, b"p"), Err(FsError::Io(_))));
    assert!(matches!(fs.unlink(&at(2), Ino::ROOT, b"p"), Err(FsError::Io(_))));
}

#[test]
fn a_block_is_traced_to_the_path_of_its_file() {
    let fs = fs();
    let mail = fs.mkdir(&at(1), Ino::ROOT, b"mail", 0o755).unwrap().ino;
    let new = fs.mkdir(&at(1), mail, b"new", 0o755).unwrap().ino;
    let file = fs.create(&at(1), new, b"a b", 0o644).unwrap().ino;
    fs.write(&at(1), file, 0, &[7; 256 << 10], false).unwrap();
    fs.store().writeback(true).unwrap();
    let mut traced = Vec::new();
    for checkpointed in [false, true] {
        if checkpointed {
            fs.fsync_all().unwrap();
            fs.store().commit().unwrap();
            fs.store().checkpoint().unwrap();
        }
        let whose: Vec<Whose> = (0..8192).map(|block| fs.whose(BlockNo(block)).unwrap()).collect();
        let of_file = |at: u64| Whose::File { ino: file, at, path: Some(b"/mail/new/a b".to_vec()) };
        let first = whose.iter().position(|whose| *whose == of_file(0)).expect("the file is somewhere");
        assert_eq!(whose[first + 63], of_file(63 * 4096));
        for (some, count) in [(Whose::Superblock, 2), (Whose::Log, 1024), (Whose::Tables, 16)] {
            assert!(whose.iter().filter(|whose| **whose == some).count() >= count, "{some}");
        }
        assert_eq!(whose[first].to_string(), "/mail/new/a b");
        traced.push(first);
    }
    assert_eq!(traced[0], traced[1]);
    fs.unlink(&at(2), new, b"a b").unwrap();
    let whose = fs.whose(BlockNo(traced[0] as u64)).unwrap();
    assert!(matches!(whose, Whose::File { path: None, .. } | Whose::Nobody), "{whose}");
}

#[test]
fn every_kind_of_fallocate_is_a_change_of_the_file() {
    let kinds = [
        Fallocate::Allocate,
        Fallocate::AllocateKeepSize,
        Fallocate::PunchHole,
        Fallocate::ZeroRange,
        Fallocate::ZeroRangeKeepSize,
    ];
    // Inside a block, whole blocks, behind the end; with the data written home, in the record, and in buffers.
    let ranges = [(100, 200), (4096, 4096), (3000, 9000), (20_000, 4096)];
    for (turn, (how, (offset, len))) in
        kinds.iter().flat_map(|how| ranges.map(|range| (how, range))).enumerate()
    {
        for state in 0..3 {
            let fs = fs();
            let file = fs.create(&at(1), Ino::ROOT, b"f", 0o644).unwrap().ino;
            fs.write(&at(2), file, 0, &[7; 16_384], false).unwrap();
            let sync = || {
                let ticket = fs.fsync(file, false).unwrap();
                assert!(fs.store().commit().unwrap() >= ticket);
            };
            match state {
                0 => fs.store().writeback(true).unwrap(),
                1 => sync(),
                _ => {}
            }
            fs.fallocate(&at(3), file, offset, len, *how).unwrap();
            for _ in 0..2 {
                let rec = fs.getattr(file).unwrap().rec;
                let times = (rec.mtime.secs, rec.ctime.secs);
                assert_eq!(times, (3, 3), "{how:?} {offset}+{len}, state {state}, turn {turn}");
                sync();
            }
        }
    }
}

#[test]
fn a_copy_within_a_file_ends_where_the_file_ended() {
    let fs = fs();
    let file = fs.create(&at(1), Ino::ROOT, b"f", 0o644).unwrap().ino;
    fs.write(&at(2), file, 0, &[7; 3000], false).unwrap();
    let part = |offset| FilePart { ino: file, offset };
    assert_eq!(fs.copy_range(&at(3), part(1000), part(10_000), 9000).unwrap(), 2000);
    assert_eq!(fs.getattr(file).unwrap().rec.size, 12_000);
    assert_eq!(fs.copy_range(&at(3), part(12_000), part(20_000), 100).unwrap(), 0);
}
