//! Hash maps whose order does not depend on the process: std's hasher with fixed keys, so that a simulated run is
//! repeated exactly.
#![allow(clippy::disallowed_types, reason = "this is the one place that names the std maps")]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// A hash map with fixed keys. Not for keys that an attacker chooses in bulk.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;
/// A hash set with fixed keys. Not for keys that an attacker chooses in bulk.
pub type FastSet<K> = HashSet<K, BuildHasherDefault<DefaultHasher>>;
