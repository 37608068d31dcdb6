//! How far two matrices are apart.

use ndarray::ArrayView2;

/// Relative error ‖W − Ŵ‖_F / ‖W‖_F of two `[rows, cols]` matrices of one shape, summed in f64 in row-major order.
///
/// 0 where both are equal, also for a zero matrix; ∞ where only W is zero. Cost: one pass.
pub fn relative_error(weights: ArrayView2<'_, f32>, decoded: ArrayView2<'_, f32>) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (&w, &d) in weights.iter().zip(&decoded) {
        error += (f64::from(w) - f64::from(d)).powi(2);
        norm += f64::from(w).powi(2);
    }
    if error == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn equal_zero_and_different_matrices() {
        let w = array![[3.0_f32, 4.0]];
        assert_eq!(relative_error(w.view(), w.view()), 0.0);
        assert_eq!(relative_error(w.view(), array![[3.0, 3.5]].view()), 0.1);
        let zero = array![[0.0_f32, 0.0]];
        assert_eq!(relative_error(zero.view(), zero.view()), 0.0);
        assert_eq!(relative_error(zero.view(), w.view()), f64::INFINITY);
    }
}
