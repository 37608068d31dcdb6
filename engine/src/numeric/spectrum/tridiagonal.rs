//! Eigenvalues of a symmetric tridiagonal matrix.

/// Iterations per eigenvalue after which the iteration counts as failed; two are usual.
const MAX_ITERATIONS: usize = 50;
/// Iterations between questions whether to go on: some 10 ms at order 16,384.
const ITERATIONS_PER_QUESTION: usize = 64;
/// (2⁻⁵³)²: subdiagonal entries whose square is below this share of the diagonal's product are zero.
const NEGLIGIBLE: f64 = (f64::EPSILON / 2.0) * (f64::EPSILON / 2.0);

/// A symmetric tridiagonal matrix of order n.
#[derive(Clone, Debug)]
pub(super) struct Tridiagonal {
    /// n entries.
    pub(super) diagonal: Vec<f64>,
    /// The n − 1 entries below the diagonal, and above it.
    pub(super) below: Vec<f64>,
}

/// Why there are no eigenvalues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoEigenvalues {
    Cancelled,
    NoConvergence,
}

/// All eigenvalues in no particular order, by the QL iteration without square roots of Pal, Walker & Kahan
/// (LAPACK's `dsterf`): about 15·n² operations, each eigenvalue within a few ε·‖T‖.
///
/// Entries must be of a magnitude whose fourth power neither over- nor underflows.
pub(super) fn eigenvalues(
    matrix: Tridiagonal,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>, NoEigenvalues> {
    let Tridiagonal { mut diagonal, below } = matrix;
    let n = diagonal.len();
    let mut squares: Vec<f64> = below.iter().map(|e| e * e).chain([0.0]).collect();
    let mut start = 0;
    while start < n {
        // One block that no zero of the subdiagonal divides.
        let is_end = |&i: &usize| is_negligible(&diagonal, &squares, i);
        let end = (start..n - 1).find(is_end).unwrap_or(n - 1);
        let (d, e) = (&mut diagonal[start..=end], &mut squares[start..=end]);
        let inner = e.len() - 1;
        e[inner] = 0.0;
        if d[inner].abs() < d[0].abs() {
            // QL finds the small eigenvalues first: graded matrices must begin with the small entries.
            d.reverse();
            e[..inner].reverse();
        }
        ql(d, e, is_cancelled)?;
        start = end + 1;
    }
    Ok(diagonal)
}

fn is_negligible(d: &[f64], squares: &[f64], i: usize) -> bool {
    squares[i] <= NEGLIGIBLE * (d[i] * d[i + 1]).abs()
}

/// Eigenvalues of one block in place: diagonal `d`, squares of the subdiagonal `e` and a zero behind them.
fn ql(
    d: &mut [f64],
    e: &mut [f64],
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<(), NoEigenvalues> {
    let last = d.len() - 1;
    let (mut l, mut iterations) = (0, 0);
    while l < last {
        let m = (l..last).find(|&i| is_negligible(d, e, i)).unwrap_or(last);
        e[m] = 0.0;
        if m == l {
            l += 1;
        } else if m == l + 1 {
            (d[l], d[m]) = two_by_two(d[l], e[l], d[m]);
            e[l] = 0.0;
            l += 2;
        } else {
            iterations += 1;
            if iterations > MAX_ITERATIONS * d.len() {
                return Err(NoEigenvalues::NoConvergence);
            }
            if iterations % ITERATIONS_PER_QUESTION == 0 && is_cancelled() {
                return Err(NoEigenvalues::Cancelled);
            }
            ql_sweep(&mut d[l..=m], &mut e[l..m]);
        }
    }
    Ok(())
}

/// One shifted QL sweep over a block of at least three rows.
fn ql_sweep(d: &mut [f64], e: &mut [f64]) {
    let m = e.len();
    // Wilkinson's shift, from the leading 2 × 2.
    let root = e[0].sqrt();
    let ratio = (d[1] - d[0]) / (2.0 * root);
    let shift = d[0] - root / (ratio + ratio.hypot(1.0).copysign(ratio));
    let (mut c, mut s) = (1.0, 0.0);
    let mut gamma = d[m] - shift;
    let mut p = gamma * gamma;
    for i in (0..m).rev() {
        let square = e[i];
        let r = p + square;
        if i + 1 < m {
            e[i + 1] = s * r;
        }
        let old_c = c;
        c = p / r;
        s = square / r;
        let (old_gamma, alpha) = (gamma, d[i]);
        gamma = c * (alpha - shift) - s * old_gamma;
        d[i + 1] = old_gamma + (alpha - gamma);
        p = if c == 0.0 { old_c * square } else { gamma * gamma / c };
    }
    e[0] = s * p;
    d[0] = shift + gamma;
}

/// The eigenvalues of `[[a, b], [b, c]]` with b² = `square`, the larger in magnitude first.
/// As LAPACK's `dlae2`: the smaller one as det/larger, without cancellation.
fn two_by_two(a: f64, square: f64, c: f64) -> (f64, f64) {
    let sum = a + c;
    let root = (a - c).hypot(2.0 * square.sqrt());
    if sum == 0.0 {
        return (0.5 * root, -0.5 * root);
    }
    let larger = 0.5 * (sum + root.copysign(sum));
    let (big, small) = if a.abs() > c.abs() { (a, c) } else { (c, a) };
    (larger, big / larger * small - square / larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(matrix: Tridiagonal) -> Vec<f64> {
        let mut values = eigenvalues(matrix, &|| false).unwrap();
        values.sort_by(f64::total_cmp);
        values
    }

    #[test]
    fn the_second_difference_has_its_known_eigenvalues() {
        // 2 on the diagonal, −1 beside it: 2 − 2·cos(kπ/(n + 1)).
        for n in [1, 2, 3, 4, 50, 333] {
            let found = sorted(Tridiagonal { diagonal: vec![2.0; n], below: vec![-1.0; n - 1] });
            for (k, value) in found.iter().enumerate() {
                let angle = (k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
                let wanted = 2.0 - 2.0 * angle.cos();
                assert!((value - wanted).abs() < 1e-14, "{n}: {value} where {wanted} is right");
            }
        }
    }

    #[test]
    fn blocks_apart_zeros_and_signs() {
        // [[1, 2], [2, 1]], 0, −3, [[0, 5], [5, 0]].
        let found = sorted(Tridiagonal {
            diagonal: vec![1.0, 1.0, 0.0, -3.0, 0.0, 0.0],
            below: vec![2.0, 0.0, 0.0, 0.0, 5.0],
        });
        for (value, wanted) in found.iter().zip([-5.0, -3.0, -1.0, 0.0, 3.0, 5.0]) {
            assert!((value - wanted).abs() < 1e-15, "{found:?}");
        }
        let zeros = sorted(Tridiagonal { diagonal: vec![0.0; 5], below: vec![0.0; 4] });
        assert_eq!(zeros, [0.0; 5]);
        assert_eq!(sorted(Tridiagonal { diagonal: vec![], below: vec![] }), [0.0; 0]);
    }

    #[test]
    fn the_trace_is_kept_where_entries_fall_by_magnitudes() {
        let diagonal: Vec<f64> = (0..60).map(|i| 10_f64.powi(-i / 4)).collect();
        let below: Vec<f64> = diagonal.iter().skip(1).map(|d| 0.3 * d).collect();
        let trace: f64 = diagonal.iter().sum();
        let sum: f64 = sorted(Tridiagonal { diagonal, below }).iter().sum();
        assert!((sum - trace).abs() < 1e-14 * trace);
    }

    #[test]
    fn cancelling_stops_the_iteration() {
        let matrix = Tridiagonal { diagonal: vec![2.0; 400], below: vec![-1.0; 399] };
        assert_eq!(eigenvalues(matrix, &|| true), Err(NoEigenvalues::Cancelled));
    }
}
