//! What applications and administrators of a mount rely on beyond plain files: handles, limits, rights, access times,
//! remounts, and mount(8) itself.

use std::os::fd::RawFd;

use super::*;

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs a line of shell as root in the mount, with `$N` running a program as nobody; panics unless it succeeds.
#[track_caller]
fn sh(rig: &Rig, line: &str) -> String {
    fs::set_permissions(&rig.root, fs::Permissions::from_mode(0o755)).unwrap();
    let mut shell = Command::new("sh");
    shell.env("N", format!("setpriv {}", NOBODY.join(" "))).current_dir(rig.mnt());
    let output = shell.args(["-e", "-u", "-c", line]).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// fsck finds nothing in the image of an ended mount.
#[track_caller]
fn check(rig: &Rig) {
    let program = Path::new(PROGRAM).with_file_name("fsck-twinfs");
    let found = Command::new(program).arg("-n").arg(rig.image()).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}

/// struct file_handle of open_by_handle_at(2), with room for any.
#[repr(C)]
#[derive(Clone)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

unsafe extern "C" {
    fn name_to_handle_at(
        dir: RawFd,
        path: *const std::ffi::c_char,
        handle: *mut Handle,
        mount: *mut i32,
        flags: i32,
    ) -> i32;
    fn open_by_handle_at(mount: RawFd, handle: *const Handle, flags: i32) -> i32;
}

fn handle_of(path: &Path) -> Handle {
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut mount = 0;
    // SAFETY: all three point to values that outlive the call; `bytes` says how much room there is.
    let done = unsafe { name_to_handle_at(-100, name.as_ptr(), &raw mut handle, &raw mut mount, 0) };
    assert_eq!(done, 0, "{}: {}", path.display(), std::io::Error::last_os_error());
    handle
}

fn open_handle(root: &File, handle: &Handle) -> std::io::Result<File> {
    // SAFETY: the handle outlives the call.
    let fd = unsafe { open_by_handle_at(root.as_raw_fd(), &raw const *handle, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call made this descriptor, and nobody else has it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

#[test]
fn handles_find_their_file_after_a_remount_and_are_stale_after_its_end() {
    if !can_mount("handles_find_their_file_after_a_remount_and_are_stale_after_its_end") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::create_dir_all(rig.at("deep/er")).unwrap();
    fs::write(rig.at("deep/er/file"), "found").unwrap();
    fs::write(rig.at("deep/er/gone"), "x").unwrap();
    let [file, dir, gone] = ["deep/er/file", "deep/er", "deep/er/gone"].map(|name| handle_of(&rig.at(name)));
    rig.remount();
    let root = File::open(rig.mnt()).unwrap();
    let mut text = String::new();
    open_handle(&root, &file).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "found");
    // A directory is connected to the root by asking for each one above.
    let found = open_handle(&root, &dir).unwrap();
    let link = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap();
    assert_eq!(link, rig.at("deep/er"));
    fs::remove_file(rig.at("deep/er/gone")).unwrap();
    let stale = nix::errno::Errno::ESTALE as i32;
    wait_until("the handle to be stale", || errno(open_handle(&root, &gone)) == stale);
    // Whatever is made next is not mistaken for it.
    for n in 0..50 {
        fs::write(rig.at(&format!("deep/er/gone{n}")), "y").unwrap();
    }
    drop((root, found));
    rig.remount();
    let root = File::open(rig.mnt()).unwrap();
    assert_eq!(errno(open_handle(&root, &gone)), stale);
    assert!(open_handle(&root, &file).is_ok());
}

#[test]
fn sixty_five_thousand_links_and_a_thousand_attributes_are_kept() {
    if !can_mount("sixty_five_thousand_links_and_a_thousand_attributes_are_kept") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::write(rig.at("f"), "one file").unwrap();
    fs::create_dir(rig.at("links")).unwrap();
    for n in 1..65_000 {
        fs::hard_link(rig.at("f"), rig.at(&format!("links/{n}"))).unwrap();
    }
    for n in 0..1_000 {
        xattr::set(&rig.at("f"), OsStr::new(&format!("user.{n}")), format!("value {n}").as_bytes()).unwrap();
    }
    xattr::set(&rig.at("f"), OsStr::new("trusted.large"), &vec![7; 65_536]).unwrap();
    rig.remount();
    let meta = fs::metadata(rig.at("links/64999")).unwrap();
    assert_eq!((meta.nlink(), meta.ino()), (65_000, fs::metadata(rig.at("f")).unwrap().ino()));
    assert_eq!(xattr::list(&rig.at("f")).unwrap().len(), 1_001);
    for n in [0, 500, 999] {
        let value = xattr::get(&rig.at("f"), OsStr::new(&format!("user.{n}"))).unwrap();
        assert_eq!(value, format!("value {n}").into_bytes());
    }
    assert_eq!(xattr::get(&rig.at("f"), OsStr::new("trusted.large")).unwrap(), vec![7; 65_536]);
    fs::remove_dir_all(rig.at("links")).unwrap();
    assert_eq!(fs::metadata(rig.at("f")).unwrap().nlink(), 1);
    rig.terminate();
    check(&rig);
}

#[test]
fn names_of_255_bytes_in_any_encoding_are_kept_to_the_byte() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    if !can_mount("names_of_255_bytes_in_any_encoding_are_kept_to_the_byte") {
        return;
    }
    let mut rig = Rig::mounted();
    let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
    // Every byte that a name may hold, bad UTF-8, line ends, and names that differ in case or accents only.
    names.insert((1..=255).filter(|b| *b != b'/').collect());
    names.extend([vec![0xff; 255], vec![b'\n'; 255], vec![b' '; 255], b"-rf".to_vec(), b"...".to_vec()]);
    names.extend(["A", "a", "\u{e9}", "e\u{301}", "\u{1f600}"].map(|name| name.as_bytes().to_vec()));
    for name in &names {
        fs::write(rig.mnt().join(OsStr::from_bytes(name)), name).unwrap();
    }
    assert_eq!(errno(File::create(rig.at(&"x".repeat(256)))), nix::errno::Errno::ENAMETOOLONG as i32);
    rig.remount();
    let listed: BTreeSet<Vec<u8>> =
        fs::read_dir(rig.mnt()).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
    assert_eq!(listed, names);
    for name in &names {
        assert_eq!(&fs::read(rig.mnt().join(OsStr::from_bytes(name))).unwrap(), name);
    }
}

#[test]
fn rights_fall_and_groups_are_inherited_by_the_rules() {
    if !can_mount("rights_fall_and_groups_are_inherited_by_the_rules") {
        return;
    }
    let rig = Rig::mounted();
    // Whoever changes the content of somebody else's program does not leave it set-id: by every way to change it.
    for change in [
        "$N sh -c 'echo x >> f'",
        "$N truncate -s 100 f",
        "$N fallocate -l 100000 f",
        "$N fallocate -p -o 0 -l 4096 f",
        "$N fallocate -z -o 0 -l 4096 f",
        "$N dd if=/dev/zero of=f bs=4096 count=1 conv=notrunc oflag=direct status=none",
        "chown 5 f",
        "chgrp 5 f",
    ] {
        let line = format!("rm -f f; head -c 8192 /dev/zero > f; chmod 6777 f; {change}; stat -c %a f");
        assert_eq!(sh(&rig, &line).trim(), "777", "{change}");
    }
    assert_eq!(sh(&rig, "chown 0:0 f; chmod 6777 f; echo x >> f; stat -c %a f").trim(), "6777", "root may");
    // A set-group-id folder hands its group down, and the bit to folders; not to files of outsiders.
    sh(&rig, "mkdir g; chown 65534:77 g; chmod 2777 g; $N mkdir g/d; $N touch g/f; mkdir g/r");
    assert_eq!(sh(&rig, "stat -c '%a %u:%g' g/d g/f g/r"), "2755 65534:77\n644 65534:77\n2755 0:77\n");
    assert_eq!(sh(&rig, "$N chmod 2755 g/f; stat -c %a g/f").trim(), "755", "not a member of the group");
    // Sticky: only owners remove.
    sh(
        &rig,
        "mkdir -m 1777 s; touch s/mine; ! $N rm -f s/mine 2> /dev/null; ! $N mv s/mine s/x 2> /dev/null",
    );
    sh(&rig, "$N touch s/theirs; $N rm s/theirs; [ -e s/mine ]");
}

#[test]
fn access_times_move_as_the_options_say() {
    if !can_mount("access_times_move_as_the_options_say") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::write(rig.at("f"), "content").unwrap();
    fs::create_dir(rig.at("d")).unwrap();
    fs::write(rig.at("d/name"), "").unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let old = fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
    // For a file and a folder each: whether the first read after a change moves it, and whether the next one does.
    for (options, file, folder) in [
        ("rw", [true, false], [true, false]),
        ("relatime", [true, false], [true, false]),
        ("noatime", [false, false], [false, false]),
        ("strictatime", [true, true], [true, true]),
        ("nodiratime", [true, false], [false, false]),
        ("strictatime,nodiratime", [true, true], [false, false]),
    ] {
        for name in ["f", "d"] {
            File::open(rig.at(name)).unwrap().set_times(old).unwrap();
        }
        for (turn, which) in ["the first read", "the next"].into_iter().enumerate() {
            // Without what the kernel has cached: a read that it answers itself reaches nobody who could note it.
            rig.terminate();
            rig.mount_with(&["-o", options]);
            for (name, expected) in [("f", file[turn]), ("d", folder[turn])] {
                let before = fs::metadata(rig.at(name)).unwrap();
                match name {
                    "f" => assert_eq!(fs::read(rig.at(name)).unwrap(), b"content"),
                    _ => assert_eq!(fs::read_dir(rig.at(name)).unwrap().count(), 1),
                }
                let after = fs::metadata(rig.at(name)).unwrap();
                let moved = before.accessed().unwrap() != after.accessed().unwrap();
                assert_eq!(moved, expected, "{options}: {which} of {name}");
                let recent = after.accessed().unwrap().elapsed().unwrap() < Duration::from_secs(60);
                assert!(recent || !moved, "{options}: {which} of {name} moved it elsewhere");
                assert_eq!(before.modified().unwrap(), after.modified().unwrap());
                assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
            }
        }
    }
    // What is noted is kept.
    rig.terminate();
    rig.mount_with(&["-o", "strictatime"]);
    assert_eq!(fs::read(rig.at("f")).unwrap(), b"content");
    let noted = fs::metadata(rig.at("f")).unwrap().accessed().unwrap();
    rig.terminate();
    rig.mount_with(&["-o", "noatime"]);
    assert_eq!(fs::metadata(rig.at("f")).unwrap().accessed().unwrap(), noted);
}

#[test]
fn a_file_that_was_open_without_a_name_is_gone_after_a_crash_with_its_space() {
    if !can_mount("a_file_that_was_open_without_a_name_is_gone_after_a_crash_with_its_space") {
        return;
    }
    let mut rig = Rig::mounted();
    let free = |rig: &Rig| nix::sys::statvfs::statvfs(&rig.mnt()).unwrap().blocks_free();
    let before = free(&rig);
    let mut file = writable(&rig.at("gone"));
    file.write_all(&vec![7; 16 << 20]).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(rig.at("gone")).unwrap();
    file.write_all(&vec![8; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    rig.kill();
    drop(file);
    rig.mount();
    assert!(!rig.at("gone").exists());
    wait_until("the space to return", || free(&rig) + 500 > before);
    rig.terminate();
    check(&rig);
}

#[test]
fn an_image_full_of_small_files_lets_them_be_removed() {
    if !can_mount("an_image_full_of_small_files_lets_them_be_removed") {
        return;
    }
    let mut rig = Rig::new();
    fs::remove_file(rig.image()).unwrap();
    assert!(rig.twinfs(&["mkfs", "-q", rig.image().to_str().unwrap(), "48M"]).status.success());
    rig.mount();
    let enospc = nix::errno::Errno::ENOSPC as i32;
    let mut made = 0;
    'full: for dir in 0.. {
        if errno(fs::create_dir(rig.at(&format!("d{dir}")))) == enospc {
            break;
        }
        for n in 0..500 {
            match errno(fs::write(rig.at(&format!("d{dir}/{n}")), vec![1; 3_000])) {
                0 => made += 1,
                error => {
                    assert_eq!(error, enospc, "after {made} files");
                    break 'full;
                }
            }
        }
    }
    assert!(made > 1_000, "only {made} files fit");
    let stat = nix::sys::statvfs::statvfs(&rig.mnt()).unwrap();
    let (available, free) = (stat.blocks_available(), stat.blocks_free());
    assert!(available < free, "the reserve shows as free, not as available: {available} of {free}");
    for entry in fs::read_dir(rig.mnt()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    wait_until("room", || fs::write(rig.at("again"), vec![2; 8 << 20]).is_ok());
    rig.terminate();
    check(&rig);
}

#[test]
fn a_file_larger_than_the_activity_log_can_be_removed() {
    if !can_mount("a_file_larger_than_the_activity_log_can_be_removed") {
        return;
    }
    let mut rig = Rig::new();
    fs::remove_file(rig.image()).unwrap();
    assert!(rig.twinfs(&["mkfs", "-q", rig.image().to_str().unwrap(), "1G"]).status.success());
    rig.mount();
    let mut file = writable(&rig.at("large"));
    let chunk: Vec<u8> = (0..1 << 20).map(|n| n as u8).collect();
    for _ in 0..400 {
        file.write_all(&chunk).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    fs::remove_file(rig.at("large")).unwrap();
    let free = || nix::sys::statvfs::statvfs(&rig.mnt()).unwrap().blocks_free();
    wait_until("the space to return", || free() > 200_000);
    // The next checkpoint gives the blocks back.
    for n in 0..400 {
        fs::write(rig.at("after"), format!("{n}")).unwrap();
        File::open(rig.at("after")).unwrap().sync_all().unwrap();
    }
    rig.remount();
    assert_eq!(fs::read(rig.at("after")).unwrap(), b"399");
    rig.terminate();
    check(&rig);
}

#[test]
fn a_position_in_a_listing_stays_good_while_names_come_and_go() {
    if !can_mount("a_position_in_a_listing_stays_good_while_names_come_and_go") {
        return;
    }
    let rig = Rig::mounted();
    fs::create_dir(rig.at("d")).unwrap();
    for n in 0..3_000 {
        File::create(rig.at(&format!("d/{n}"))).unwrap();
    }
    // Perl has telldir(3) and seekdir(3): remember every position, then change the folder, then go back to each.
    let told = sh(
        &rig,
        r#"perl -e '
            opendir(my $d, "d") or die; my (@at, @name);
            while (1) { my $p = telldir($d); my $n = readdir($d); last unless defined $n; push @at, $p; push @name, $n; }
            for my $n (0 .. 2999) { unlink "d/$n" if $n % 3 == 1; }
            for my $n (0 .. 999) { open(my $f, ">", "d/new$n") or die; }
            my $wrong = 0;
            for my $i (reverse 0 .. $#at) {
                next if $name[$i] =~ /^\d+$/ && $name[$i] % 3 == 1;
                seekdir($d, $at[$i]);
                my $n = readdir($d);
                $wrong++ if $n ne $name[$i];
            }
            print scalar(@at), " $wrong";
        '"#,
    );
    assert_eq!(told, "3002 0");
}

#[test]
fn a_file_of_four_terabytes_is_mostly_hole() {
    if !can_mount("a_file_of_four_terabytes_is_mostly_hole") {
        return;
    }
    let mut rig = Rig::mounted();
    let end = 4_u64 << 40;
    let file = writable(&rig.at("huge"));
    file.write_all_at(b"first", 0).unwrap();
    file.write_all_at(b"last", end - 4).unwrap();
    drop(file);
    rig.remount();
    let file = File::open(rig.at("huge")).unwrap();
    let meta = file.metadata().unwrap();
    assert!(meta.size() == end && meta.blocks() <= 64, "{} {}", meta.size(), meta.blocks());
    let seek = |at: i64, whence| nix::unistd::lseek(&file, at, whence);
    assert_eq!(seek(8192, Whence::SeekData), Ok((end - 4096) as i64));
    let mut bytes = [1; 4];
    file.read_exact_at(&mut bytes, end / 2).unwrap();
    assert_eq!(&bytes, &[0; 4]);
    file.read_exact_at(&mut bytes, end - 4).unwrap();
    assert_eq!(&bytes, b"last");
}

#[test]
fn append_only_and_immutable_files_refuse_everything_else() {
    if !can_mount("append_only_and_immutable_files_refuse_everything_else") {
        return;
    }
    let mut rig = Rig::mounted();
    sh(&rig, "echo old > log; echo x > fixed; mkdir d; touch d/f; chattr +a log; chattr +i fixed d");
    rig.remount();
    let eperm = nix::errno::Errno::EPERM as i32;
    writeln!(OpenOptions::new().append(true).open(rig.at("log")).unwrap(), "new").unwrap();
    assert_eq!(fs::read_to_string(rig.at("log")).unwrap(), "old\nnew\n");
    let mode = |name: &str| fs::set_permissions(rig.at(name), fs::Permissions::from_mode(0o600));
    let open = |name: &str| OpenOptions::new().write(true).open(rig.at(name));
    for name in ["log", "fixed"] {
        let overwritten = open(name).and_then(|f| f.write_all_at(b"y", 0));
        let cut = open(name).and_then(|f| f.set_len(1));
        let moved = fs::rename(rig.at(name), rig.at("other"));
        let linked = fs::hard_link(rig.at(name), rig.at("other"));
        let noted = xattr::set(&rig.at(name), OsStr::new("user.x"), b"1");
        for outcome in [overwritten, cut, moved, linked, noted, mode(name), fs::remove_file(rig.at(name))] {
            assert_eq!(errno(outcome), eperm, "{name}");
        }
    }
    for outcome in
        [fs::write(rig.at("d/new"), ""), fs::remove_file(rig.at("d/f")), fs::remove_dir(rig.at("d"))]
    {
        assert_eq!(errno(outcome), eperm);
    }
    // What cannot be kept is refused rather than noted.
    assert!(sh(&rig, "chattr +c log 2>&1 || chattr +S log 2>&1 || echo refused").contains("refused"));
    // Right-aligned, so the number may stand behind blanks.
    assert!(sh(&rig, "lsattr -v log").trim().chars().next().is_some_and(|c| c.is_ascii_digit()));
    sh(&rig, "chattr -a log; chattr -i fixed d; rm -r log fixed d");
}

#[test]
fn a_remount_changes_what_may_be_written_and_what_reads_note() {
    if !can_mount("a_remount_changes_what_may_be_written_and_what_reads_note") {
        return;
    }
    let mut rig = Rig::mounted();
    let remount = |rig: &Rig, options: &str| {
        // As mount(8) calls its helper, with what /proc/mounts showed.
        let all = format!("relatime,user_id=0,group_id=0,default_permissions,allow_other,remount,{options}");
        rig.twinfs(&["mount", "image", "mnt", "-o", &all])
    };
    fs::write(rig.at("f"), "x").unwrap();
    let open = writable(&rig.at("f"));
    let busy = remount(&rig, "ro");
    assert_eq!(busy.status.code(), Some(32), "{busy:?}");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("open for writing"), "{busy:?}");
    drop(open);
    let done = remount(&rig, "ro");
    assert!(done.status.success() && done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    assert_eq!(errno(File::create(rig.at("g"))), nix::errno::Errno::EROFS as i32);
    let accessed = || fs::metadata(rig.at("f")).unwrap().accessed().unwrap();
    let before = accessed();
    assert_eq!(fs::read(rig.at("f")).unwrap(), b"x");
    assert_eq!(accessed(), before, "a read-only mount notes no access");
    assert!(remount(&rig, "rw,noatime").status.success());
    fs::write(rig.at("g"), "y").unwrap();
    rig.kill();
    // What was there when it became read-only was stable then.
    rig.mount_with(&["-o", "ro"]);
    assert_eq!(fs::read(rig.at("f")).unwrap(), b"x");
    let refused = remount(&rig, "rw");
    assert_eq!(refused.status.code(), Some(32), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("mounted read-only"), "{refused:?}");
    // Behind the helper's back the kernel agrees, but nothing is accepted that could not be kept.
    let flags = nix::mount::MsFlags::MS_REMOUNT;
    nix::mount::mount(None::<&str>, &rig.mnt(), None::<&str>, flags, None::<&str>).unwrap();
    assert_eq!(errno(File::create(rig.at("h"))), nix::errno::Errno::EROFS as i32);
    assert!(!remount(&Rig::new(), "ro").status.success(), "nothing is mounted there");
}

/// `mount -t fuse.twinfs` finds its helper in the system's folder; only this namespace sees it there.
#[test]
fn mount_8_mounts_by_the_helper_and_the_daemon_keeps_nothing_of_its_caller() {
    let name = "mount_8_mounts_by_the_helper_and_the_daemon_keeps_nothing_of_its_caller";
    if !can_mount(name) {
        return;
    }
    let rig = Rig::new();
    let script = r#"
        mkdir sbin work && ln -s "$1" sbin/mount.fuse.twinfs && ln -s "$1" sbin/mount.twinfs
        mount -t tmpfs tmpfs work && mkdir work/u work/w
        mount -t overlay overlay -o lowerdir=$PWD/sbin:/usr/sbin,upperdir=$PWD/work/u,workdir=$PWD/work/w /usr/sbin
        exec 7> lock; flock -x 7; exec 8< /etc/passwd
        all=rw,dev,suid,exec,noatime,nodiratime,lazytime,allow_other,default_permissions,_netdev,nofail,defaults
        said=$(mount -t fuse.twinfs image mnt -o $all 2>&1); [ -z "$said" ]
        exec 7>&-; flock -n lock true
        grep -q " $PWD/mnt fuse.twinfs rw,noatime" /proc/self/mounts
        pid=$(pgrep -f "mount.fuse.twinfs .*$PWD/mnt"); [ "$(readlink /proc/$pid/cwd)" = / ]
        for fd in 0 1 2; do [ "$(readlink /proc/$pid/fd/$fd)" = /dev/null ]; done
        ! ls -l /proc/$pid/fd | grep -q "passwd\|lock$\|pipe:"
        echo content > mnt/f; chmod 4755 mnt/f; mknod mnt/null c 1 3; echo x > mnt/null
        mount -o remount,ro mnt; ! touch mnt/g 2>&-; mount -o remount,rw mnt; touch mnt/g
        # At once after one another: the leaving daemon's lock is waited for.
        for n in 1 2 3; do umount mnt; mount -t fuse.twinfs image mnt -o nodev,nosuid,noexec; echo $n > mnt/n; done
        [ "$(cat mnt/n)" = 3 ] && grep -q " $PWD/mnt fuse.twinfs rw,nosuid,nodev,noexec" /proc/self/mounts
        umount mnt; mount -t twinfs $PWD/image mnt -o sync,dirsync,relatime,strictatime; umount mnt
        code=0; mount -t fuse.twinfs nothing mnt 2> said || code=$?; [ $code = 32 ] && grep -q nothing said
        code=0; mount -t fuse.twinfs image mnt -o quux 2> said || code=$?; [ $code != 0 ] && grep -q quux said
    "#;
    let mut shell = Command::new("unshare");
    shell.args(["-m", "--propagation", "private", "sh", "-e", "-x", "-c", script, "sh", PROGRAM]);
    let output = shell.current_dir(&rig.root).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_sync_command_makes_a_standalone_mount_stable() {
    if !can_mount("the_sync_command_makes_a_standalone_mount_stable") {
        return;
    }
    let mut rig = Rig::mounted();
    for n in 0..100 {
        fs::write(rig.at(&format!("f{n}")), vec![n; 10_000]).unwrap();
    }
    let done = rig.twinfs(&["sync", "./mnt"]);
    rig.kill();
    assert!(done.status.success() && done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    let refused = rig.twinfs(&["sync", "/proc"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("no twinfs"));
    rig.mount();
    for n in 0..100 {
        assert_eq!(fs::read(rig.at(&format!("f{n}"))).unwrap(), vec![n; 10_000]);
    }
}

#[test]
fn after_going_down_an_unmount_and_a_mount_bring_back_what_was_flushed() {
    if !can_mount("after_going_down_an_unmount_and_a_mount_bring_back_what_was_flushed") {
        return;
    }
    let mut rig = Rig::mounted();
    let mut log = writable(&rig.at("log"));
    for n in 0..2_000 {
        writeln!(log, "line {n}").unwrap();
        fs::write(rig.at(&format!("f{n}")), format!("{n}")).unwrap();
    }
    let root = File::open(rig.mnt()).unwrap();
    nix::ioctl_read!(going_down, b'X', 125, u32);
    let mut flag = 0;
    // SAFETY: the request takes a pointer to a 32-bit word, which outlives the call.
    unsafe { going_down(root.as_raw_fd(), &raw mut flag) }.unwrap();
    let eio = nix::errno::Errno::EIO as i32;
    assert_eq!(errno(log.write_all(b"too late")), eio);
    assert_eq!(errno(log.sync_all()), eio);
    assert_eq!(errno(fs::remove_file(rig.at("f1"))), eio);
    assert_eq!(errno(fs::rename(rig.at("f2"), rig.at("x"))), eio);
    drop((log, root));
    // Unmounted from outside, as a harness does.
    assert!(rig.twinfs(&["umount", "mnt"]).status.success());
    assert!(rig.child.take().unwrap().wait().unwrap().success());
    check(&rig);
    rig.mount();
    assert_eq!(fs::read_to_string(rig.at("log")).unwrap().lines().count(), 2_000);
    for n in 0..2_000 {
        assert_eq!(fs::read_to_string(rig.at(&format!("f{n}"))).unwrap(), format!("{n}"));
    }
    assert!(!rig.at("x").exists());
}
