//! Programs that people trust their files to: archives and copies compared, Git, SQLite, and two old benchmarks.

use super::{long, on_both, on_twinfs};
use crate::harness::need;

#[test]
fn archives_and_copies_of_a_tree_come_out_equal() {
    let name = "archives_and_copies_of_a_tree_come_out_equal";
    if !need::have_mounts(name, &[("rsync", "rsync"), ("tar", "tar")]) {
        return;
    }
    on_twinfs("tree", if long() { "40G" } else { "2G" }, |alone| {
        // Other tests install programs meanwhile: what is compared with lies still.
        let still = alone.beside("still");
        let still = still.display();
        alone.sh(&format!("cp -a /usr/include {still}"));
        alone.sh(&format!("mkdir one two && tar -C {still} -cf a.tar include && tar -C one -xpf a.tar"));
        alone.sh("tar -C one -cf b.tar include && tar -C two -xpf b.tar && diff -r one/include two/include");
        let told = alone.sh(&format!("rsync -aHAX --checksum -n -i --delete {still}/include/ two/include/"));
        assert!(told.is_empty(), "rsync sees differences:\n{told}");
        // Devices, set-id programs, hard links, capabilities and links of all kinds are in a distribution's tree.
        let tree = if long() { "/usr" } else { "/usr/bin" };
        alone.sh(&format!("cp -a {tree} {still}/tree && mkdir copy && cp -a {still}/tree/. copy"));
        let told = alone.sh(&format!("rsync -aHAX --checksum -n -i --delete {still}/tree/ copy/"));
        assert!(told.is_empty(), "cp -a of {tree}:\n{told}");
        alone.sh("rm -r one two copy a.tar b.tar && [ -z \"$(ls)\" ]");
    });
}

#[test]
fn git_clones_checks_and_repacks_what_it_stored() {
    if !need::have_mounts("git_clones_checks_and_repacks_what_it_stored", &[("git", "git")]) {
        return;
    }
    let script = r#"
        export HOME=$PWD GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
        export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
        git init -q -b main work && cd work
        cp -r /usr/include/linux . && git add . && git commit -qm first
        for n in $(seq 20); do
            echo "$n" >> linux/fs.h; echo "$n" > "file $n"; git mv -f linux/fuse.h "linux/fuse.h" 2>/dev/null || :
            git add . && git commit -qm "change $n"
            [ $((n % 5)) = 0 ] && git branch "at-$n"
        done
        git checkout -q at-5 && [ ! -e "file 6" ] && git checkout -q main && [ "$(cat 'file 20')" = 20 ]
        cd .. && git clone -q --no-local work copy
        git -C copy fsck --full --strict --no-dangling && git -C work gc -q --aggressive && git -C work fsck --full
        git -C copy repack -q -a -d && git -C copy fsck --full
        diff -r --exclude=.git work copy
        [ -z "$(git -C copy status --porcelain)" ] && git -C copy pull -q
    "#;
    on_both("git", "1G", |alone| _ = alone.sh(script));
}

#[test]
fn sqlite_keeps_its_database_whole_in_all_journal_modes() {
    let name = "sqlite_keeps_its_database_whole_in_all_journal_modes";
    if !need::have_mounts(name, &[("sqlite3", "sqlite3")]) {
        return;
    }
    let script = r#"
        for mode in DELETE TRUNCATE PERSIST WAL; do
            sqlite3 "$mode.db" "PRAGMA journal_mode=$mode; PRAGMA synchronous=FULL;
                CREATE TABLE t (n INTEGER PRIMARY KEY, filler BLOB);" > mode
            grep -qix "$mode" mode
            write() { for n in $(seq "$1" "$2"); do
                echo "PRAGMA busy_timeout=60000; INSERT INTO t VALUES ($n, randomblob($n * 13 % 5000));"; done |
                sqlite3 "$mode.db" > /dev/null; }
            write 1 200 & write 201 400 &
            wait
            sqlite3 "$mode.db" "UPDATE t SET filler = zeroblob(3000) WHERE n % 3 = 0;
                DELETE FROM t WHERE n % 7 = 0; VACUUM;"
            [ "$(sqlite3 "$mode.db" 'SELECT count(*) FROM t')" = 343 ]
            [ "$(sqlite3 "$mode.db" 'PRAGMA integrity_check')" = ok ]
        done
    "#;
    on_both("sqlite", "512M", |alone| _ = alone.sh(script));
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
