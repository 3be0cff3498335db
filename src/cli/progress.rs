//! Progress of long work on a terminal; nothing at all where there is none.
//!
//! Decides how a bar looks. Does not know what is being done. Invariant: writes to standard error only, so that
//! standard output stays an answer.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over bytes or items. Drawn only if standard error is a terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar that counts to `total` bytes.
    pub fn bytes(label: &str, total: u64) -> Progress {
        Progress::with(
            label,
            total,
            "{msg:<22} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
        )
    }

    /// A bar that counts to `total` things.
    pub fn items(label: &str, total: u64) -> Progress {
        Progress::with(label, total, "{msg:<22} [{bar:30}] {pos}/{len} {eta}")
    }

    fn with(label: &str, total: u64, template: &str) -> Progress {
        let bar = ProgressBar::new(total);
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(label.to_string());
        Progress(bar)
    }

    /// Now at `position`.
    pub fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    /// The end has moved.
    pub fn of(&self, total: u64) {
        self.0.set_length(total);
    }

    /// Leaves the full bar on the screen.
    pub fn done(&self) {
        self.0.finish();
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
