//! A symmetric band to a tridiagonal matrix of the same eigenvalues, by chasing bulges down the band.
//!
//! Sweep s clears column s below its first subdiagonal by a reflection of the b rows below; applied from both
//! sides it fills a block further down, of which the next reflection clears the first column, and so on to the
//! end of the matrix (Lang 1993; Haidar, Ltaief & Dongarra 2011 for the order of the steps). 6·n²·b operations.

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _,
};

use crate::numeric::spectrum::band::{BAND, Band};
use crate::numeric::spectrum::reflect::{axpy, dot, reflector};
use crate::numeric::spectrum::tridiagonal::Tridiagonal;

/// Entries of the band from column to column.
const PITCH: usize = Band::PITCH;
/// Steps a sweep must be ahead of the next, so that the columns they touch do not meet.
const LEAD: usize = 3;
/// Rounds of steps between questions whether to go on: a few milliseconds.
const ROUNDS_PER_QUESTION: usize = 16;
/// Steps one thread takes at a time.
const STEPS_PER_THREAD: usize = 8;

/// One step of one sweep: its columns of the band, and the reflection that the sweep carries down.
struct Step<'a> {
    columns: &'a mut [f64],
    /// Whether it begins the sweep: the first column is cleared, and no reflection comes from above.
    is_first: bool,
    /// Order of the matrix that the columns begin.
    order: usize,
    reflection: &'a mut Reflection,
}

/// I − τ·v·vᵀ on `rows` rows.
#[derive(Clone, Copy)]
struct Reflection {
    v: [f64; BAND],
    tau: f64,
    rows: usize,
}

impl Reflection {
    const NONE: Self = Self { v: [0.0; BAND], tau: 0.0, rows: 0 };
}

/// The diagonal and subdiagonal of the tridiagonal matrix similar to `band`, which is overwritten.
/// Step k of sweep s runs in round k + 3·s, beside the steps of other sweeps that touch other columns.
/// `None` once `is_cancelled`.
pub(super) fn reduce_to_tridiagonal(
    mut band: Band,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Tridiagonal> {
    let n = band.order;
    let sweeps = n.saturating_sub(2);
    // Step k ≥ 1 of sweep s begins in column s + 1 + (k − 1)·b; there is one while a row lies below its block.
    let steps = |s: usize| (n - 2 - s) / BAND + 1;
    let rounds = (0..sweeps).map(|s| LEAD * s + steps(s)).max().unwrap_or(0);
    let mut carried = vec![Reflection::NONE; sweeps];
    let mut oldest = 0;
    for round in 0..rounds {
        if round.is_multiple_of(ROUNDS_PER_QUESTION) && is_cancelled() {
            return None;
        }
        while oldest < sweeps && round >= LEAD * oldest + steps(oldest) {
            oldest += 1;
        }
        let newest = (round / LEAD + 1).min(sweeps);
        let mut tasks = Vec::with_capacity(newest.saturating_sub(oldest));
        let (mut rest, mut at) = (band.entries.as_mut_slice(), 0);
        // The newest sweep is the furthest behind: columns ascend.
        for (s, reflection) in (oldest..newest).zip(&mut carried[oldest..newest]).rev() {
            let k = round - LEAD * s;
            if k >= steps(s) {
                continue;
            }
            let (first, width) =
                if k == 0 { (s, BAND + 1) } else { (s + 1 + (k - 1) * BAND, 2 * BAND) };
            let (_, after) = rest.split_at_mut((first - at) * PITCH);
            let (columns, after) = after.split_at_mut(width.min(n - first) * PITCH);
            (rest, at) = (after, first + width.min(n - first));
            tasks.push(Step { columns, is_first: k == 0, order: n - first, reflection });
        }
        tasks.par_iter_mut().with_min_len(STEPS_PER_THREAD).for_each(Step::run);
    }
    let column = |j: usize| &band.entries[j * PITCH..(j + 1) * PITCH];
    Some(Tridiagonal {
        diagonal: (0..n).map(|j| column(j)[0]).collect(),
        below: (1..n).map(|j| column(j - 1)[1]).collect(),
    })
}

impl Step<'_> {
    fn run(&mut self) {
        if self.is_first {
            let rows = BAND.min(self.order - 1);
            let (column, block) = self.columns.split_at_mut(PITCH);
            let reflection = &mut *self.reflection;
            take_reflection(&mut column[1..=rows], reflection);
            reflect_diagonal(block, reflection);
            return;
        }
        let old = *self.reflection;
        let rows = BAND.min(self.order - old.rows);
        let (off_diagonal, block) = self.columns.split_at_mut(old.rows * PITCH);
        reflect_off_diagonal(off_diagonal, rows, &old, self.reflection);
        reflect_diagonal(block, self.reflection);
    }
}

/// Finds the reflection that clears `x` but for its first entry, and clears it.
fn take_reflection(x: &mut [f64], reflection: &mut Reflection) {
    reflection.rows = x.len();
    let v = &mut reflection.v[..x.len()];
    v.copy_from_slice(x);
    let (tau, beta) = reflector(v);
    reflection.tau = tau;
    x.fill(0.0);
    x[0] = beta;
}

/// D ← H·D·H of a diagonal block in the band, H = I − τ·v·vᵀ: D − v·wᵀ − w·vᵀ with
/// w = τ·D·v − ½·τ²·(vᵀ·D·v)·v.
fn reflect_diagonal(block: &mut [f64], reflection: &Reflection) {
    let n = reflection.rows;
    let v = &reflection.v[..n];
    let mut w = [0.0; BAND];
    let w = &mut w[..n];
    for (j, column) in block.chunks(PITCH).take(n).enumerate() {
        let below = &column[1..n - j];
        w[j] += column[0] * v[j] + dot(below, &v[j + 1..]);
        axpy(v[j], below, &mut w[j + 1..]);
    }
    let tau = reflection.tau;
    let half = -0.5 * tau * tau * dot(w, v);
    for (w, v) in w.iter_mut().zip(v) {
        *w = tau * *w + half * v;
    }
    for (j, column) in block.chunks_mut(PITCH).take(n).enumerate() {
        let (vj, wj) = (v[j], w[j]);
        for ((entry, v), w) in column[..n - j].iter_mut().zip(&v[j..]).zip(&w[j..]) {
            *entry -= vj * w + wj * v;
        }
    }
}

/// B ← H'·B·H of the block below a diagonal block: H = `old` from the right, then H' = `new` from the left, which
/// clears the first column. Column j of the block begins `old.rows − j` below the diagonal.
fn reflect_off_diagonal(block: &mut [f64], rows: usize, old: &Reflection, new: &mut Reflection) {
    let v = &old.v[..old.rows];
    let mut w = [0.0; BAND];
    let w = &mut w[..rows];
    for (j, column) in block.chunks(PITCH).enumerate() {
        axpy(old.tau * v[j], &column[old.rows - j..][..rows], w);
    }
    for (j, column) in block.chunks_mut(PITCH).enumerate() {
        let column = &mut column[old.rows - j..][..rows];
        axpy(-v[j], w, column);
        if j == 0 {
            take_reflection(column, new);
        } else {
            let left = &new.v[..rows];
            axpy(-new.tau * dot(left, column), left, column);
        }
    }
}
