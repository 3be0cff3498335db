//! The suites on a mounted pair: every write goes to both nodes, and in the end both images are equal and sound.
//!
//! Smaller than standalone, unless TWINFS_LONG=1: the stressors run all at once for a few seconds instead of one after
//! another, fio verifies 40 MiB instead of 80, the trees are a part of /usr/include and /usr/sbin, Git makes 10 commits
//! instead of 20, SQLite writes 112 rows in each mode instead of 406, and six of CPython's modules run instead of twenty.

use super::{Bed, content, long, on_ext4, programs, python, stress};
use crate::harness::pair::{Pair, Plan};
use crate::harness::{need, say};

#[test]
fn the_suites_pass_on_a_mounted_pair() {
    let lists = [
        stress::NEEDS,
        content::FIO_NEEDS,
        programs::TREE_NEEDS,
        programs::GIT_NEEDS,
        programs::SQLITE_NEEDS,
        python::NEEDS,
    ];
    if !need::have_nodes("the_suites_pass_on_a_mounted_pair", &lists.concat()) {
        return;
    }
    let plan = Plan { size: if long() { "40GiB" } else { "8GiB" }, ..Plan::default() };
    let mut pair = Pair::start("suites-pair", &plan);
    let bed = Bed::Node(pair.node("alpha"));
    let timed = |what: &str, suite: &dyn Fn()| {
        let start = std::time::Instant::now();
        suite();
        say(&format!("pair: {what} took {:.1} s", start.elapsed().as_secs_f64()));
    };
    let ext4 = |modules: &str| on_ext4("cpython", "2G", |alone| python::run(&Bed::Alone(alone), modules));
    if long() {
        timed("trees", &|| programs::copy_trees(&bed, "/usr/include", "/usr"));
        timed("fio", &|| content::fio(&bed, [32, 8], 10));
        timed("sqlite", &|| programs::sqlite(&bed, 406));
        timed("git", &|| programs::git(&bed, "/usr/include/linux", 20));
        timed("cpython", &|| python::judge(&python::run(&bed, python::MODULES), &ext4(python::MODULES)));
        let stressors = on_ext4("stress-ng", "2G", |alone| stress::run(&Bed::Alone(alone)));
        timed("stress-ng", &|| stress::judge(&stress::run(&bed), &stressors));
    } else {
        timed("trees", &|| programs::copy_trees(&bed, "/usr/include/linux", "/usr/sbin"));
        timed("fio", &|| content::fio(&bed, [16, 4], 1));
        timed("sqlite", &|| programs::sqlite(&bed, 112));
        timed("git", &|| programs::git(&bed, "/usr/include/linux", 10));
        let modules = python::SHORT_MODULES;
        timed("cpython", &|| python::judge(&python::run(&bed, modules), &ext4(modules)));
        timed("stress-ng", &|| stress::all_at_once(&bed));
    }
    pair.wait_in_sync("alpha");
    pair.compare_images();
    pair.check_images();
}
