//! A dense symmetric matrix to a band of the same eigenvalues, by blocked Householder reflections.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::numeric::spectrum::reflect::{axpy, dot, reflector};
use crate::numeric::spectrum::tiles::{SymmetricTiles, TILE};

/// Half the band's width: entries more than this far below the diagonal are zero. Wide enough that products run
/// at the speed of matrix multiplication, narrow enough that chasing the band, 6·n²·b operations, stays cheap.
/// Divides [`TILE`], so that a panel lies in one column of tiles.
pub(super) const BAND: usize = 32;
const _: () = assert!(TILE.is_multiple_of(BAND));

/// Pieces into which thin products are cut. Fixed, as the cuts decide the order of sums.
const PIECES: usize = 8;

/// Columns of a panel reduced one reflection at a time before the others are brought up to date at once.
const NARROW: usize = 8;

/// The lower half of a symmetric band matrix, with room for the bulges of the chase: entry (i, j) with
/// 0 ≤ i − j < 2·[`BAND`] lies at j·2·BAND + i − j.
pub(super) struct Band {
    pub(super) order: usize,
    pub(super) entries: Vec<f64>,
}

impl Band {
    /// Entries from column to column.
    pub(super) const PITCH: usize = 2 * BAND;

    pub(super) fn zeros(order: usize) -> Self {
        Self { order, entries: vec![0.0; order * Self::PITCH] }
    }

    pub(super) fn set(&mut self, i: usize, j: usize, value: f64) {
        self.entries[j * Self::PITCH + i - j] = value;
    }
}

/// Qᵀ·A·Q of half-width [`BAND`], by panels of BAND columns: A₂₂ ← A₂₂ − V·Wᵀ − W·Vᵀ with the panel's block
/// reflector I − V·T·Vᵀ, X = A₂₂·V·T and W = X − ½·V·Tᵀ·Vᵀ·X. 4/3·n³ operations, nearly all in products of
/// matrices; backward stable. Overwrites `matrix`.
/// `None` once `is_cancelled`.
///
/// Dongarra, Sorensen & Hammarling 1989 (the update); Bischof, Lang & Sun 2000 (the SBR toolbox).
pub(super) fn reduce_to_band(
    matrix: &mut SymmetricTiles,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Band> {
    let n = matrix.order();
    let mut band = Band::zeros(n);
    for first in (0..n).step_by(BAND) {
        let from = (first + BAND).min(n);
        for j in first..from {
            for i in j..from {
                band.set(i, j, matrix.get(i, j));
            }
        }
        if from == n {
            break;
        }
        let mut panel = Panel::read(matrix, first, from);
        let taus = panel.factor();
        for j in 0..BAND {
            for i in 0..=j.min(panel.rows - 1) {
                band.set(from + i, first + j, panel.entries[j * panel.rows + i]);
            }
        }
        let v = panel.reflectors(0..taus.len());
        let pair = two_sided_factors(matrix, from, v.as_ref(), &taus, is_cancelled);
        matrix.add_product(from, -1.0, [pair[0].as_ref(), pair[1].as_ref()], is_cancelled);
        if is_cancelled() {
            return None;
        }
    }
    Some(band)
}

/// [`BAND`] columns of the matrix below the band, column by column.
struct Panel {
    rows: usize,
    entries: Vec<f64>,
}

impl Panel {
    /// Columns `first .. first + BAND` of the rows from `from` on.
    fn read(matrix: &SymmetricTiles, first: usize, from: usize) -> Self {
        let rows = matrix.order() - from;
        let mut entries = Vec::with_capacity(rows * BAND);
        for j in first..first + BAND {
            matrix.column(j, from).for_each(|piece| entries.extend_from_slice(piece));
        }
        Self { rows, entries }
    }

    /// QR in place: R in and above the diagonal, below it the reflectors without their leading ones.
    /// Returns their τ, min(rows, BAND) of them.
    fn factor(&mut self) -> Vec<f64> {
        let (rows, k) = (self.rows, self.rows.min(BAND));
        let mut taus = Vec::with_capacity(k);
        for first in (0..k).step_by(NARROW) {
            let last = (first + NARROW).min(k);
            for j in first..last {
                let (before, after) = self.entries.split_at_mut((j + 1) * rows);
                let column = &mut before[j * rows + j..];
                let (tau, beta) = reflector(column);
                taus.push(tau);
                for other in after.chunks_mut(rows).take(last - j - 1) {
                    let other = &mut other[j..];
                    axpy(-tau * dot(column, other), column, other);
                }
                column[0] = beta;
            }
            let v = self.reflectors(first..last);
            let t = block_factor(v.as_ref(), &taus[first..last]);
            let rest = &mut self.entries[last * rows..];
            let rest = MatMut::from_column_major_slice_mut(rest, rows, BAND - last);
            apply_transposed(v.as_ref(), t.as_ref(), rest.subrows_mut(first, rows - first));
        }
        taus
    }

    /// V of the reflectors `which`, from the row of the first on: ones on the diagonal, zeros above it.
    fn reflectors(&self, which: Range<usize>) -> Mat<f64> {
        let all = MatRef::from_column_major_slice(&self.entries, self.rows, BAND);
        let rows = self.rows - which.start;
        let mut v = all.submatrix(which.start, which.start, rows, which.len()).to_owned();
        for j in 0..v.ncols() {
            v.as_mut().col_mut(j).subrows_mut(0, j).fill(0.0);
            v[(j, j)] = 1.0;
        }
        v
    }
}

/// L and R, `[2·k, n]` each, with Lᵀ·R = V·Wᵀ + W·Vᵀ: what the two-sided reflection takes off. Transposed, as
/// products run fastest over what lies side by side. `v` is `[n − from, k]`.
fn two_sided_factors(
    matrix: &SymmetricTiles,
    from: usize,
    v: MatRef<'_, f64>,
    taus: &[f64],
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> [Mat<f64>; 2] {
    let (n, k, m) = (matrix.order(), v.ncols(), v.nrows());
    let (mut left, mut right) = (Mat::zeros(2 * k, n), Mat::zeros(2 * k, n));
    let mut above = left.as_mut().submatrix_mut(0, from, k, m);
    // By hand: the library's copy of a transposed matrix takes several times as long.
    for i in 0..m {
        for j in 0..k {
            above[(j, i)] = v[(i, j)];
        }
    }
    let v = above.rb();
    right.as_mut().submatrix_mut(k, from, k, m).copy_from(v);
    let par = Par::rayon(PIECES);
    let t = block_factor(v.transpose(), taus);
    let mut tv = Mat::zeros(k, n);
    let tv_active = tv.as_mut().subcols_mut(from, m);
    matmul(tv_active, Accum::Replace, t.transpose(), v, 1.0, par);
    let mut product = matrix.multiplied_by(from, tv.as_ref(), is_cancelled);
    let mut w = product.as_mut().subcols_mut(from, m);
    let mut inner = Mat::zeros(k, k);
    let tv = tv.as_ref().subcols(from, m);
    matmul(inner.as_mut(), Accum::Replace, w.rb(), tv.transpose(), 1.0, par);
    matmul(w.rb_mut(), Accum::Add, inner.as_ref(), v, -0.5, par);
    left.as_mut().submatrix_mut(k, from, k, m).copy_from(w.rb());
    right.as_mut().submatrix_mut(0, from, k, m).copy_from(w.rb());
    [left, right]
}

/// T of (I − τ₀·v₀·v₀ᵀ)(I − τ₁·v₁·v₁ᵀ)… = I − V·T·Vᵀ (Schreiber & Van Loan 1989).
fn block_factor(v: MatRef<'_, f64>, taus: &[f64]) -> Mat<f64> {
    let k = taus.len();
    let mut gram = Mat::zeros(k, k);
    matmul(gram.as_mut(), Accum::Replace, v.transpose(), v, 1.0, Par::Seq);
    let mut t = Mat::zeros(k, k);
    for j in 0..k {
        t[(j, j)] = taus[j];
        for i in 0..j {
            let sum: f64 = (i..j).map(|l| t[(i, l)] * gram[(l, j)]).sum();
            t[(i, j)] = -taus[j] * sum;
        }
    }
    t
}

/// C ← (I − V·Tᵀ·Vᵀ)·C.
fn apply_transposed(v: MatRef<'_, f64>, t: MatRef<'_, f64>, c: MatMut<'_, f64>) {
    let (k, cols) = (v.ncols(), c.ncols());
    let (mut vc, mut tvc) = (Mat::zeros(k, cols), Mat::zeros(k, cols));
    matmul(vc.as_mut(), Accum::Replace, v.transpose(), c.rb(), 1.0, Par::Seq);
    matmul(tvc.as_mut(), Accum::Replace, t.transpose(), vc.as_ref(), 1.0, Par::Seq);
    matmul(c, Accum::Add, v, tvc.as_ref(), -1.0, Par::Seq);
}
