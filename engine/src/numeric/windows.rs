//! Codes that share bits: each value is a window of a word, and neighbouring windows overlap. Decoding is a shift and a mask.
//!
//! *Words*: 16 bits are 7 values of 3 bits at shifts 13, 11, 9, 6, 4, 2 and 0. *Bytes*: a byte is mapped to 15 bits by
//! ⌊byte·scale + zero + ½⌋, which are 4 values of 6 bits at shifts 9, 6, 3 and 0. Both as in `FastDeploy`.

use crate::numeric::vector::{Loops, vectorised};

/// Values of a word.
pub const IN_WORD: usize = 7;
/// Where their windows begin.
const WORD_SHIFTS: [u32; IN_WORD] = [13, 11, 9, 6, 4, 2, 0];
/// The middle of a window of 3 bits.
const WORD_MIDDLE: f32 = 4.0;
/// Values of a byte.
pub const IN_BYTE: usize = 4;
/// Where their windows begin.
const BYTE_SHIFTS: [u32; IN_BYTE] = [9, 6, 3, 0];
/// The middle of a window of 6 bits.
const BYTE_MIDDLE: f32 = 32.0;

/// The scale and zero of the map of bytes that leaves least of normal values among those tried: 0.1115 of their squares.
pub const BYTE_MAP: [f32; 2] = [121.0, 68.0];

/// Value of a window of 3 bits: −4 to 3.
pub fn level_of_three(window: u16) -> f32 {
    f32::from(window & 7) - WORD_MIDDLE
}

/// The values of a word, −4 to 3 each.
pub fn word_levels(word: u16) -> [f32; IN_WORD] {
    WORD_SHIFTS.map(|shift| level_of_three(word >> shift))
}

/// The window of 3 bits nearest to a value.
pub fn nearest_of_three(value: f32) -> u16 {
    (value.round_ties_even() + WORD_MIDDLE).clamp(0.0, 7.0) as u16
}

/// The word whose values are nearest to up to seven; those that are missing or NaN may be anything.
///
/// Windows that overlap share a bit, the last of one and the first of the next, so the best word for the values so far is
/// known for either state of that bit: exact, as by Viterbi, in 56 comparisons. Of equal ones the least window.
pub fn nearest_word(values: &[f32]) -> u16 {
    let mut costs = [0.0_f32; 2];
    let mut chosen = [[0_u16; 2]; IN_WORD];
    for at in 0..IN_WORD {
        let is_shared = at > 0 && WORD_SHIFTS[at - 1] - WORD_SHIFTS[at] == 2;
        let before = if at == 0 { [0.0; 2] } else { costs };
        let least = before[0].min(before[1]);
        costs = [f32::INFINITY; 2];
        for window in 0..8_u16 {
            let value = values.get(at).filter(|value| !value.is_nan());
            let off = value.map_or(0.0, |value| value - level_of_three(window));
            let from = if is_shared { before[usize::from(window >> 2)] } else { least };
            let (cost, last) = (from + off * off, usize::from(window & 1));
            if cost < costs[last] {
                (costs[last], chosen[at][last]) = (cost, window);
            }
        }
        if at + 1 < IN_WORD && WORD_SHIFTS[at] - WORD_SHIFTS[at + 1] != 2 && costs[1] < costs[0] {
            // What follows shares nothing: the better state is kept for both.
            chosen[at][0] = chosen[at][1];
        }
    }
    let mut last = usize::from(costs[1] < costs[0]);
    let mut word = 0;
    for at in (0..IN_WORD).rev() {
        let window = chosen[at][last];
        word |= window << WORD_SHIFTS[at];
        let is_shared = at > 0 && WORD_SHIFTS[at - 1] - WORD_SHIFTS[at] == 2;
        last = if is_shared { usize::from(window >> 2) } else { 0 };
    }
    word
}

/// The values of a byte under a map of scale and zero, −32 to 31 each.
pub fn byte_levels(byte: u8, [scale, zero]: [f32; 2]) -> [f32; IN_BYTE] {
    let mapped = (f32::from(byte) * scale + zero + 0.5).floor() as i32;
    BYTE_SHIFTS.map(|shift| (mapped >> shift & 63) as f32 - BYTE_MIDDLE)
}

/// The values of all bytes under a map.
pub struct ByteTable {
    levels: [[f32; 256]; IN_BYTE],
    squares: [f32; 256],
}

impl ByteTable {
    /// The table of a map of scale and zero.
    pub fn new(map: [f32; 2]) -> Self {
        let mut table = Self { levels: [[0.0; 256]; IN_BYTE], squares: [0.0; 256] };
        for byte in 0..=u8::MAX {
            let at = usize::from(byte);
            for (i, level) in byte_levels(byte, map).into_iter().enumerate() {
                table.levels[i][at] = level;
                table.squares[at] += level * level;
            }
        }
        table
    }

    /// The byte whose values are nearest to up to four, those that are missing taken for zero; the first of equals. Those that
    /// are NaN may be anything.
    pub fn nearest(&self, values: &[f32]) -> u8 {
        if values.iter().any(|value| value.is_nan()) {
            return self.nearest_in_part(values);
        }
        let of = |i: usize| values.get(i).copied().unwrap_or(0.0);
        vectorised(Nearest { table: self, at: [of(0), of(1), of(2), of(3)] })
    }

    /// The same by the values that count alone.
    fn nearest_in_part(&self, values: &[f32]) -> u8 {
        let off = |byte: u8| -> f32 {
            let counted = values.iter().zip(&self.levels).filter(|(value, _)| !value.is_nan());
            counted.map(|(value, levels)| (value - levels[usize::from(byte)]).powi(2)).sum()
        };
        let least = |a: (u8, f32), b: (u8, f32)| if b.1 < a.1 { b } else { a };
        let all = (0..=u8::MAX).map(|byte| (byte, off(byte)));
        all.reduce(least).map_or(0, |(byte, _)| byte)
    }
}

struct Nearest<'a> {
    table: &'a ByteTable,
    at: [f32; IN_BYTE],
}

impl Loops for Nearest<'_> {
    type Found = u8;

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) -> u8 {
        let ([a, b, c, d], [x, y, z, w]) = (&self.table.levels, self.at);
        let mut scores = [0.0_f32; 256];
        for (i, score) in scores.iter_mut().enumerate() {
            let product = x * a[i] + y * b[i] + z * c[i] + w * d[i];
            *score = self.table.squares[i] - 2.0 * product;
        }
        let mut least = scores[0];
        for &score in &scores {
            least = if score < least { score } else { least };
        }
        scores.iter().position(|&score| score == least).unwrap_or(0) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    #[test]
    fn the_nearest_word_is_that_of_trying_all() {
        let mut random = Random::new(3);
        for n in [7, 7, 7, 7, 7, 7, 3, 1, 5] {
            let values: Vec<f32> = (0..n).map(|_| 2.0 * random.normal() as f32).collect();
            let off = |word: u16| -> f32 {
                word_levels(word).iter().zip(&values).map(|(l, v)| (l - v) * (l - v)).sum()
            };
            let least = (0..=u16::MAX).map(off).fold(f32::INFINITY, f32::min);
            let found = off(nearest_word(&values));
            assert!(found <= least * 1.000_01, "{n} values: {found}, not {least}");
        }
    }

    #[test]
    fn all_words_differ_in_their_values() {
        let key = |word: u16| word_levels(word).map(|level| (level + 4.0) as u8);
        let all: std::collections::BTreeSet<_> = (0..=u16::MAX).map(key).collect();
        assert_eq!(all.len(), 65536);
    }

    /// What the notes measured by numpy over all words and bytes, and Shannon's bounds.
    #[test]
    fn normal_values_are_as_far_off_as_known() {
        let mut random = Random::new(1);
        let values: Vec<f32> = (0..420_000).map(|_| random.normal() as f32).collect();
        let n = values.len() as f64;
        let squares = |at: &[f32], levels: &[f32], step: f32| -> f64 {
            at.iter().zip(levels).map(|(v, l)| f64::from(v - step * l).powi(2)).sum()
        };
        let scaled = |at: &[f32], step: f32| at.iter().map(|v| v / step).collect::<Vec<f32>>();
        let words = values.chunks(IN_WORD).map(|at| {
            let word = nearest_word(&scaled(at, 0.52));
            squares(at, &word_levels(word), 0.52)
        });
        let words = words.sum::<f64>() / n;
        assert!((words / 0.100 - 1.0).abs() < 0.01, "{words}");
        assert!(words > (-2.0_f64 * 16.0 / 7.0).exp2());
        let table = ByteTable::new(BYTE_MAP);
        let bytes = values.chunks(IN_BYTE).map(|at| {
            let byte = table.nearest(&scaled(at, 0.062));
            squares(at, &byte_levels(byte, BYTE_MAP), 0.062)
        });
        let bytes = bytes.sum::<f64>() / n;
        assert!((bytes / 0.112 - 1.0).abs() < 0.01, "{bytes}");
        assert!(bytes > 1.0 / 16.0);
    }
}
