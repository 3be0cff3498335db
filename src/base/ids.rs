//! Newtypes for everything that is counted or named, so that a mixed-up argument does not compile.

use std::fmt;

/// A 4 KiB block of the data area, counted from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNo(pub u64);

impl BlockNo {
    /// Bytes in a block.
    pub const SIZE: usize = 4096;

    /// The extent this block lies in.
    pub fn extent(self) -> ExtentNo {
        ExtentNo(self.0 / ExtentNo::BLOCKS)
    }

    /// Position of the block inside its extent, `0..1024`.
    pub fn index_in_extent(self) -> usize {
        usize::try_from(self.0 % ExtentNo::BLOCKS).unwrap_or(0)
    }

    /// The block `count` further on; saturates, so that a hostile number fails the range check that follows.
    #[must_use]
    pub fn plus(self, count: u64) -> BlockNo {
        BlockNo(self.0.saturating_add(count))
    }
}

/// A 4 MiB extent of the data area (1024 blocks): the unit of activity log, digest page and backing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentNo(pub u64);

impl ExtentNo {
    /// Blocks in an extent.
    pub const BLOCKS: u64 = 1024;

    /// First block of the extent.
    pub fn first_block(self) -> BlockNo {
        BlockNo(self.0.saturating_mul(Self::BLOCKS))
    }
}

/// An inode number. The root directory is 1; numbers are never reused with the same inode generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

/// One of the two machines with a copy. The first `[node.NAME]` of the configuration is A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum NodeId {
    A,
    B,
}

impl NodeId {
    /// The peer.
    #[must_use]
    pub fn other(self) -> NodeId {
        match self {
            NodeId::A => NodeId::B,
            NodeId::B => NodeId::A,
        }
    }

    /// 0 for A, 1 for B: the encoding on disk and on links.
    pub fn index(self) -> u8 {
        match self {
            NodeId::A => 0,
            NodeId::B => 1,
        }
    }

    /// The node encoded as `index`, or `None` for any other number.
    pub fn from_index(index: u8) -> Option<NodeId> {
        match index {
            0 => Some(NodeId::A),
            1 => Some(NodeId::B),
            _ => None,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NodeId::A => "A",
            NodeId::B => "B",
        })
    }
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
    };
}

id128! {
    /// A data lineage; minted only when a node goes solo, a volume is made, or by force.
    Generation
}
id128! {
    /// Identity of a replicated filesystem; equal on both nodes.
    VolumeId
}
