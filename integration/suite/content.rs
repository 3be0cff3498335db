//! Content of files under random operations: `fsx`, and the verifying jobs of fio.

use std::process::Command;

use super::{Bed, amount, on_both, on_twinfs, tool};
use crate::harness::alone::{Alone, run_ok};
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

/// One job for each way into the kernel, with overwrites, and every block verified afterwards. Sizes in MiB come with the
/// run.
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
size=${LARGE}m
fdatasync=64
stonewall

[mmap]
ioengine=mmap
size=${SMALL}m
stonewall

[libaio]
ioengine=libaio
direct=1
iodepth=16
size=${SMALL}m
stonewall

[io_uring]
ioengine=io_uring
iodepth=16
size=${LARGE}m
stonewall
"#;

pub const FIO_NEEDS: &[need::Program] = &[("fio", "fio"), ("mkfs.ext4", "e2fsprogs")];

pub fn fio(bed: &Bed, [large, small]: [u32; 2], loops: u32) {
    let jobs = bed.beside().join("jobs.fio");
    std::fs::write(&jobs, FIO).unwrap();
    let jobs = jobs.display();
    let told = bed.sh(&format!(
        "export LARGE={large} SMALL={small}; fio --directory=. --loops={loops} {jobs} && rm -f psync.* mmap.* libaio.* io_uring.*"
    ));
    assert_eq!(told.matches("err= 0").count(), 4, "{}: {told}", bed.kind());
}

#[test]
fn fio_reads_back_what_it_wrote_by_four_engines() {
    if !need::have_mounts("fio_reads_back_what_it_wrote_by_four_engines", FIO_NEEDS) {
        return;
    }
    on_both("fio", "1G", |alone| fio(&Bed::Alone(alone), [32, 8], amount(1)));
}
