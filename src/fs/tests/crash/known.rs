//! The published crash bugs of other filesystems as workloads: 26 that were reproduced and 10 that were found by
//! enumerating small workloads, each in our own words.
//!
//! The history judges every image; beside that each workload says what must be there when nothing but its promises
//! survived, so that a mistake in the model cannot hide one.

use std::fmt::Write;

use super::judge::Found;
use super::words::{Op, parse};

/// One workload, and what is there after a crash behind its last step: `path`, `path=SIZE`, `path=SIZE#BLOCKS`,
/// `!path`.
pub struct Known {
    pub name: &'static str,
    pub ops: Vec<Op>,
    pub after: &'static str,
}

impl Known {
    /// What is asked of every image beside the history.
    pub fn ask(&self, found: &Found) -> Result<(), String> {
        // Blocks that no size covers.
        let beyond = found.blocks.iter().find(|(ino, blocks)| {
            let size = found.files[ino].len() as u64;
            **blocks > size.div_ceil(4096)
        });
        match beyond {
            Some((ino, blocks)) if self.name.starts_with("C23") => {
                Err(format!("inode {ino} has {blocks} blocks and {} bytes", found.files[ino].len()))
            }
            _ => Ok(()),
        }
    }
}

const C: [(&str, &str, &str); 46] = [
    // Entries counted twice: the directory could not be removed.
    ("C01", "mkdir A; create A/foo; sync; create A/bar; fsync A; fsync A/bar", "A/foo A/bar"),
    // The removed link came back.
    ("C02", "mkdir A; sync; create A/foo; link A/foo A/bar; sync; unlink A/bar; fsync A/foo", "A/foo !A/bar"),
    // The data of a file that was synced before it got a second name went.
    ("C04", "create foo; write foo 0..4K; fsync foo; link foo foo_link; create bar; fsync bar", "foo=4096"),
    // The hole was not there.
    ("C05", "write-new foo 0..16K; fsync foo; sync; punch foo 8000..12096; fsync foo", "foo=16384"),
    (
        "C05 inside a page",
        "write-new foo 0..16K; fsync foo; sync; punch foo 8300..8400; fsync foo",
        "foo=16384",
    ),
    // All attributes were lost with the one removed.
    (
        "C06",
        "create foo; setxattr foo user.a 1; setxattr foo user.b 2; setxattr foo user.c 3; sync; \
         removexattr foo user.b; fsync foo",
        "foo",
    ),
    // The second half of a file with two names was lost.
    (
        "C07",
        "write-new foo 0..32K; fsync foo; sync; link foo foo_link; sync; write foo 32K..64K; fsync foo",
        "foo=65536 foo_link=65536",
    ),
    (
        "C08",
        "mkdir A; create A/foo; create A/bar; sync; link A/foo A/foo_l; link A/bar A/bar_l; fsync A/bar",
        "A/foo A/bar A/foo_l A/bar_l",
    ),
    ("C09", "mkdir A; create A/foo; sync; link A/foo A/l; sync; unlink A/l; fsync A/foo", "A/foo !A/l"),
    (
        "C09 with nothing in memory",
        "mkdir A; create A/foo; sync; link A/foo A/l; sync; remount; unlink A/l; fsync A/foo",
        "A/foo !A/l",
    ),
    (
        "C10",
        "mkdir A; mkdir B; create A/foo; sync; link A/foo B/l; sync; unlink B/l; fsync A/foo",
        "A/foo B !B/l",
    ),
    (
        "C10 with nothing in memory",
        "mkdir A; mkdir B; create A/foo; sync; link A/foo B/l; sync; remount; unlink B/l; fsync A/foo",
        "A/foo B !B/l",
    ),
    // Overlapping extents after overlapping holes.
    (
        "C11",
        "write-new foo 0..128K; fsync foo; punch foo 96K..128K; punch foo 64K..192K; punch foo 32K..128K; fsync foo",
        "foo=131072#8",
    ),
    // A file was at both places, or at none.
    ("C12", "create foo; mkdir A; fsync foo; rename foo A/foo; fsync A; fsync A/foo", "A/foo !foo"),
    ("C13", "mkdir A; write-new A/foo 0..4K; sync; rename A/foo A/bar; fsync A/bar", "A/bar=4096 !A/foo"),
    // Two pages of a mapping, synced one after the other.
    (
        "C14",
        "write-new foo 0..256K; sync; write foo 0..4K; fsync foo; write foo 252K..256K; fsync foo",
        "foo=262144",
    ),
    (
        "C14 dirtied together",
        "write-new foo 0..256K; sync; write foo 0..4K; write foo 252K..256K; fsync foo; fsync foo",
        "foo=262144",
    ),
    // The file was lost from both directories.
    (
        "C15",
        "mkdir A; mkdir B; mkdir C; create A/foo; sync; rename A/foo B/foo; create A/bar; fsync A",
        "B/foo A/bar !A/foo",
    ),
    (
        "C16",
        "mkdir A; mkdir B; mkdir C; create A/foo; link A/foo B/foo_l; create B/bar; sync; unlink B/foo_l; \
         rename B/bar C/bar; fsync A/foo",
        "A/foo C/bar !B/bar !B/foo_l",
    ),
    // The content of a renamed directory was lost with the one that took its name.
    (
        "C17",
        "mkdir A; mkdir A/x; write-new A/x/foo 0..8K; write-new A/x/bar 0..8K; sync; rename A/x A/y; mkdir A/x; \
         fsync A/x",
        "A/y/foo=8192 A/y/bar=8192 A/x !A/x/foo",
    ),
    // A renamed file was lost when another took its name.
    (
        "C18",
        "mkdir A; write-new A/foo 0..16K; sync; rename A/foo A/bar; write-new A/foo 0..4K; fsync A/foo",
        "A/bar=16384 A/foo=4096",
    ),
    (
        "C19",
        "mkdir X; mkdir Y; mkdir Y/Z; create X/foo; create Y/foo2; sync; link X/foo X/bar; rename Y/Z X/Z; \
         rename Y/foo2 X/foo2; fsync X/foo",
        "X/foo X/bar X/Z X/foo2 !Y/Z !Y/foo2",
    ),
    // Symbolic links without their target.
    ("C20", "mkdir A; sync; symlink t1 A/l1; fsync A; mkdir B; symlink t2 B/l2; fsync B", "A/l1 B/l2"),
    (
        "C21",
        "mkdir D; create D/foo; fsync D; fsync D/foo; sync; rename D/foo D/bar; create D/foo; fsync D/bar",
        "D/bar D/foo",
    ),
    // Preallocation behind the end was lost.
    ("C22", "write-new foo 8K..16K; fsync foo; allocate-keep-size foo 1M..1028K; fsync foo", "foo=16384#3"),
    (
        "C22 with fdatasync",
        "write-new foo 8K..16K; fsync foo; allocate-keep-size foo 1M..1028K; fdatasync foo",
        "foo=16384#3",
    ),
    // Blocks of a direct write, but size 0.
    ("C23", "create foo; write foo 16K..20K; write foo 0..4K; fsync foo", "foo=20480"),
    // A direct write is answered when it is stable.
    ("C23 direct", "create foo; write foo 16K..20K; write foo 0..4K; fdatasync foo", "foo=20480"),
    ("C23 committed by the timer", "create foo; write foo 16K..20K; write foo 0..4K; timer", "foo=20480"),
    (
        "C23 with the buffered write sent later",
        "create foo; write foo 0..4K; fdatasync foo; write foo 16K..20K; writeback; timer",
        "foo=20480",
    ),
    (
        "C23 with the direct write unanswered",
        "create foo; timer; write foo 16K..20K; write foo 0..4K; writeback",
        "foo",
    ),
    (
        "C24",
        "mkdir A; create A/foo; link A/foo A/bar; sync; unlink A/bar; create A/bar; fsync A/bar",
        "A/foo A/bar",
    ),
    (
        "C25",
        "mkdir A; mkfifo A/foo; sync; create A/dummy; fsync A/dummy; rename A/foo A/bar; link A/bar A/foo; \
         hold A/dummy d; unlink A/dummy; fsync @d",
        "A/foo A/bar !A/dummy",
    ),
    (
        "C25 with a symbolic link",
        "mkdir A; symlink t A/foo; sync; create A/dummy; fsync A/dummy; rename A/foo A/bar; link A/bar A/foo; \
         hold A/dummy d; unlink A/dummy; fsync @d",
        "A/foo A/bar !A/dummy",
    ),
    (
        "C25 with a device",
        "mkdir A; mkchar A/foo; sync; create A/dummy; fsync A/dummy; rename A/foo A/bar; link A/bar A/foo; \
         hold A/dummy d; unlink A/dummy; fsync @d",
        "A/foo A/bar !A/dummy",
    ),
    (
        "C25 with a file",
        "mkdir A; create A/foo; sync; create A/dummy; fsync A/dummy; rename A/foo A/bar; link A/bar A/foo; \
         hold A/dummy d; unlink A/dummy; fsync @d",
        "A/foo A/bar !A/dummy",
    ),
    // A number was given to two files.
    ("C26", "mkdir A; sync; create A/foo; fsync A/foo", "A/foo"),
    // The target of a rename was lost with its source.
    (
        "N01",
        "mkdir A; create A/bar; fsync A/bar; mkdir B; create B/bar; rename B/bar A/bar; create A/foo; \
         fsync A/foo; fsync A",
        "A/bar A/foo !B/bar",
    ),
    (
        "N02",
        "mkdir A; mkdir A/C; rename A/C B; create B/bar; fsync B/bar; rename B/bar A/bar; rename A B; fsync B/bar",
        "B/bar !A",
    ),
    (
        "N03",
        "mkdir A; mkdir B; mkdir A/C; create B/foo; fsync B/foo; link B/foo A/C/foo; fsync A",
        "A A/C A/C/foo B/foo",
    ),
    ("N04", "mkdir A; sync; rename A B; create B/foo; fsync B/foo; fsync B", "B/foo !A"),
    ("N05", "mkdir A; mkdir B; create A/foo; link A/foo B/foo; fsync A/foo; fsync B/foo", "A/foo B/foo"),
    ("N06", "mkdir T; mkdir T/A; create T/foo; create T/A/foo; fsync T/A/foo; fsync T", "T/foo T/A/foo"),
    ("N07", "create foo; mkdir A; link foo A/bar; fsync foo", "foo A/bar"),
    ("N08", "write-new foo 0..16K; fsync foo; allocate-keep-size foo 16K..20K; fsync foo", "foo=16384#5"),
    ("N09", "write-new foo 0..16K; fsync foo; zero-keep-size foo 16K..20K; fdatasync foo", "foo=16384#5"),
];

const N10: (&str, &str, &str) = ("N10", "mkdir A; sync; rename A B; create B/foo; fsync B/foo", "B/foo !A");

/// More links than fit into one item: links removed and made again were lost.
fn c03(links: usize) -> Known {
    let mut text = "mkdir A; create A/foo; ".to_string();
    for number in 0..links {
        let _ = write!(text, "link A/foo A/foo_link_{number}; ");
    }
    let _ = write!(
        text,
        "begin; unlink A/foo_link_0; link A/foo A/foo_link_{links}; link A/foo A/foo_link_0; fsync A/foo"
    );
    Known { name: "C03", ops: parse(&text), after: "A/foo A/foo_link_0 A/foo_link_3000" }
}

/// All of them.
pub fn all() -> Vec<Known> {
    let known =
        |(name, text, after): &(&'static str, &str, &'static str)| Known { name, ops: ops(text), after };
    C.iter().chain([&N10]).map(known).chain([c03(3000)]).collect()
}

/// `write-new` is a create and a write.
fn ops(text: &str) -> Vec<Op> {
    let mut plain = String::new();
    for step in text.split(';') {
        if let Some((path, range)) =
            step.trim().strip_prefix("write-new ").and_then(|rest| rest.split_once(' '))
        {
            let _ = write!(plain, "create {path}; write {path} {range};");
        } else {
            plain.push_str(step);
            plain.push(';');
        }
    }
    parse(&plain)
}
