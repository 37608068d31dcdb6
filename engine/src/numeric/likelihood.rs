//! What rows of logits say of the next token, and how far two of them are apart.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::numeric::activation::exp;
use crate::numeric::vector::{Loops, largest, sum_of, vectorised};

/// Terms summed in f32, in [`LANES`] partial sums, before they are added in f64.
const TERMS: usize = 256;
/// Partial sums.
const LANES: usize = 8;
/// Tokens of which [`Divergence::top_overlap`] is the share.
pub const TOP: usize = 5;

/// ln Σ eˣ over a row of logits; NaN if any of them is.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    struct Terms<'a>(&'a [f32]);
    impl Loops for Terms<'_> {
        type Found = f64;

        #[inline(always)]
        fn run(self) -> f64 {
            let largest = largest(self.0);
            f64::from(largest) + sum_of(self.0, |x| exp(x - largest)).ln()
        }
    }
    vectorised(Terms(logits))
}

/// How far the distribution q of one row of logits is from p of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Σ p·ln(p / q), in nats.
    pub kl: f64,
    /// Σ min(p, q): 1 minus the total variation.
    pub overlap: f64,
    /// Whether the most likely token is another.
    pub flipped: bool,
    /// Share of p's [`TOP`] most likely tokens that are among q's.
    pub top_overlap: f64,
}

/// Compares logits `q` with those of the original, `p`, whose [`log_sum_exp`] are `of_p` and `of_q`.
pub fn diverge((p, of_p): (&[f32], f64), (q, of_q): (&[f32], f64)) -> Divergence {
    let (shift_p, shift_q) = (of_p as f32, of_q as f32);
    // What rounding the shifts to f32 leaves of them enters once, in f64.
    let correction = (of_q - f64::from(shift_q)) - (of_p - f64::from(shift_p));
    let [kl, overlap, mass] = vectorised(Apart { p, q, shift_p, shift_q });
    let (top_p, top_q) = (top(p), top(q));
    let shared = top_p.iter().filter(|token| top_q.contains(token)).count();
    Divergence {
        // Never below zero but by rounding.
        kl: (kl + correction * mass).max(0.0),
        overlap: overlap.min(1.0),
        flipped: top_p.first() != top_q.first(),
        top_overlap: shared as f64 / top_p.len().max(1) as f64,
    }
}

/// Two rows of logits, and what turns them into logarithms of shares.
struct Apart<'a> {
    p: &'a [f32],
    q: &'a [f32],
    shift_p: f32,
    shift_q: f32,
}

impl Loops for Apart<'_> {
    /// Σ p·ln(p / q), Σ min(p, q), Σ p.
    type Found = [f64; 3];

    #[inline(always)]
    fn run(self) -> [f64; 3] {
        let mut sums = [0.0_f64; 3];
        for (p, q) in self.p.chunks(TERMS).zip(self.q.chunks(TERMS)) {
            let mut terms = [[0.0_f32; LANES]; 3];
            let (p_lanes, q_lanes) = (p.chunks_exact(LANES), q.chunks_exact(LANES));
            for (i, (&p, &q)) in p_lanes.remainder().iter().zip(q_lanes.remainder()).enumerate() {
                self.add(p, q, i, &mut terms);
            }
            for (p, q) in p_lanes.zip(q_lanes) {
                for i in 0..LANES {
                    self.add(p[i], q[i], i, &mut terms);
                }
            }
            for (sum, terms) in sums.iter_mut().zip(terms) {
                *sum += f64::from(terms.iter().sum::<f32>());
            }
        }
        sums
    }
}

impl Apart<'_> {
    #[inline(always)]
    fn add(&self, p: f32, q: f32, i: usize, terms: &mut [[f32; LANES]; 3]) {
        let (log_p, log_q) = (p - self.shift_p, q - self.shift_q);
        let (share_p, share_q) = (exp(log_p), exp(log_q));
        terms[0][i] += if share_p > 0.0 { share_p * (log_p - log_q) } else { 0.0 };
        terms[1][i] += if share_p < share_q { share_p } else { share_q };
        terms[2][i] += share_p;
    }
}

/// Indices of the [`TOP`] largest values, largest first; of equal ones the lower index.
pub fn top(values: &[f32]) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(TOP + 1);
    for (i, value) in values.iter().enumerate() {
        if best.len() == TOP && best.last().is_some_and(|&last| *value <= values[last]) {
            continue;
        }
        let at = best.partition_point(|&other| values[other] >= *value);
        best.insert(at, i);
        best.truncate(TOP);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn row(seed: u64, scale: f64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..1000).map(|_| (scale * random.normal()) as f32).collect()
    }

    /// Shares in f64.
    fn shares(logits: &[f32]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        logits.iter().map(|&x| f64::from(x).exp() / sum).collect()
    }

    #[test]
    fn divergence_is_that_of_the_formulas_in_f64() {
        for (seed, scale, distance) in [(1, 3.0, 0.0), (2, 3.0, 1e-3), (3, 6.0, 0.5), (4, 1.0, 3.0)]
        {
            let p = row(seed, scale);
            let q: Vec<f32> =
                p.iter().zip(row(seed + 50, distance)).map(|(p, noise)| p + noise).collect();
            let found = diverge((&p, log_sum_exp(&p)), (&q, log_sum_exp(&q)));
            let (of_p, of_q) = (shares(&p), shares(&q));
            let pairs = || of_p.iter().zip(&of_q);
            let kl: f64 = pairs().map(|(p, q)| p * (p / q).ln()).sum();
            let overlap: f64 = pairs().map(|(p, q)| p.min(*q)).sum();
            assert!((found.kl - kl).abs() < 1e-6 * kl.max(0.1), "{} for {kl}", found.kl);
            assert!((found.overlap - overlap).abs() < 1e-5, "{} for {overlap}", found.overlap);
            if distance == 0.0 {
                let same = Divergence { kl: 0.0, overlap: 1.0, flipped: false, top_overlap: 1.0 };
                assert_eq!((found.flipped, found.top_overlap), (same.flipped, same.top_overlap));
            }
        }
    }

    #[test]
    fn the_largest_values_come_first_and_ties_by_index() {
        assert_eq!(top(&[1.0, 5.0, 5.0, 0.0, 9.0, 2.0, 3.0]), [4, 1, 2, 6, 5]);
        assert_eq!(top(&[2.0, 1.0]), [0, 1]);
    }
}
