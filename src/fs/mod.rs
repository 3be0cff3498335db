//! The filesystem over `trait Blocks`. (being written)

mod error;

pub use error::FsError;
