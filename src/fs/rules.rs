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
}
