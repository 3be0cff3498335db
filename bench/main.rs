//! Times of twinfs beside ext4, as ratios taken in one run.

fn main() {}
