//! The entropy coder: a binary range coder with adaptive probabilities, and beside it bits stored as they are.
//!
//! Both directions implement [`Coder`], so that what is coded is written down once: an encoder takes the bits it is
//! given, a decoder ignores them and returns the file's.

/// Updates after which a probability adapts no slower.
const MAX_UPDATES: usize = 1022;
/// Step towards the last bit after so many updates, in 1/2^16: the mean of all bits so far and one half.
const RATE: [u32; MAX_UPDATES + 1] = {
    let mut rate = [0; MAX_UPDATES + 1];
    let mut n = 0;
    while n <= MAX_UPDATES {
        rate[n] = 65_536 / (n as u32 + 2);
        n += 1;
    }
    rate
};

/// An adaptive probability that a bit is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bit {
    /// In 1/2^32.
    one: u32,
    updates: u16,
}

impl Bit {
    pub(super) const NEW: Self = Self { one: 1 << 31, updates: 0 };

    /// The part of `range` that stands for a set bit, in 1..range.
    fn bound(self, range: u64) -> u64 {
        (range >> 16) * u64::from(self.one >> 16).max(1)
    }

    fn update(&mut self, bit: bool) {
        let rate = u64::from(RATE[usize::from(self.updates)]);
        let step = |distance: u32| ((u64::from(distance) * rate) >> 16) as u32;
        self.one = if bit { self.one + step(!self.one) } else { self.one - step(self.one) };
        self.updates = (self.updates + 1).min(MAX_UPDATES as u16);
    }
}

/// One direction of the coder.
pub(super) trait Coder {
    /// One bit under an adaptive probability.
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool;

    /// The lowest `count` of up to 32 bits, stored as they are.
    fn raw(&mut self, count: u32, bits: u32) -> u32;

    /// A number as that many set bits and one that is not; bit `k` has the model `min(k, last)`. A decoder stops at
    /// `limit`, which no valid number exceeds.
    fn unary(&mut self, models: &mut [Bit], number: u32, limit: u32) -> u32 {
        let mut k = 0;
        while k <= limit && self.bit(&mut models[(k as usize).min(models.len() - 1)], k < number) {
            k += 1;
        }
        k
    }

    /// The lowest `count` bits of `bits`, highest first; each has a model by the bits before it: `models[prefix]`,
    /// where the prefix begins with 1.
    fn tree(&mut self, models: &mut [Bit], count: u32, bits: u32) -> u32 {
        let mut prefix = 1;
        for k in (0..count).rev() {
            let bit = self.bit(&mut models[prefix as usize], bits >> k & 1 == 1);
            prefix = prefix << 1 | u32::from(bit);
        }
        prefix ^ (1 << count)
    }
}

/// Collects the two streams.
#[derive(Debug)]
pub(super) struct Encoder {
    low: u64,
    range: u64,
    words: Vec<u32>,
    raw: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { low: 0, range: u64::MAX, words: Vec::new(), raw: Vec::new(), pending: 0, pending_bits: 0 }
    }

    fn add(&mut self, distance: u64) {
        let (low, carry) = self.low.overflowing_add(distance);
        self.low = low;
        if carry {
            for word in self.words.iter_mut().rev() {
                *word = word.wrapping_add(1);
                if *word != 0 {
                    break;
                }
            }
        }
    }

    /// The words of the range coder and the bytes stored as they are.
    pub(super) fn finish(mut self) -> (Vec<u32>, Vec<u8>) {
        // Of the numbers in the last interval, the one with the most zeros, which need no storing.
        self.add((1 << 32) - 1);
        self.words.push((self.low >> 32) as u32);
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        let bytes = self.pending_bits.div_ceil(8) as usize;
        self.raw.extend(&self.pending.to_le_bytes()[..bytes]);
        (self.words, self.raw)
    }
}

impl Coder for Encoder {
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool {
        let bound = model.bound(self.range);
        if bit {
            self.range = bound;
        } else {
            self.add(bound);
            self.range -= bound;
        }
        model.update(bit);
        if self.range >> 32 == 0 {
            self.words.push((self.low >> 32) as u32);
            self.low <<= 32;
            self.range <<= 32;
        }
        bit
    }

    fn raw(&mut self, count: u32, bits: u32) -> u32 {
        let bits = (u64::from(bits) & ((1 << count) - 1)) as u32;
        self.pending |= u64::from(bits) << self.pending_bits;
        self.pending_bits += count;
        if self.pending_bits >= 32 {
            self.raw.extend((self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.pending_bits -= 32;
        }
        bits
    }
}

/// Reads the two streams; past their ends it reads zeros, which [`Decoder::finish`] tells.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    value: u64,
    range: u64,
    words: std::slice::Iter<'a, [u8; 4]>,
    raw: &'a [u8],
    /// Next bit of `raw`.
    position: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(words: &'a [[u8; 4]], raw: &'a [u8]) -> Self {
        let mut decoder = Self { value: 0, range: u64::MAX, words: words.iter(), raw, position: 0 };
        for _ in 0..2 {
            decoder.value = decoder.value << 32 | decoder.word();
        }
        decoder
    }

    fn word(&mut self) -> u64 {
        self.words.next().map_or(0, |word| u32::from_le_bytes(*word).into())
    }

    /// Whether both streams were read to their ends, and no further.
    pub(super) fn finish(self) -> bool {
        self.words.len() == 0 && self.position.div_ceil(8) == self.raw.len()
    }
}

impl Coder for Decoder<'_> {
    #[inline]
    fn bit(&mut self, model: &mut Bit, _: bool) -> bool {
        let bound = model.bound(self.range);
        let bit = self.value < bound;
        if bit {
            self.range = bound;
        } else {
            self.value -= bound;
            self.range -= bound;
        }
        model.update(bit);
        if self.range >> 32 == 0 {
            self.value = self.value << 32 | self.word();
            self.range <<= 32;
        }
        bit
    }

    #[inline]
    fn raw(&mut self, count: u32, _: u32) -> u32 {
        let (byte, bit) = (self.position / 8, self.position % 8);
        let bytes = match self.raw.get(byte..byte + 8) {
            Some(bytes) => bytes.try_into().expect("eight bytes"),
            None => {
                let mut bytes = [0; 8];
                let rest = self.raw.get(byte..).unwrap_or_default();
                bytes[..rest.len()].copy_from_slice(rest);
                bytes
            }
        };
        self.position += count as usize;
        ((u64::from_le_bytes(bytes) >> bit) & ((1 << count) - 1)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence of coded things in either direction.
    fn code(coder: &mut impl Coder, bits: &[bool], raw: &[(u32, u32)]) -> (Vec<bool>, Vec<u32>, u32, u32) {
        let mut model = Bit::NEW;
        let bits = bits.iter().map(|bit| coder.bit(&mut model, *bit)).collect();
        let raw = raw.iter().map(|(count, bits)| coder.raw(*count, *bits)).collect();
        let number = coder.unary(&mut [Bit::NEW; 3], 9, 12);
        let tree = coder.tree(&mut [Bit::NEW; 16], 4, 0b1011);
        (bits, raw, number, tree)
    }

    fn noise(seed: u32) -> impl Iterator<Item = u32> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        })
    }

    #[test]
    fn a_decoder_gives_what_an_encoder_took() {
        for (seed, length, percent) in [(1, 0, 0), (2, 1, 50), (3, 20_000, 0), (4, 20_000, 3), (5, 20_000, 100)] {
            let bits: Vec<bool> = noise(seed).take(length).map(|n| n % 100 < percent).collect();
            let raw: Vec<(u32, u32)> = noise(seed + 9).take(200).map(|n| n % 33).map(|n| (n, 0x9876_5432)).collect();
            let mut encoder = Encoder::new();
            let given = code(&mut encoder, &bits, &raw);
            let (words, bytes) = encoder.finish();
            let words: Vec<[u8; 4]> = words.iter().map(|w| w.to_le_bytes()).collect();
            let mut decoder = Decoder::new(&words, &bytes);
            assert_eq!(code(&mut decoder, &bits, &raw), given);
            assert!(decoder.finish());
            assert_eq!((&given.0, given.2, given.3), (&bits, 9, 0b1011));
        }
    }

    /// A carry into words already written happens about once in 2^32; here it is forced.
    #[test]
    fn a_carry_runs_through_full_words() {
        let mut encoder = Encoder::new();
        encoder.words = vec![7, u32::MAX, u32::MAX];
        encoder.low = u64::MAX - 1;
        encoder.add(3);
        assert_eq!((encoder.words, encoder.low), (vec![8, 0, 0], 1));
    }

    /// The cost of bits of one probability is their entropy: here 2 % of 100,000, 0.1414 bits each.
    #[test]
    fn bits_cost_their_entropy() {
        let mut encoder = Encoder::new();
        let mut model = Bit::NEW;
        let mut set = 0;
        for n in noise(11).take(100_000) {
            set += u32::from(encoder.bit(&mut model, n % 1000 < 20));
        }
        let p = f64::from(set) / 1e5;
        let entropy = -1e5 * (p * p.log2() + (1.0 - p) * (1.0 - p).log2());
        let found = 32.0 * encoder.finish().0.len() as f64;
        assert!(found < 1.01 * entropy && found > 0.97 * entropy, "{found} bits, entropy {entropy}");
    }
}
