//! XXH3 with 128 bits, as the tables' library seals its pages with it.
//!
//! Written from the published description, apart from the library, so that a mistake there does not hide itself here.
//! Knows only inputs of more than 16 bytes: no page is shorter. Pure.

const STRIPE: usize = 64;
const STRIPES_PER_BLOCK: usize = (SECRET.len() - STRIPE) / 8;
/// Secret bytes that inputs of middle length use.
const SECRET_MIN: usize = 136;
const PRIME32: [u64; 3] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D];
const PRIME64: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

#[rustfmt::skip]
const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

/// The checksum, `None` for inputs that are too short for any page.
pub fn checksum(data: &[u8]) -> Option<u128> {
    match data.len() {
        0..=16 => None,
        17..=128 => Some(short(data)),
        129..=240 => Some(middle(data)),
        _ => Some(long(data)),
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Low half of the product, folded with its high half.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn avalanche(mut hash: u64) -> u64 {
    hash ^= hash >> 37;
    hash = hash.wrapping_mul(0x1656_6791_9E37_79F9);
    hash ^ (hash >> 32)
}

fn join(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

struct Pair {
    low: u64,
    high: u64,
}

impl Pair {
    fn new(data: &[u8]) -> Pair {
        Pair { low: (data.len() as u64).wrapping_mul(PRIME64[0]), high: 0 }
    }

    /// Takes in 16 bytes at `a` and 16 at `b`, with the secret at `key`.
    fn mix(&mut self, data: &[u8], a: usize, b: usize, key: usize) {
        let one = |at: usize, key: usize| {
            fold(word(data, at) ^ word(&SECRET, key), word(data, at + 8) ^ word(&SECRET, key + 8))
        };
        self.low = self.low.wrapping_add(one(a, key));
        self.low ^= word(data, b).wrapping_add(word(data, b + 8));
        self.high = self.high.wrapping_add(one(b, key + 16));
        self.high ^= word(data, a).wrapping_add(word(data, a + 8));
    }

    fn finish(&self, len: usize) -> u128 {
        let low = self.low.wrapping_add(self.high);
        let high = self
            .low
            .wrapping_mul(PRIME64[0])
            .wrapping_add(self.high.wrapping_mul(PRIME64[3]))
            .wrapping_add((len as u64).wrapping_mul(PRIME64[1]));
        join(avalanche(low), avalanche(high).wrapping_neg())
    }
}

fn short(data: &[u8]) -> u128 {
    let len = data.len();
    let mut pair = Pair::new(data);
    // Pairs of 16 bytes from both ends, the innermost first.
    for round in (0..(len - 1) / 32 + 1).rev() {
        pair.mix(data, round * 16, len - 16 - round * 16, round * 32);
    }
    pair.finish(len)
}

fn middle(data: &[u8]) -> u128 {
    let len = data.len();
    let mut pair = Pair::new(data);
    for round in 0..4 {
        pair.mix(data, round * 32, round * 32 + 16, round * 32);
    }
    (pair.low, pair.high) = (avalanche(pair.low), avalanche(pair.high));
    for round in 4..len / 32 {
        pair.mix(data, round * 32, round * 32 + 16, 3 + (round - 4) * 32);
    }
    pair.mix(data, len - 16, len - 32, SECRET_MIN - 17 - 16);
    pair.finish(len)
}

fn accumulate(sums: &mut [u64; 8], stripe: &[u8], key: usize) {
    for lane in 0..8 {
        let value = word(stripe, lane * 8);
        let keyed = value ^ word(&SECRET, key + lane * 8);
        sums[lane ^ 1] = sums[lane ^ 1].wrapping_add(value);
        sums[lane] = sums[lane].wrapping_add((keyed & 0xFFFF_FFFF).wrapping_mul(keyed >> 32));
    }
}

fn merge(sums: &[u64; 8], key: usize, start: u64) -> u64 {
    let folded = (0..4).map(|n| {
        let at = key + n * 16;
        fold(sums[n * 2] ^ word(&SECRET, at), sums[n * 2 + 1] ^ word(&SECRET, at + 8))
    });
    avalanche(folded.fold(start, u64::wrapping_add))
}

fn long(data: &[u8]) -> u128 {
    let len = data.len();
    let mut sums =
        [PRIME32[2], PRIME64[0], PRIME64[1], PRIME64[2], PRIME64[3], PRIME32[1], PRIME64[4], PRIME32[0]];
    // The last stripe is always the last 64 bytes, whatever was taken in before.
    let (stripes, _) = data[..len - 1].as_chunks::<STRIPE>();
    let whole = (len - 1) / (STRIPE * STRIPES_PER_BLOCK) * STRIPES_PER_BLOCK;
    for (number, stripe) in stripes.iter().enumerate() {
        let place = number % STRIPES_PER_BLOCK;
        accumulate(&mut sums, stripe, place * 8);
        if place + 1 == STRIPES_PER_BLOCK && number < whole {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let mixed = *sum ^ (*sum >> 47) ^ word(&SECRET, SECRET.len() - STRIPE + lane * 8);
                *sum = mixed.wrapping_mul(PRIME32[0]);
            }
        }
    }
    accumulate(&mut sums, &data[len - STRIPE..], SECRET.len() - STRIPE - 7);
    let low = merge(&sums, 11, (len as u64).wrapping_mul(PRIME64[0]));
    let high = merge(&sums, SECRET.len() - STRIPE - 11, !(len as u64).wrapping_mul(PRIME64[1]));
    join(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The tables' own library is the other opinion: `tree::tests` compares every length of a page with it.
    #[test]
    fn every_bit_of_the_input_counts() {
        for len in [17, 32, 33, 128, 129, 200, 240, 241, 1024, 1025, 2048, 4096] {
            let mut data: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
            let sum = checksum(&data);
            for at in [0, 1, 15, 16, len / 2, len - 17, len - 1] {
                data[at] ^= 4;
                assert_ne!(checksum(&data), sum, "byte {at} of {len}");
                data[at] ^= 4;
            }
            assert_eq!(checksum(&data), sum);
        }
        assert_eq!(checksum(&[0; 16]), None);
    }
}
