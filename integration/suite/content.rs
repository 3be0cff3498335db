//! Content of files under random operations: `fsx`, the verifying jobs of fio, the file system class of stress-ng.

use std::process::Command;

use super::{amount, long, on_both, on_twinfs, tool};
use crate::harness::alone::{Alone, run_ok, said};
use crate::harness::{need, say};

/// Every operation that there is.
pub const FSX_SETTINGS: &str = r#"
flen = 1048576

[opsize]
max = 65536

[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 5
punch_hole = 5
sendfile = 5
posix_fadvise = 1
copy_file_range = 5
"#;

fn fsx(alone: &Alone, seed: u32, operations: u32) {
    let settings = alone.root.join("fsx.toml");
    std::fs::write(&settings, FSX_SETTINGS).unwrap();
    let mut run = Command::new(tool("fsx", "0.3.2"));
    run.arg("-f").arg(settings).args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
    run_ok(run.arg("-P").arg(&alone.root).arg(alone.at("fsx")));
}

#[test]
fn fsx_finds_no_wrong_byte() {
    if !need::have_mounts("fsx_finds_no_wrong_byte", &[]) {
        return;
    }
    // Before the clock starts: the build of the tool counts for nothing.
    let _ = tool("fsx", "0.3.2");
    let operations = amount(20_000);
    on_twinfs("fsx", "512M", |alone| {
        for seed in [1, 2] {
            fsx(alone, seed, operations / 2);
        }
    });
    say(&format!("fsx: {operations} operations of every kind, no mismatch"));
}

/// One job for each way into the kernel, with overwrites, and every block verified afterwards.
const FIO: &str = r#"
[global]
bs=4k
rw=randwrite
verify=crc32c
do_verify=1
verify_fatal=1
time_based=0
random_generator=tausworthe64

[psync]
ioengine=psync
size=32m
fdatasync=64
stonewall

[mmap]
ioengine=mmap
size=8m
stonewall

[libaio]
ioengine=libaio
direct=1
iodepth=16
size=8m
stonewall

[io_uring]
ioengine=io_uring
iodepth=16
size=32m
stonewall
"#;

#[test]
fn fio_reads_back_what_it_wrote_by_four_engines() {
    if !need::have_mounts(
        "fio_reads_back_what_it_wrote_by_four_engines",
        &[("fio", "fio"), ("mkfs.ext4", "e2fsprogs")],
    ) {
        return;
    }
    on_both("fio", "1G", |alone| {
        let jobs = alone.root.join("jobs.fio");
        std::fs::write(&jobs, FIO).unwrap();
        let loops = format!("--loops={}", if long() { 10 } else { 1 });
        let ran = run_ok(alone.command("fio").arg("--directory=.").arg(loops).arg(&jobs));
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert_eq!(text.matches("err= 0").count(), 4, "{}: {text}", alone.kind);
    });
}

/// Stressors that have no place on a FUSE file system, or none in a test: a mount of its own kind, sealing of kernel
/// objects, extents and swap files of the disk below.
const LEFT_OUT: &str = "binderfs,verity,fiemap,ramfs";

#[test]
fn the_file_system_class_of_stress_ng_verifies() {
    if !need::have_mounts("the_file_system_class_of_stress_ng_verifies", &[("stress-ng", "stress-ng")]) {
        return;
    }
    on_twinfs("stress-ng", "2G", |alone| {
        let mut run = alone.command("stress-ng");
        run.args(["--class", "filesystem", "--sequential", "1", "--verify", "--timeout"]);
        run.arg(format!("{}s", if long() { 10 } else { 1 }));
        let ran = run.args(["--exclude", LEFT_OUT, "--temp-path", "."]).output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        let failures: Vec<&str> =
            text.lines().filter(|line| line.contains("fail:") || line.contains("aborted")).collect();
        assert!(ran.status.success() && failures.is_empty(), "{failures:?}\n{}", said(&ran));
        let skipped: Vec<&str> = text.lines().filter(|line| line.contains("skipping")).collect();
        say(&format!("stress-ng: {} stressors skipped themselves: {skipped:?}", skipped.len()));
    });
}
