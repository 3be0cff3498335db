//! Switches that turn single rules of the commit protocol off, so that the test of each rule can be seen to fail.
//!
//! Outside tests every rule holds and the switches are constants.

/// All false: the protocol as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// W1: large writes go home although the block has payload in the log.
    pub(super) ignore_log_owned: bool,
    /// W2: freed blocks are reused before the checkpoint.
    pub(super) reuse_at_once: bool,
    /// W4: no flush between fresh data and the record that maps it.
    pub(super) skip_fresh_flush: bool,
    /// W14: any whole record with the right number is taken for the next one.
    pub(super) ignore_chain: bool,
    /// W15: the map of the tables' chunks is written behind the chunks.
    pub(super) late_chunk_map: bool,
    /// W16: where the tables grow again lies what was there before.
    pub(super) stale_growth: bool,
    /// W16: chunks of tables that shrink are given away before the new map is stable.
    pub(super) give_chunks_back: bool,
    /// W17: the tables are as long as their chunks.
    pub(super) rough_length: bool,
    /// W18: operations are let in although the tables may not have room for them.
    pub(super) no_reserve: bool,
    /// W19: blocks are given out that the host may have no room for.
    pub(super) ignore_backing: bool,
    /// W22: the zeros of a cut block go home at once.
    pub(super) edge_goes_home: bool,
    /// W25: freed blocks are reused although somebody still reads them.
    pub(super) ignore_readers: bool,
    /// New content of the block that holds the recorded end goes home beside the record of the new size.
    pub(super) tail_goes_home: bool,
    /// The recorded size runs ahead of the data.
    pub(super) size_ahead: bool,
    /// A rename or a cut to nothing is recorded without the data that was written before.
    pub(super) skip_pulls: bool,
    /// W21: discards may still run when the blocks are reused.
    pub(super) late_discard: bool,
    /// S1: an fsync takes everybody's data along.
    pub(super) drag_all: bool,
    /// S3: the blocks of the log are not kept hot.
    pub(super) ring_not_pinned: bool,
    /// S5: what goes home goes in one piece.
    pub(super) no_slices: bool,
}

impl Rules {
    /// The rules for a store that is being opened.
    #[cfg(not(test))]
    pub(super) fn at_open() -> Rules {
        Rules::default()
    }

    #[cfg(test)]
    pub(super) fn at_open() -> Rules {
        AT_OPEN.get()
    }

    /// Calls `body`; stores that this thread opens or makes meanwhile have these rules.
    #[cfg(test)]
    pub(super) fn open_with<T>(self, body: impl FnOnce() -> T) -> T {
        struct Back(Rules);
        impl Drop for Back {
            fn drop(&mut self) {
                AT_OPEN.set(self.0);
            }
        }
        let _back = Back(AT_OPEN.replace(self));
        body()
    }
}

#[cfg(test)]
thread_local! {
    static AT_OPEN: std::cell::Cell<Rules> = std::cell::Cell::new(Rules::default());
}
