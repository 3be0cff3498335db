//! What an operation on the filesystem may answer; `mount/` turns it into an errno.

use crate::image::BlocksError;

/// Answers of the filesystem, named after what the caller did or met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDir,
    #[error("is a directory")]
    IsDir,
    #[error("directory not empty")]
    NotEmpty,
    #[error("no space left")]
    NoSpace,
    #[error("invalid argument")]
    Invalid,
    #[error("name too long")]
    NameTooLong,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("permission denied")]
    Access,
    #[error("too many links")]
    TooManyLinks,
    #[error("no such attribute")]
    NoAttr,
    #[error("buffer too small")]
    Range,
    #[error("argument list too long")]
    TooBig,
    #[error("file too large")]
    FileTooLarge,
    #[error("read-only filesystem")]
    ReadOnly,
    #[error("stale handle")]
    Stale,
    #[error("operation not supported")]
    NotSupported,
    /// The dirty buffers are full: write some back, then ask again. Never leaves `mount/`.
    #[error("try again after writeback")]
    WouldBlock,
    #[error("no data at or after this offset")]
    NoData,
    /// Structures on disk contradict each other; names which.
    #[error("corrupt: {0}; run fsck.twinfs on the unmounted image")]
    Corrupt(String),
    /// This node lost the right to serve.
    #[error("this node may not serve any more")]
    Stopped,
    #[error("input/output error: {0}")]
    Io(String),
}

impl From<BlocksError> for FsError {
    fn from(error: BlocksError) -> FsError {
        match error {
            BlocksError::NoSpace(_) => FsError::NoSpace,
            BlocksError::Stopped => FsError::Stopped,
            BlocksError::ReadOnly => FsError::ReadOnly,
            other @ (BlocksError::Rotten(_) | BlocksError::Io(_) | BlocksError::OutOfRange { .. }) => {
                FsError::Io(other.to_string())
            }
        }
    }
}
