//! Singular values and the ranks read off them.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{MatRef, Par, Spec};
use ndarray::ArrayView2;

/// Pieces into which the decomposition is cut. Fixed, as the cuts decide the order of sums: the values are the
/// same to the last bit whatever number of threads works on the pieces.
const PIECES: usize = 8;

/// All singular values of a `[rows, cols]` matrix, largest first, `min(rows, cols)` of them.
///
/// Computed in f64 by faer's bidiagonalisation: about 8/3·n³ operations for a square matrix of order n.
/// `None` if the iteration does not converge, as with values that are not finite.
pub fn singular_values(matrix: ArrayView2<'_, f32>) -> Option<Vec<f64>> {
    let (rows, cols) = matrix.dim();
    if rows == 0 || cols == 0 {
        return Some(Vec::new());
    }
    let wide: Vec<f64> = matrix.iter().map(|&w| f64::from(w)).collect();
    let view = MatRef::from_row_major_slice(&wide, rows, cols);
    let (par, no) = (Par::rayon(PIECES), ComputeSvdVectors::No);
    let mut values = Diag::<f64>::zeros(rows.min(cols));
    let scratch = svd_scratch::<f64>(rows, cols, no, no, par, Spec::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    svd(view, values.as_mut(), None, None, par, stack, Spec::default()).ok()?;
    let values: Vec<f64> = values.column_vector().iter().copied().collect();
    values.iter().all(|value| value.is_finite()).then_some(values)
}

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
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn diagonal_and_rank_one_matrices() {
        let mut diagonal = Array2::zeros((3, 5));
        for (i, value) in [1.0, 3.0, 2.0].into_iter().enumerate() {
            diagonal[[i, i]] = value;
        }
        let values = singular_values(diagonal.view()).unwrap();
        for (value, expected) in values.iter().zip([3.0, 2.0, 1.0]) {
            assert!((value - expected).abs() < 1e-12, "{values:?}");
        }
        let ones = Array2::from_elem((4, 6), 0.5_f32);
        let values = singular_values(ones.view()).unwrap();
        assert!((values[0] - 0.5 * 24_f64.sqrt()).abs() < 1e-12);
        assert!((stable_rank(&values) - 1.0).abs() < 1e-12);
        assert!((effective_rank(&values) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn ranks_of_equal_singular_values_are_their_number() {
        let values = [2.0; 7];
        assert!((stable_rank(&values) - 7.0).abs() < 1e-12);
        assert!((effective_rank(&values) - 7.0).abs() < 1e-12);
        assert_eq!(rank_for_energy(&values, 0.5), 4);
        assert_eq!(rank_for_energy(&values, 1.0), 7);
    }

    #[test]
    fn values_do_not_depend_on_the_threads() {
        let mut random = crate::numeric::seeds::Random::new(3);
        let matrix = Array2::from_shape_simple_fn((300, 420), || random.normal() as f32);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| singular_values(matrix.view()))
        };
        let one = on(1);
        assert!(one.is_some());
        assert_eq!(one, on(2));
        assert_eq!(one, on(7));
    }

    #[test]
    fn zero_and_empty_matrices_have_rank_zero() {
        assert_eq!(singular_values(Array2::zeros((0, 3)).view()), Some(vec![]));
        let values = singular_values(Array2::zeros((2, 3)).view()).unwrap();
        assert_eq!((stable_rank(&values), effective_rank(&values)), (0.0, 0.0));
        assert_eq!(singular_values(Array2::from_elem((2, 2), f32::NAN).view()), None);
    }
}
