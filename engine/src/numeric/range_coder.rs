//! Range coding: choices of known probability into as many bits as they are worth, and back.
//!
//! State: an interval `[low, low + range)` of numbers of 64 bits, at first all of them but the last. A choice that has `size` of
//! 2ᵇ shares, `start` of them before it, leaves `start·r … (start + size)·r` of the interval, r = ⌊range/2ᵇ⌋. Whenever
//! range < 2³², the upper four bytes of low are written, high byte first, and both are multiplied by 2³². The end is
//! the number in the interval with the most zero bytes behind, and zero bytes at the end of all are left out: they are
//! read beyond it. After Martin, Range encoding, 1979; with b ≤ 16 rounding costs less than 2⁻¹⁵ of a bit a choice.

use std::sync::OnceLock;

/// Bits of a probability of [`Bit`].
const CHANCE_BITS: u32 = 22;
/// Bits of the shares that it is coded with.
const SHARE_BITS: u32 = 16;
/// The least share of a bit.
const LEAST: u32 = 8;
/// Bits seen after which probabilities follow with 1/(n + 3/2), n no longer growing.
const SLOWEST: u16 = 1023;
/// Shares with one price.
const PRICE_SHIFT: u32 = 4;

/// A bit whose probability is learnt from those before it: (ones + ¼)/(all + ½) for the first 1023, then with a memory of about
/// 1024.
#[derive(Clone, Copy, Debug)]
pub struct Bit {
    /// The probability of 1, in 2⁻²².
    chance: u32,
    seen: u16,
}

impl Default for Bit {
    fn default() -> Self {
        Self { chance: 1 << (CHANCE_BITS - 1), seen: 0 }
    }
}

impl Bit {
    /// The shares of 1, of 2¹⁶.
    fn share(self) -> u32 {
        (self.chance >> (CHANCE_BITS - SHARE_BITS)).clamp(LEAST, (1 << SHARE_BITS) - LEAST)
    }

    /// What it costs to be `bit`, in bits.
    pub fn price(self, bit: bool) -> f32 {
        let share = if bit { self.share() } else { (1 << SHARE_BITS) - self.share() };
        prices()[(share >> PRICE_SHIFT) as usize]
    }

    /// Learns `bit`.
    pub fn learn(&mut self, bit: bool) {
        let weight = (2 << 16) / (2 * u64::from(self.seen) + 3);
        let part = |of: u32| ((u64::from(of) * weight) >> 16) as u32;
        if bit {
            self.chance += part((1 << CHANCE_BITS) - self.chance);
        } else {
            self.chance -= part(self.chance);
        }
        self.seen = (self.seen + 1).min(SLOWEST);
    }
}

/// −log₂ of the middle of every run of 16 shares.
fn prices() -> &'static [f32] {
    static PRICES: OnceLock<Vec<f32>> = OnceLock::new();
    PRICES.get_or_init(|| {
        let all = 1_u32 << (SHARE_BITS - PRICE_SHIFT);
        (0..=all).map(|i| -libm::log2((f64::from(i) + 0.5) / f64::from(all)) as f32).collect()
    })
}

/// Choices to bytes.
#[derive(Debug)]
pub struct Encoder {
    low: u64,
    range: u64,
    bytes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { low: 0, range: u64::MAX, bytes: Vec::new() }
    }
}

impl Encoder {
    /// Writes the choice with shares `start .. start + size` of 2^`bits`; `bits` up to 16, `size` not 0.
    pub fn choose(&mut self, start: u32, size: u32, bits: u32) {
        self.choose_each([(start, size)].into_iter(), bits);
    }

    /// [`Self::choose`] of each in turn, `(start, size)`.
    #[inline]
    pub fn choose_each(&mut self, choices: impl Iterator<Item = (u32, u32)>, bits: u32) {
        let (mut low, mut range) = (self.low, self.range);
        for (start, size) in choices {
            let part = range >> bits;
            let (above, carry) = low.overflowing_add(part * u64::from(start));
            if carry {
                self.carry();
            }
            (low, range) = (above, part * u64::from(size));
            // Once is enough: the range was 2³² at least, so 2¹⁶ of it are left.
            if range < 1 << 32 {
                self.bytes.extend_from_slice(&((low >> 32) as u32).to_be_bytes());
                low <<= 32;
                range <<= 32;
            }
        }
        (self.low, self.range) = (low, range);
    }

    /// Writes the lowest `bits` bits of `value`, up to 16, each as likely 0 as 1.
    pub fn raw(&mut self, value: u32, bits: u32) {
        self.choose(value, 1, bits);
    }

    /// Writes a bit and learns it.
    pub fn bit(&mut self, model: &mut Bit, bit: bool) {
        let share = model.share();
        let (start, size) = if bit { (0, share) } else { (share, (1 << SHARE_BITS) - share) };
        self.choose(start, size, SHARE_BITS);
        model.learn(bit);
    }

    #[cold]
    fn carry(&mut self) {
        for byte in self.bytes.iter_mut().rev() {
            let (next, carry) = byte.overflowing_add(1);
            *byte = next;
            if !carry {
                return;
            }
        }
    }

    /// Room for what is to come, so that it need not be moved.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// All bytes.
    pub fn finish(mut self) -> Vec<u8> {
        let (low, range) = (u128::from(self.low), u128::from(self.range));
        let rounded = |kept: u32| {
            let rest = (1_u128 << (64 - 8 * kept)) - 1;
            (low + rest) & !rest
        };
        // With all eight bytes kept it is low itself.
        let kept = (0..=8).find(|&kept| rounded(kept) < low + range).unwrap_or(8);
        let end = rounded(kept);
        if end >> 64 != 0 {
            self.carry();
        }
        self.bytes.extend_from_slice(&(end as u64).to_be_bytes()[..kept as usize]);
        while self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
        self.bytes
    }
}

/// Bytes to choices. Any bytes can be read: what was not written so is found by [`Decoder::is_whole`] or by what follows.
#[derive(Debug)]
pub struct Decoder<'a> {
    /// The number read so far, less low.
    code: u64,
    range: u64,
    bytes: &'a [u8],
    /// Bytes read, zeros beyond the end too.
    read: usize,
    /// Whether the number has always been in the interval.
    is_within: bool,
}

impl<'a> Decoder<'a> {
    /// Reads what [`Encoder`] wrote.
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { code: 0, range: u64::MAX, bytes, read: 0, is_within: true };
        decoder.code = u64::from(decoder.word()) << 32 | u64::from(decoder.word());
        decoder
    }

    fn word(&mut self) -> u32 {
        let at = self.read;
        self.read += 4;
        let byte = |i: usize| self.bytes.get(at + i).copied().unwrap_or(0);
        u32::from_be_bytes([byte(0), byte(1), byte(2), byte(3)])
    }

    /// Which of 2^`bits` shares comes next; must be followed by [`Self::take`].
    pub fn share(&self, bits: u32) -> u32 {
        (self.code / (self.range >> bits)).min((1 << bits) - 1) as u32
    }

    /// Passes over the choice with these shares.
    pub fn take(&mut self, start: u32, size: u32, bits: u32) {
        let part = self.range >> bits;
        self.code = self.code.wrapping_sub(part * u64::from(start));
        self.range = part * u64::from(size);
        self.is_within &= self.code < self.range;
        while self.range < 1 << 32 {
            self.code = self.code << 32 | u64::from(self.word());
            self.range <<= 32;
        }
    }

    /// Reads `bits` bits, up to 16, each as likely 0 as 1.
    pub fn raw(&mut self, bits: u32) -> u32 {
        let value = self.share(bits);
        self.take(value, 1, bits);
        value
    }

    /// Reads a bit and learns it.
    pub fn bit(&mut self, model: &mut Bit) -> bool {
        let share = model.share();
        let bit = self.code < (self.range >> SHARE_BITS) * u64::from(share);
        let (start, size) = if bit { (0, share) } else { (share, (1 << SHARE_BITS) - share) };
        self.take(start, size, SHARE_BITS);
        model.learn(bit);
        bit
    }

    /// Whether all that was read can have been written, and all bytes were read, none of them a zero at the end.
    pub fn is_whole(&self) -> bool {
        self.is_within && self.bytes.len() <= self.read && self.bytes.last() != Some(&0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    /// −Σ log₂ p of independent bits, of `ones` in a thousand.
    fn bits_of(ones: u64, n: usize) -> (f64, Vec<bool>) {
        let mut random = Random::new(ones);
        let bits: Vec<bool> = (0..n).map(|_| (random.bits() % 1000) < ones).collect();
        let p = bits.iter().filter(|&&bit| bit).count() as f64 / n as f64;
        let entropy = -(p * p.log2() + (1.0 - p) * (1.0 - p).log2());
        (entropy * n as f64, bits)
    }

    #[test]
    fn learnt_bits_cost_their_entropy_and_come_back() {
        for ones in [1, 30, 200, 500, 970] {
            let (entropy, bits) = bits_of(ones, 200_000);
            let (mut encoder, mut model) = (Encoder::default(), Bit::default());
            let mut prices = 0.0;
            for &bit in &bits {
                prices += f64::from(model.price(bit));
                encoder.bit(&mut model, bit);
            }
            let bytes = encoder.finish();
            let coded = bytes.len() as f64 * 8.0;
            assert!((coded - prices).abs() < 0.01 * coded + 64.0, "{ones}: {coded}, {prices}");
            // A memory of 1024 bits costs 1/(4·1024·ln 2) a bit, and rare ones more.
            let most = entropy * 1.005 + 0.0006 * bits.len() as f64;
            assert!(coded > entropy * 0.999 - 64.0 && coded < most, "{ones}: {coded} of {entropy}");
            let (mut decoder, mut model) = (Decoder::new(&bytes), Bit::default());
            assert!(bits.iter().all(|&bit| decoder.bit(&mut model) == bit), "{ones}");
            assert!(decoder.is_whole(), "{ones}");
        }
    }

    /// Shares of 1 of 65,536 at the top of the interval bring carries through many bytes.
    #[test]
    fn carries_run_back_as_far_as_they_must() {
        let mut random = Random::new(9);
        let choices: Vec<(u32, u32)> = (0..30_000)
            .map(|i| match i % 7 {
                0 => ((random.bits() % 65_536) as u32, 1),
                1 => (0, 65_535),
                _ => (1, 65_535),
            })
            .collect();
        let mut encoder = Encoder::default();
        for &(start, size) in &choices {
            encoder.choose(start, size, 16);
        }
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes);
        for &(start, size) in &choices {
            assert!((start..start + size).contains(&decoder.share(16)));
            decoder.take(start, size, 16);
        }
        assert!(decoder.is_whole());
        let longer = [bytes.as_slice(), &[1; 9]].concat();
        let mut decoder = Decoder::new(&longer);
        for &(start, size) in &choices {
            decoder.take(start, size, 16);
        }
        assert!(!decoder.is_whole(), "bytes nobody read");
    }

    #[test]
    fn nothing_is_no_byte_and_any_bytes_can_be_read() {
        assert!(Encoder::default().finish().is_empty());
        let mut random = Random::new(3);
        for n in 0..40 {
            let bytes: Vec<u8> = (0..n).map(|_| (random.bits() % 256) as u8).collect();
            let (mut decoder, mut model) = (Decoder::new(&bytes), Bit::default());
            for _ in 0..200 {
                decoder.bit(&mut model);
                decoder.raw(16);
                let share = decoder.share(12);
                decoder.take(share & !1, 2, 12);
            }
        }
    }
}
