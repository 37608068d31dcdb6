//! Singular values: all of them directly or through the Gram matrix, the leading ones estimated; the ranks read
//! off them, and what random matrices would have.

mod band;
mod chase;
mod cholesky;
mod direct;
mod gram;
mod marchenko_pastur;
mod randomised;
mod reflect;
pub(in crate::numeric) mod tiles;
mod tridiagonal;

pub use cholesky::Cholesky;
pub use direct::{direct_bytes, direct_floor, is_direct, singular_values, singular_values_f64};
pub(in crate::numeric) use gram::eigenvalues_of;
pub use gram::{
    ReadBlock, Stopped, gram_bytes, gram_floor, singular_values_by_gram, symmetric_eigenvalues,
};
pub use marchenko_pastur::{above_edge, marchenko_pastur_edge, marchenko_pastur_lower_edge};
pub use randomised::{LeadingEstimate, estimate_leading};

/// Stable rank ‖W‖_F² / σ₁² = Σσ² / σ₁²; 0 for a zero matrix.
pub fn stable_rank(singular_values: &[f64]) -> f64 {
    let largest = singular_values.first().copied().unwrap_or(0.0);
    if largest == 0.0 {
        return 0.0;
    }
    singular_values.iter().map(|s| (s / largest).powi(2)).sum()
}

/// Effective rank exp(−Σ p ln p) with p = σ/Σσ (Roy & Vetterli 2007); 0 for a zero matrix.
pub fn effective_rank(singular_values: &[f64]) -> f64 {
    let sum: f64 = singular_values.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let entropy: f64 =
        singular_values.iter().map(|s| s / sum).filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
    entropy.exp()
}

/// Share of Σσ² that the k + 1 largest hold, for each k: Σ_{i≤k} σᵢ² / Σσ². All 1 for a zero matrix.
pub fn cumulative_energy(singular_values: &[f64]) -> Vec<f64> {
    let total: f64 = singular_values.iter().map(|s| s * s).sum();
    let mut held = 0.0;
    let share = |s: &f64| {
        held += s * s;
        if total == 0.0 { 1.0 } else { held / total }
    };
    singular_values.iter().map(share).collect()
}

/// ‖W − Ŵ‖_F / ‖W‖_F of the best approximation Ŵ of rank r: √(Σ_{i>r} σᵢ² / Σσ²) (Eckart & Young 1936);
/// 0 for a zero matrix and from full rank on. Summed from the smallest, so that a short tail is not lost.
pub fn tail_error(singular_values: &[f64], rank: usize) -> f64 {
    let energy = |values: &[f64]| values.iter().rev().map(|s| s * s).sum::<f64>();
    let total = energy(singular_values);
    if total == 0.0 {
        return 0.0;
    }
    (energy(&singular_values[rank.min(singular_values.len())..]) / total).sqrt()
}

/// Smallest k whose leading σ² hold at least `share` (0 to 1) of Σσ².
pub fn rank_for_energy(singular_values: &[f64], share: f64) -> usize {
    let total: f64 = singular_values.iter().map(|s| s * s).sum();
    let mut held = 0.0;
    for (k, s) in singular_values.iter().enumerate() {
        if held >= share * total {
            return k;
        }
        held += s * s;
    }
    singular_values.len()
}

#[cfg(test)]
mod tests;
