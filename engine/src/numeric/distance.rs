//! How far two matrices are apart.
//!
//! Sums are taken in pieces of [`PIECE`] values and the pieces added in order, so that whoever streams, on any
//! number of threads, finds the same bits as whoever holds the whole matrix.

use ndarray::ArrayView2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _};

use crate::numeric::vector::{Loops, vectorised};

/// Values summed before their sum is added to the others'.
pub const PIECE: usize = 1 << 18;

/// Partial sums of a piece, for the lanes of the processor: that of value i is in sum i mod 8.
const LANES: usize = 8;

/// Relative error ‖W − Ŵ‖_F / ‖W‖_F of two `[rows, cols]` matrices of one shape, summed in f64 in row-major order.
///
/// 0 where both are equal, also for a zero matrix; ∞ where only W is zero. Cost: one pass, on all threads.
pub fn relative_error(weights: ArrayView2<'_, f32>, decoded: ArrayView2<'_, f32>) -> f64 {
    let (weights, decoded) = (weights.as_standard_layout(), decoded.as_standard_layout());
    let (weights, decoded) = (weights.as_slice(), decoded.as_slice());
    let (weights, decoded) = (weights.unwrap_or_default(), decoded.unwrap_or_default());
    let pieces = weights.par_chunks(PIECE).zip(decoded.par_chunks(PIECE));
    let sums = pieces.map(|(weights, decoded)| {
        let mut sums = Squares::default();
        sums.add(weights, decoded);
        sums.finish()
    });
    relative_error_of(sums.collect::<Vec<_>>().into_iter().flatten())
}

/// The relative error of the sums of all pieces, in order: that of [`relative_error`] to the bit.
pub fn relative_error_of(pieces: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (error, norm) = pieces.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    ratio(error, norm)
}

/// Σ(w − ŵ)² and Σw² of pieces of [`PIECE`] values, which come in runs of any length, the first with the beginning of a
/// piece.
#[derive(Clone, Debug, Default)]
pub struct Squares {
    done: Vec<(f64, f64)>,
    error: [f64; LANES],
    norm: [f64; LANES],
    /// Values of the piece that has begun.
    held: usize,
}

impl Squares {
    /// Adds the next values. Cost: one pass.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&mut self, mut weights: &[f32], mut decoded: &[f32]) {
        assert_eq!(weights.len(), decoded.len(), "two sequences of one length");
        while !weights.is_empty() {
            let n = weights.len().min(PIECE - self.held);
            let ((w, rest_w), (d, rest_d)) = (weights.split_at(n), decoded.split_at(n));
            // Up to the first lane one by one, so that each value falls into the lane of its place in the piece.
            let (ahead, lane) = ((LANES - self.held % LANES) % LANES, self.held % LANES);
            let ahead = ahead.min(n);
            self.add_few((&w[..ahead], &d[..ahead]), lane);
            (self.error, self.norm) = vectorised(Lanes {
                pair: (&w[ahead..], &d[ahead..]),
                error: self.error,
                norm: self.norm,
            });
            let rest = (n - ahead) % LANES;
            self.add_few((&w[n - rest..], &d[n - rest..]), 0);
            self.held += n;
            if self.held == PIECE {
                self.end_piece();
            }
            (weights, decoded) = (rest_w, rest_d);
        }
    }

    fn add_few(&mut self, (weights, decoded): (&[f32], &[f32]), first_lane: usize) {
        for (i, (&w, &d)) in weights.iter().zip(decoded).enumerate() {
            let (w, d) = (f64::from(w), f64::from(d));
            self.error[first_lane + i] += (w - d) * (w - d);
            self.norm[first_lane + i] += w * w;
        }
    }

    fn end_piece(&mut self) {
        self.done.push((self.error.iter().sum(), self.norm.iter().sum()));
        (self.error, self.norm, self.held) = ([0.0; LANES], [0.0; LANES], 0);
    }

    /// The sums of each piece, the last of which may be shorter.
    pub fn finish(mut self) -> Vec<(f64, f64)> {
        if self.held > 0 {
            self.end_piece();
        }
        self.done
    }
}

/// Sums by lane of values that begin with the first lane; those behind the last whole eight are left out.
struct Lanes<'a> {
    pair: (&'a [f32], &'a [f32]),
    error: [f64; LANES],
    norm: [f64; LANES],
}

impl Loops for Lanes<'_> {
    type Found = ([f64; LANES], [f64; LANES]);

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) -> Self::Found {
        let (mut error, mut norm) = (self.error, self.norm);
        let (weights, decoded) =
            (self.pair.0.as_chunks::<LANES>().0, self.pair.1.as_chunks::<LANES>().0);
        for (w, d) in weights.iter().zip(decoded) {
            for i in 0..LANES {
                let (w, d) = (f64::from(w[i]), f64::from(d[i]));
                error[i] += (w - d) * (w - d);
                norm[i] += w * w;
            }
        }
        (error, norm)
    }
}

/// √(error / norm), 0 where there is no error.
fn ratio(error: f64, norm: f64) -> f64 {
    if error == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

/// What two sequences A and B of one length are apart by, as sums that can be added.
///
/// Pairs in which a value is NaN or infinite are counted, and left out of the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Σ(a − b)².
    pub error: f64,
    /// Σa².
    pub norm_a: f64,
    /// Σb².
    pub norm_b: f64,
    /// Σa·b.
    pub dot: f64,
    /// max |a − b|.
    pub max_abs: f64,
    /// Pairs of different values; −0 equals 0.
    pub changed: u64,
    /// Pairs of different bits; −0 differs from 0.
    pub changed_bits: u64,
    /// Values of A that are NaN or infinite.
    pub non_finite_a: u64,
    /// Values of B that are NaN or infinite.
    pub non_finite_b: u64,
}

impl Distance {
    /// Sums over one piece. Cost: one pass.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of_piece(a: &[f64], b: &[f64]) -> Self {
        assert_eq!(a.len(), b.len(), "two sequences of one length");
        let mut sums = Self::default();
        // In the lanes of [`relative_error`].
        let (mut errors, mut norms) = ([0.0; LANES], [0.0; LANES]);
        for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
            sums.changed_bits += u64::from(a.to_bits() != b.to_bits());
            if !(a.is_finite() && b.is_finite()) {
                sums.non_finite_a += u64::from(!a.is_finite());
                sums.non_finite_b += u64::from(!b.is_finite());
                continue;
            }
            let error = a - b;
            errors[i % LANES] += error * error;
            norms[i % LANES] += a * a;
            sums.norm_b += b * b;
            sums.dot += a * b;
            sums.max_abs = sums.max_abs.max(error.abs());
            sums.changed += u64::from(a != b);
        }
        Self { error: errors.iter().sum(), norm_a: norms.iter().sum(), ..sums }
    }

    /// The sums over this sequence followed by another.
    pub fn merge(self, next: &Self) -> Self {
        Self {
            error: self.error + next.error,
            norm_a: self.norm_a + next.norm_a,
            norm_b: self.norm_b + next.norm_b,
            dot: self.dot + next.dot,
            max_abs: self.max_abs.max(next.max_abs),
            changed: self.changed + next.changed,
            changed_bits: self.changed_bits + next.changed_bits,
            non_finite_a: self.non_finite_a + next.non_finite_a,
            non_finite_b: self.non_finite_b + next.non_finite_b,
        }
    }

    /// ‖A − B‖ / ‖A‖: 0 where both are equal, ∞ where only A is zero.
    pub fn relative_error(&self) -> f64 {
        ratio(self.error, self.norm_a)
    }

    /// ⟨A, B⟩ / (‖A‖ ‖B‖), at most 1 in magnitude: 1 where both are equal, NaN where only one is zero.
    pub fn cosine(&self) -> f64 {
        if self.error == 0.0 {
            return 1.0;
        }
        (self.dot / (self.norm_a.sqrt() * self.norm_b.sqrt())).clamp(-1.0, 1.0)
    }
}

/// Bits in which two byte sequences of one length differ.
pub fn different_bits(a: &[u8], b: &[u8]) -> u64 {
    let (words_a, rest_a) = a.as_chunks::<8>();
    let (words_b, rest_b) = b.as_chunks::<8>();
    let words = words_a.iter().zip(words_b);
    let words = words.map(|(a, b)| (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b)).count_ones());
    let rest = rest_a.iter().zip(rest_b).map(|(a, b)| (a ^ b).count_ones());
    words.chain(rest).map(u64::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};

    #[test]
    fn equal_zero_and_different_matrices() {
        let w = array![[3.0_f32, 4.0]];
        assert_eq!(relative_error(w.view(), w.view()), 0.0);
        assert_eq!(relative_error(w.view(), array![[3.0, 3.5]].view()), 0.1);
        let zero = array![[0.0_f32, 0.0]];
        assert_eq!(relative_error(zero.view(), zero.view()), 0.0);
        assert_eq!(relative_error(zero.view(), w.view()), f64::INFINITY);
    }

    #[test]
    fn pieces_add_up_to_the_same_bits() {
        let matrix = |seed: u32| {
            let value = |(i, j): (usize, usize)| {
                let mixed = ((i * 1009 + j) as u32 ^ seed).wrapping_mul(2_654_435_761);
                f32::from_bits(0x3f80_0000 | mixed >> 9) - 1.5
            };
            Array2::from_shape_fn((701, 1009), value)
        };
        let (a, b) = (matrix(1), matrix(77));
        let values = |m: &Array2<f32>| m.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (wide_a, wide_b) = (values(&a), values(&b));
        let pieces = wide_a.chunks(PIECE).zip(wide_b.chunks(PIECE));
        let sums = pieces
            .map(|(a, b)| Distance::of_piece(a, b))
            .fold(Distance::default(), |all, piece| all.merge(&piece));
        assert!(a.len() > 2 * PIECE);
        assert_eq!(sums.relative_error().to_bits(), relative_error(a.view(), b.view()).to_bits());
    }

    #[test]
    fn runs_of_any_length_add_up_to_the_bits_of_the_whole() {
        let value = |i: usize, seed: u32| {
            let mixed = (i as u32 ^ seed).wrapping_mul(2_654_435_761);
            f32::from_bits(0x3f80_0000 | mixed >> 9) - 1.5
        };
        let n = 2 * PIECE + 77;
        let w: Vec<f32> = (0..n).map(|i| value(i, 5)).collect();
        let d: Vec<f32> = (0..n).map(|i| value(i, 9)).collect();
        let rows = |values: &[f32]| Array2::from_shape_vec((1, n), values.to_vec()).unwrap();
        let whole = relative_error(rows(&w).view(), rows(&d).view());
        for run in [1, 3, 8, 1009, PIECE - 1, PIECE + 5, n] {
            let mut sums = Squares::default();
            w.chunks(run).zip(d.chunks(run)).for_each(|(w, d)| sums.add(w, d));
            let sums = sums.finish();
            assert_eq!(sums.len(), 3);
            assert_eq!(relative_error_of(sums.into_iter()).to_bits(), whole.to_bits(), "{run}");
        }
    }

    #[test]
    fn signs_of_zero_and_values_that_are_not_finite() {
        let a = [0.0, 1.0, f64::NAN, 2.0, f64::INFINITY];
        let sums = Distance::of_piece(&a, &[-0.0, 1.0, 1.0, f64::NAN, f64::NEG_INFINITY]);
        assert_eq!((sums.changed, sums.changed_bits), (0, 4));
        assert_eq!((sums.non_finite_a, sums.non_finite_b), (2, 2));
        assert_eq!((sums.error, sums.norm_a, sums.cosine()), (0.0, 1.0, 1.0));
        let sums = Distance::of_piece(&[0.0], &[2.0]);
        assert_eq!((sums.relative_error(), sums.max_abs), (f64::INFINITY, 2.0));
        assert!(sums.cosine().is_nan());
        assert_eq!(Distance::of_piece(&[1.0, 0.0], &[0.0, 1.0]).cosine(), 0.0);
    }

    #[test]
    fn bits_are_counted_over_words_and_the_rest() {
        let a: Vec<u8> = (0..21).collect();
        let mut b = a.clone();
        assert_eq!(different_bits(&a, &b), 0);
        b[3] ^= 0b101;
        b[20] ^= 0xff;
        assert_eq!(different_bits(&a, &b), 10);
    }
}
