//! Frames on a serial line: where each begins and ends, its number, and whether it arrived as it was sent.
//!
//! A frame is COBS (consistent overhead byte stuffing) between two zero bytes, and inside it a number, a check and one
//! datagram. Decides which bytes are a frame. Does not know what a datagram says: who sent it is shown by its own code
//! alone; the check only tells noise from forgery. Invariants: nothing that comes over the line costs more than the
//! frames it touches; nothing is kept beyond the longest frame.

/// Longest datagram in a frame: its COBS needs no block of full length.
pub(super) const DATAGRAM_BYTES_MAX: usize = CONTENT_BYTES_MAX - HEAD_BYTES;
const CONTENT_BYTES_MAX: usize = 253;
const ENCODED_BYTES_MAX: usize = CONTENT_BYTES_MAX + 1;
const NUMBER_BYTES: usize = 2;
const HEAD_BYTES: usize = NUMBER_BYTES + 4;

/// What stood between two zero bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Whole { number: u16, datagram: Vec<u8> },
    Damaged,
}

fn check(number: [u8; NUMBER_BYTES], datagram: &[u8]) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    let hash = *hasher.update(&number).update(datagram).finalize().as_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// The frame of `datagram`, from zero byte to zero byte; `None`: it is too long.
pub(super) fn encode(number: u16, datagram: &[u8]) -> Option<Vec<u8>> {
    if datagram.len() > DATAGRAM_BYTES_MAX {
        return None;
    }
    let number = number.to_le_bytes();
    let check = check(number, datagram);
    // The first zero ends whatever garbage stands on the line.
    let mut out = vec![0, 0];
    let mut code_at = 1;
    for byte in number.iter().chain(&check).chain(datagram) {
        if *byte == 0 {
            out[code_at] = u8::try_from(out.len() - code_at).ok()?;
            code_at = out.len();
        }
        out.push(*byte);
    }
    out[code_at] = u8::try_from(out.len() - code_at).ok()?;
    out.push(0);
    Some(out)
}

fn decode(encoded: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut content = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let [code, tail @ ..] = rest {
        let (run, after) = tail.split_at_checked(usize::from(*code).checked_sub(1)?)?;
        content.extend_from_slice(run);
        if !after.is_empty() {
            content.push(0);
        }
        rest = after;
    }
    let (number, rest) = content.split_first_chunk::<NUMBER_BYTES>()?;
    let (said, datagram) = rest.split_first_chunk::<4>()?;
    (*said == check(*number, datagram)).then(|| (u16::from_le_bytes(*number), datagram.to_vec()))
}

/// Finds the frames among the bytes of a line.
pub(super) struct Deframer {
    buffer: [u8; ENCODED_BYTES_MAX],
    len: usize,
    /// What stands here belongs to a frame that is too long.
    skipping: bool,
}

impl Default for Deframer {
    fn default() -> Deframer {
        Deframer { buffer: [0; ENCODED_BYTES_MAX], len: 0, skipping: false }
    }
}

impl Deframer {
    /// The next byte of the line; the frame that ends with it.
    pub(super) fn push(&mut self, byte: u8) -> Option<Frame> {
        if byte != 0 {
            let overlong = self.len == ENCODED_BYTES_MAX;
            if overlong {
                (self.len, self.skipping) = (0, true);
            }
            self.buffer[self.len] = byte;
            self.len += 1;
            return overlong.then_some(Frame::Damaged);
        }
        let (len, skipped) = (std::mem::take(&mut self.len), std::mem::take(&mut self.skipping));
        if len == 0 || skipped {
            return None;
        }
        Some(match decode(&self.buffer[..len]) {
            Some((number, datagram)) => Frame::Whole { number, datagram },
            None => Frame::Damaged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SerialLine;
    use crate::wire::HEARTBEAT_BYTES;

    fn frames(bytes: impl IntoIterator<Item = u8>) -> Vec<Frame> {
        let mut deframer = Deframer::default();
        bytes.into_iter().filter_map(|byte| deframer.push(byte)).collect()
    }

    fn whole(frames: &[Frame]) -> Vec<&[u8]> {
        let whole = frames.iter().filter_map(|frame| match frame {
            Frame::Whole { datagram, .. } => Some(datagram.as_slice()),
            Frame::Damaged => None,
        });
        whole.collect()
    }

    /// Numbers without pattern, the same in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % bound
        }

        fn bytes(&mut self, len: usize) -> Vec<u8> {
            // Zeros are what the encoding is about.
            (0..len)
                .map(|_| if self.below(3) == 0 { 0 } else { u8::try_from(self.below(256)).unwrap() })
                .collect()
        }
    }

    #[test]
    fn every_datagram_comes_back_and_no_frame_holds_a_zero_inside() {
        let mut dice = Dice(1);
        for len in 0..=DATAGRAM_BYTES_MAX {
            for datagram in [vec![0; len], vec![255; len], dice.bytes(len)] {
                let number = u16::try_from(dice.below(65_536)).unwrap();
                let frame = encode(number, &datagram).unwrap();
                assert_eq!(frame.len(), len + HEAD_BYTES + 3);
                assert!(frame[1..frame.len() - 1].iter().all(|byte| *byte != 0), "{frame:?}");
                assert_eq!(frames(frame), [Frame::Whole { number, datagram }]);
            }
        }
        assert_eq!(encode(1, &[1; DATAGRAM_BYTES_MAX + 1]), None);
        let heartbeat = encode(1, &[1; HEARTBEAT_BYTES]).unwrap();
        assert!(heartbeat.len() <= SerialLine::FRAME_BYTES_MAX, "{}", heartbeat.len());
    }

    #[test]
    fn a_cut_a_joint_or_a_flipped_bit_costs_only_the_frame_it_is_in() {
        let sent: Vec<Vec<u8>> = (0..3).map(|n| vec![n * 2; 121]).collect();
        let frame: Vec<Vec<u8>> = sent.iter().map(|datagram| encode(7, datagram).unwrap()).collect();
        let (first, last) = (sent[0].as_slice(), sent[2].as_slice());
        for at in 1..frame[1].len() - 1 {
            // The rest of a cable that was plugged in in the middle, and a frame that was cut off.
            let late = frames(frame[0][at + 1..].iter().chain(&frame[1]).copied());
            assert_eq!(whole(&late), [sent[1].as_slice()], "from {at}");
            let cut = [&frame[0], &frame[1][..at], &frame[2]].map(|part| part.iter().copied());
            assert_eq!(whole(&frames(cut.into_iter().flatten())), [first, last], "cut at {at}");
            for bit in 0..8 {
                let mut hurt = frame[1].clone();
                hurt[at] ^= 1 << bit;
                let joined = [&frame[0], &hurt, &frame[2]].map(|part| part.iter().copied());
                assert_eq!(whole(&frames(joined.into_iter().flatten())), [first, last], "{at}.{bit}");
            }
        }
    }

    /// Two hundred thousand lines of garbage, cut, joined and flipped frames: what comes out was sent, and whatever is
    /// left alone comes out.
    #[test]
    fn no_garbage_invents_a_frame_or_swallows_the_one_behind_it() {
        let mut dice = Dice(2);
        let mut deframer = Deframer::default();
        for round in 0..200_000_u32 {
            let datagram = round.to_le_bytes().repeat(1 + dice.below(30));
            let frame = encode(9, &datagram).unwrap();
            let mut line = match dice.below(5) {
                0 => frame[..dice.below(frame.len() - 1)].to_vec(),
                1 => frame[2 + dice.below(frame.len() - 2)..].to_vec(),
                2 => {
                    let mut hurt = frame.clone();
                    // A zero byte at the end, flipped, joins the next frame's first one: that is no damage.
                    let at = 1 + dice.below(frame.len() - 2);
                    hurt[at] ^= 1 << dice.below(8);
                    hurt
                }
                3 => {
                    let len = dice.below(600);
                    dice.bytes(len)
                }
                _ => vec![0x55; dice.below(2_000)],
            };
            let good = encode(10, &datagram).unwrap();
            line.extend_from_slice(&good);
            let got: Vec<Frame> = line.into_iter().filter_map(|byte| deframer.push(byte)).collect();
            assert_eq!(got.last(), Some(&Frame::Whole { number: 10, datagram: datagram.clone() }), "{round}");
            let whole = whole(&got);
            assert_eq!(whole.len(), 1, "{round}: {whole:?}");
        }
    }

    #[test]
    fn endless_garbage_is_told_and_not_kept() {
        let told = frames(std::iter::repeat_n(0x55, 100_000));
        assert_eq!(told, vec![Frame::Damaged; (100_000 - 1) / ENCODED_BYTES_MAX]);
    }
}
