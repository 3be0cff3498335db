//! The process that keeps a node's volumes: threads, the control socket, and the carrying out of a node's orders.
//!
//! Decides in which order a promotion and a demotion happen and how long each may take. Does not know why (the node's
//! machine does) nor the verbs of the command line. Invariants: the boot epoch is stored before the first packet; a
//! node that may not serve answers nothing, whatever is still mounted; whatever a dead predecessor left is removed
//! before anything new begins.

mod links;
mod node_file;
pub mod protocol;
mod reflexes;
mod serving;
mod shell;
pub mod status;
pub mod witness;
