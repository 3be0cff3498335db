//! The one table from answers of the filesystem to error numbers of Linux.

use fuser::Errno;

use crate::fs::FsError;

/// What the caller's system call returns.
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDir => Errno::ENOTDIR,
        FsError::IsDir => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::Invalid => Errno::EINVAL,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::NotPermitted => Errno::EPERM,
        FsError::Access => Errno::EACCES,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::NoAttr => Errno::ENODATA,
        FsError::Range => Errno::ERANGE,
        FsError::TooBig => Errno::E2BIG,
        FsError::FileTooLarge => Errno::EFBIG,
        FsError::ReadOnly => Errno::EROFS,
        FsError::Stale => Errno::ESTALE,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::NoData => Errno::ENXIO,
        FsError::Stopped => Errno::ESHUTDOWN,
        FsError::WouldBlock => Errno::EAGAIN,
        FsError::Corrupt(_) | FsError::Io(_) => Errno::EIO,
    }
}
