//! A tree with one of everything is copied and compared.

use super::*;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("twinfs-tree-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A directory with one of everything that can be made without privileges here (and a device as root).
fn one_of_everything(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    std::fs::create_dir(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/file"), vec![7; 100_000]).unwrap();
    std::fs::hard_link(dir.join("sub/file"), dir.join("second name")).unwrap();
    std::fs::write(dir.join("empty"), b"").unwrap();
    std::os::unix::fs::symlink("sub/file", dir.join("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.join("dangling")).unwrap();
    mknod(&dir.join("pipe"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).unwrap();
    let mut sparse = File::create(dir.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(8 << 20)).unwrap();
    sparse.write_all(b"end").unwrap();
    sparse.set_len(16 << 20).unwrap();
    std::fs::set_permissions(dir.join("sub"), PermissionsExt::from_mode(0o1731)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::lchown(dir.join("link"), Some(1), Some(2)).unwrap();
        std::os::unix::fs::chown(dir.join("empty"), Some(3), Some(4)).unwrap();
    }
    std::fs::set_permissions(dir.join("empty"), PermissionsExt::from_mode(0o4711)).unwrap();
    let _ = xattr::set(&dir.join("empty"), "user.colour".as_ref(), b"blue");
    let long_ago = TimeSpec::new(1_000_000, 123_456_789);
    utimensat(nix::fcntl::AT_FDCWD, &dir.join("sub"), &long_ago, &long_ago, UtimensatFlags::NoFollowSymlink)
        .unwrap();
}

#[test]
fn a_copy_is_the_same_in_everything() {
    let dir = scratch("copy");
    let (from, to) = (dir.join("from"), dir.join("to"));
    one_of_everything(&from);
    let copied = copy(&from, &to, &mut |_| true).unwrap();
    let compared = compare(&from, &to).unwrap();
    assert_eq!(copied.entries, compared.entries);
    assert_eq!(compared.entries, measure(&from).unwrap().entries);
    let meta = std::fs::metadata(to.join("sparse")).unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "the holes were filled: {} bytes", meta.blocks() * 512);
    let mode = std::fs::metadata(to.join("empty")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o4711, "set-id bits survive the change of owner");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// One thing to spoil in a copy, and the word the complaint must contain.
type Spoil = (&'static str, fn(&Path));

#[test]
fn a_comparison_sees_every_kind_of_difference() {
    let spoils: &[Spoil] = &[
        ("content", |to| {
            let file = OpenOptions::new().write(true).open(to.join("sub/file")).unwrap();
            let times = std::fs::metadata(to.join("sub/file")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"x", 99_999).unwrap();
            let set = std::fs::FileTimes::new().set_modified(times.modified().unwrap());
            file.set_times(set).unwrap();
        }),
        ("mode", |to| std::fs::set_permissions(to.join("sub"), PermissionsExt::from_mode(0o700)).unwrap()),
        ("names", |to| {
            let times = std::fs::metadata(to).unwrap();
            std::fs::write(to.join("more"), b"").unwrap();
            let set = std::fs::FileTimes::new().set_modified(times.modified().unwrap());
            File::open(to).unwrap().set_times(set).unwrap();
        }),
        ("time", |to| File::open(to.join("empty")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap()),
    ];
    for (what, spoil) in spoils {
        let dir = scratch("spoil");
        let (from, to) = (dir.join("from"), dir.join("to"));
        one_of_everything(&from);
        copy(&from, &to, &mut |_| true).unwrap();
        spoil(&to);
        let error = compare(&from, &to).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_directory_swapped_for_a_symlink_is_not_followed() {
    let dir = scratch("swap");
    std::fs::create_dir(dir.join("real")).unwrap();
    std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).unwrap();
    assert!(copy(&dir.join("link"), &dir.join("to"), &mut |_| true).is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_copy_can_be_stopped() {
    let dir = scratch("stop");
    one_of_everything(&dir.join("from"));
    let result = copy(&dir.join("from"), &dir.join("to"), &mut |tally| tally.entries < 3);
    assert!(matches!(result, Err(TreeError::Stopped)), "{result:?}");
    std::fs::remove_dir_all(&dir).unwrap();
}
