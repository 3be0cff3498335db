//! fsck.twinfs: the independent checker.

fn main() {}
