//! Programs that people trust their files to: archives and copies compared, Git, SQLite, and two old benchmarks.

use super::{Bed, long, on_both, on_twinfs};
use crate::harness::need;

pub const TREE_NEEDS: &[need::Program] = &[("rsync", "rsync"), ("tar", "tar"), ("diff", "diffutils")];
pub const GIT_NEEDS: &[need::Program] = &[("git", "git")];
pub const SQLITE_NEEDS: &[need::Program] = &[("sqlite3", "sqlite3")];

/// tar there and back twice from `headers`, and `cp -a` of `tree`: what a copy of the original on another file system
/// shows, rsync(1) finds.
pub fn copy_trees(bed: &Bed, headers: &str, tree: &str) {
    // Other tests install programs meanwhile: what is compared with lies still.
    let still = bed.beside().join("still");
    let still = still.display();
    bed.sh(&format!("mkdir -p {still} && cp -a {headers} {still}/headers"));
    bed.sh(&format!("mkdir one two && tar -C {still} -cf a.tar headers && tar -C one -xpf a.tar"));
    bed.sh("tar -C one -cf b.tar headers && tar -C two -xpf b.tar && diff -r one/headers two/headers");
    let told = bed.sh(&format!("rsync -aHAX --checksum -n -i --delete {still}/headers/ two/headers/"));
    assert!(told.is_empty(), "rsync sees differences:\n{told}");
    // rsync as the one who copies: to the mount, and from it back.
    bed.sh(&format!("rsync -aHAX one/headers/ three/ && rsync -aHAX three/ {still}/back/"));
    let told = bed.sh(&format!("rsync -aHAX --checksum -n -i --delete {still}/headers/ {still}/back/"));
    assert!(told.is_empty(), "there and back by rsync:\n{told}");
    // Devices, set-id programs, hard links, capabilities and links of all kinds are in a distribution's tree.
    bed.sh(&format!("cp -a {tree} {still}/tree && mkdir copy && cp -a {still}/tree/. copy"));
    let told = bed.sh(&format!("rsync -aHAX --checksum -n -i --delete {still}/tree/ copy/"));
    assert!(told.is_empty(), "cp -a of {tree}:\n{told}");
    bed.sh("rm -r one two three copy a.tar b.tar && [ -z \"$(ls)\" ]");
}

#[test]
fn archives_and_copies_of_a_tree_come_out_equal() {
    if !need::have_mounts("archives_and_copies_of_a_tree_come_out_equal", TREE_NEEDS) {
        return;
    }
    on_twinfs("tree", if long() { "40G" } else { "2G" }, |alone| {
        copy_trees(&Bed::Alone(alone), "/usr/include", if long() { "/usr" } else { "/usr/bin" });
    });
}

/// A history of `$COMMITS` changes to the files of `$TREE`, cloned, repacked, and checked by Git each time.
const GIT: &str = r#"
    export HOME=$PWD GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
    export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
    git init -q -b main work && cd work
    cp -r "$TREE" linux && git add . && git commit -qm first
    for n in $(seq "$COMMITS"); do
        echo "$n" >> linux/fs.h; echo "$n" > "file $n"; git mv -f linux/fuse.h "linux/fuse.h" 2>/dev/null || :
        git add . && git commit -qm "change $n"
        [ $((n % 5)) = 0 ] && git branch "at-$n"
    done
    git checkout -q at-5 && [ ! -e "file 6" ] && git checkout -q main
    [ "$(cat "file $COMMITS")" = "$COMMITS" ]
    cd .. && git clone -q --no-local work copy
    git -C copy fsck --full --strict --no-dangling && git -C work gc -q --aggressive && git -C work fsck --full
    git -C copy repack -q -a -d && git -C copy fsck --full
    diff -r --exclude=.git work copy
    [ -z "$(git -C copy status --porcelain)" ] && git -C copy pull -q
    rm -rf work copy
"#;

/// `tree` has a file fs.h.
pub fn git(bed: &Bed, tree: &str, commits: u32) {
    bed.sh(&format!("TREE={tree} COMMITS={commits}\n{GIT}"));
}

#[test]
fn git_clones_checks_and_repacks_what_it_stored() {
    if !need::have_mounts("git_clones_checks_and_repacks_what_it_stored", GIT_NEEDS) {
        return;
    }
    on_both("git", "1G", |alone| git(&Bed::Alone(alone), "/usr/include/linux", 20));
}

/// Two writers put `$ROWS` rows (a multiple of 14) into a table, in each journal mode.
const SQLITE: &str = r#"
    for mode in DELETE TRUNCATE PERSIST WAL; do
        sqlite3 "$mode.db" "PRAGMA journal_mode=$mode; PRAGMA synchronous=FULL;
            CREATE TABLE t (n INTEGER PRIMARY KEY, filler BLOB);" > mode
        grep -qix "$mode" mode
        write() { for n in $(seq "$1" "$2"); do
            echo "PRAGMA busy_timeout=60000; INSERT INTO t VALUES ($n, randomblob($n * 13 % 5000));"; done |
            sqlite3 "$mode.db" > /dev/null; }
        write 1 $((ROWS / 2)) & write $((ROWS / 2 + 1)) "$ROWS" &
        wait
        sqlite3 "$mode.db" "UPDATE t SET filler = zeroblob(3000) WHERE n % 3 = 0;
            DELETE FROM t WHERE n % 7 = 0; VACUUM;"
        [ "$(sqlite3 "$mode.db" 'SELECT count(*) FROM t')" = $((ROWS / 7 * 6)) ]
        [ "$(sqlite3 "$mode.db" 'PRAGMA integrity_check')" = ok ]
        rm "$mode.db" mode
    done
"#;

pub fn sqlite(bed: &Bed, rows: u32) {
    assert_eq!(rows % 14, 0);
    bed.sh(&format!("ROWS={rows}\n{SQLITE}"));
}

#[test]
fn sqlite_keeps_its_database_whole_in_all_journal_modes() {
    if !need::have_mounts("sqlite_keeps_its_database_whole_in_all_journal_modes", SQLITE_NEEDS) {
        return;
    }
    on_both("sqlite", "512M", |alone| sqlite(&Bed::Alone(alone), 406));
}

#[test]
fn postmark_and_dbench_end_without_an_error() {
    let name = "postmark_and_dbench_end_without_an_error";
    if !need::have_mounts(name, &[("postmark", "postmark"), ("dbench", "dbench")]) {
        return;
    }
    on_twinfs("postmark", "1G", |alone| {
        let orders =
            "set location .\nset number 500\nset transactions 5000\nset subdirectories 10\nrun\nquit\n";
        std::fs::write(alone.root.join("orders"), orders).unwrap();
        let told = alone.sh("postmark < ../orders");
        assert!(told.contains("transactions") && !told.contains("Error"), "{told}");
        let told = alone.sh("dbench -D . -t 3 2");
        assert!(told.contains("Throughput") && !told.contains("ERROR"), "{told}");
    });
}
