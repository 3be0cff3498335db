//! What becomes of two copies that were both written while apart.

use super::NodeId;

/// The policy of `after_split_brain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AfterSplit {
    /// A person decides.
    #[default]
    Manual,
    /// The copy of the only node that serves when they meet.
    KeepServing,
    KeepNode(NodeId),
    /// The copy of the node that became primary while they were apart.
    KeepNewer,
    /// The copy of the node that was primary when they parted.
    KeepOlder,
    /// The copy in which more blocks were changed.
    KeepMostChanges,
}
