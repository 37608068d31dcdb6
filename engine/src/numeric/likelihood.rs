//! What rows of logits say of the next token, and how far two of them are apart.

use crate::numeric::activation::exp;

/// Terms summed in f32 before they are added in f64.
const TERMS: usize = 64;
/// Tokens of which [`Divergence::top_overlap`] is the share.
pub const TOP: usize = 5;

/// ln Σ eˣ over a row of logits; NaN if any of them is.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let terms = |piece: &[f32]| piece.iter().map(|&x| exp(x - largest)).sum::<f32>();
    let sum: f64 = logits.chunks(TERMS).map(|piece| f64::from(terms(piece))).sum();
    f64::from(largest) + sum.ln()
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
    let (mut kl, mut overlap, mut mass) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (p, q) in p.chunks(TERMS).zip(q.chunks(TERMS)) {
        let (mut kl_terms, mut overlap_terms, mut mass_terms) = (0.0_f32, 0.0_f32, 0.0_f32);
        for (&p, &q) in p.iter().zip(q) {
            let (log_p, log_q) = (p - shift_p, q - shift_q);
            let (share_p, share_q) = (exp(log_p), exp(log_q));
            kl_terms += if share_p > 0.0 { share_p * (log_p - log_q) } else { 0.0 };
            overlap_terms += share_p.min(share_q);
            mass_terms += share_p;
        }
        kl += f64::from(kl_terms);
        overlap += f64::from(overlap_terms);
        mass += f64::from(mass_terms);
    }
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
