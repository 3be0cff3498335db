//! Every maximum of the program, in one place.

/// Longest name of a directory entry, bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target, bytes.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Largest value of one extended attribute, bytes (the kernel's own limit).
pub const XATTR_BYTES_MAX: usize = 65_536;
/// Most hard links of one inode: above the 65,000 that suites ask for.
pub const LINKS_MAX: u32 = 1_000_000;
/// Largest bulk frame on a link, bytes of data: a slice of bulk never delays a commit record by more than this.
pub const SLICE_BYTES_MAX: usize = 1 << 20;
/// Inode numbers count from 2 on: none gets as far, and sums of them do not overflow.
pub const INO_MAX: u64 = 1 << 62;
/// Data generations kept in the superblock.
pub const GENERATIONS_MAX: usize = 64;

/// Memory that serving one volume takes at most, by default and as configured.
pub const MEMORY_DEFAULT: u64 = 512 << 20;
pub const MEMORY_MIN: u64 = 64 << 20;
pub const MEMORY_MAX: u64 = 1 << 40;
