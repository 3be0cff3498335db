//! Random numbers from the kernel: identifiers, nonces, keys.
//!
//! Does not know what they are for. Invariant: never returns a number that is not random; without a random source the
//! process stops.

/// A fresh 128-bit number; never 0, which means "none" in several places.
pub fn id128() -> u128 {
    u128::from_le_bytes(bytes()).max(1)
}

/// A fresh 64-bit number.
pub fn id64() -> u64 {
    u64::from_le_bytes(bytes())
}

/// `N` fresh bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0u8; N];
    // A generation id or key that is not random could make two lineages look like one: better no process than that.
    getrandom::fill(&mut out).expect("the kernel's random source works once it has been seeded");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_differ() {
        assert_ne!(id128(), id128());
        assert_ne!(bytes::<32>(), bytes::<32>());
        assert_ne!(id64(), id64());
    }
}
