//! What applications need from fsync and rename, one guarantee a test. Each fails when the rule behind it is off, where
//! the filesystem has a switch for it.

use super::crash::images::Depth;
use super::crash::judge::Judge;
use super::crash::properties::{self, Property, content};
use super::crash::run::Start;
use crate::fs::Store;
use crate::fs::rules::Rules;

const JUDGE: Judge = Judge { depth: Depth::USUAL, checker: None, whole_checks: 0, base_checks: 9, seed: 7 };

/// Whether every image of the workload is right under these rules, in all its styles.
fn survives(property: &Property, start: &Start, rules: Rules) -> Result<(), String> {
    let set = move |store: &Store| store.core_write().rules = rules;
    property.judge(start, &JUDGE, &set).map(|_| ())
}

/// Right under all rules, and wrong when one is off.
fn holds_by(property: &Property, off: &[Rules]) {
    let start = property.start();
    survives(property, &start, Rules::default()).unwrap_or_else(|why| panic!("{}: {why}", property.name));
    for rules in off {
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| survives(property, &start, *rules)));
        assert!(!matches!(outcome, Ok(Ok(()))), "nothing notices that a rule is off: {rules:?}");
    }
}

fn holds(property: &Property) {
    holds_by(property, &[]);
}

#[test]
fn one_sector_is_overwritten_wholly_or_not_at_all() {
    holds(&properties::one_sector());
}

#[test]
fn an_append_never_shows_the_new_size_without_the_new_data() {
    holds_by(&properties::small_append(), &[Rules { tail_goes_home: true, ..Rules::default() }]);
    holds_by(&properties::large_append(), &[Rules { skip_fresh_flush: true, ..Rules::default() }]);
}

#[test]
fn an_append_is_cut_at_a_block_and_never_has_a_hole_inside() {
    holds_by(&properties::append_without_holes(), &[Rules { size_ahead: true, ..Rules::default() }]);
}

#[test]
fn a_rename_of_a_synced_file_over_another_is_atomic() {
    holds(&properties::synced_rename_over());
}

#[test]
fn a_rename_over_a_file_without_fsync_never_leaves_an_empty_one() {
    holds_by(&properties::rename_over(), &[Rules { skip_pulls: true, ..Rules::default() }]);
}

#[test]
fn a_rename_over_a_file_takes_along_a_size_that_no_buffer_shows() {
    holds_by(&properties::rename_over_of_zeros(), &[Rules { skip_pulls: true, ..Rules::default() }]);
}

#[test]
fn a_file_cut_to_nothing_and_written_again_is_never_seen_empty() {
    holds_by(&properties::rewritten(), &[Rules { skip_pulls: true, ..Rules::default() }]);
}

#[test]
fn operations_on_directories_reach_the_disk_in_their_order() {
    holds(&properties::order_of_names());
}

#[test]
fn fsync_of_a_new_file_makes_its_name_stable() {
    let property = properties::fsync_of_a_new_file();
    for found in property.strictest() {
        assert_eq!(content(&found, "/d/new").map(Vec::len), Some(5000));
    }
    holds(&property);
}

#[test]
fn fsync_of_a_directory_makes_all_that_was_done_in_it_stable() {
    let property = properties::fsync_of_a_directory();
    for found in property.strictest() {
        let names: Vec<&str> = found.inos.keys().filter_map(|path| path.strip_prefix("/d/")).collect();
        assert_eq!(names, ["a", "e", "f"]);
    }
    holds(&property);
}

#[test]
fn a_failed_fsync_is_never_followed_by_one_that_succeeds() {
    let count = properties::failed_fsync(&JUDGE).unwrap_or_else(|why| panic!("{why}"));
    assert!(count.images > 0);
}

#[test]
fn fdatasync_makes_size_and_extents_stable() {
    let property = properties::fdatasync();
    for found in property.strictest() {
        assert_eq!(content(&found, "/f").map(Vec::len), Some(400 << 10));
    }
    holds(&property);
}

#[test]
fn a_rollback_journal_protects_the_database_however_it_is_ended() {
    for property in properties::rollback_journals() {
        holds(&property);
    }
}

#[test]
fn a_write_ahead_log_holds_every_commit_that_was_synced() {
    holds_by(&properties::write_ahead_log(), &[Rules { ignore_log_owned: true, ..Rules::default() }]);
}

#[test]
fn pages_are_never_older_than_their_fsync() {
    holds(&properties::database_pages());
}

#[test]
fn a_meta_page_is_never_ahead_of_the_data_it_names() {
    holds(&properties::two_meta_pages());
}
