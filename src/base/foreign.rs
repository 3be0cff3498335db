//! Calls into a library that asserts on bytes it does not expect: its panic is an answer here.
//!
//! Decides that such a panic neither ends the thread nor reaches the terminal: it is one error, told by whoever asked.
//! Does not know what is called. Invariant: every other panic is told as it ever was.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

thread_local! {
    static AWAITED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`; `None` if it panicked. Whatever it worked on must not be used again, or must fail the same way.
pub fn foreign<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = AWAITED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(call)).ok();
    AWAITED.set(before);
    done
}

/// Whether this thread is within `foreign`.
pub fn is_foreign() -> bool {
    AWAITED.get()
}

/// From now on panics within `foreign` are not printed. For a program's first lines.
pub fn hush_foreign() {
    let before = take_hook();
    set_hook(Box::new(move |info| {
        if !is_foreign() {
            before(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_within_is_an_answer_and_the_thread_is_as_before() {
        assert_eq!(foreign(|| 5), Some(5));
        let nested = foreign(|| {
            assert_eq!(foreign(|| -> u32 { panic!("the library's own") }), None);
            is_foreign()
        });
        assert_eq!((nested, is_foreign()), (Some(true), false));
        assert_eq!(foreign(|| -> u32 { panic!("the library's own") }), None);
        assert!(!is_foreign());
    }
}
