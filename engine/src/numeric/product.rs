//! Matrix products in f32, in tiles of fixed size: the same to the last bit on any number of threads.

use std::ops::Range;

use gemm::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, IntoParallelRefMutIterator as _,
    ParallelIterator as _,
};

/// Rows and columns of the output that one task computes, by the elements of the output from which on. Large tiles
/// spend less on packing their operands, 10 to 15 % of a product of 1024 × 2048 × 5632; small ones leave something
/// for every thread.
const TILES: [(usize, [usize; 2]); 3] =
    [(1 << 23, [512, 1024]), (1 << 21, [512, 512]), (0, [256, 512])];
/// Below this many rows a product waits for memory, and is computed as dot products.
const FEW_ROWS: usize = 4;
/// Dot products that one task computes.
const DOTS: usize = 64;
/// Partial sums of a dot product, for the lanes of the processor.
const LANES: usize = 16;

/// out = factor · a·b, or out + factor · a·b where `add`: a `[m, k]`, b `[k, n]`, out `[m, n]`, of any strides.
///
/// One thread; sums of products in f32, each in the order of k. Cost: 2·m·n·k operations.
///
/// # Panics
/// If the shapes do not fit together.
pub fn multiply(
    factor: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    add: bool,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let ((m, k), n) = (a.dim(), b.ncols());
    assert_eq!((k, (m, n)), (b.nrows(), out.dim()), "shapes of a product must fit together");
    if m == 0 || n == 0 {
        return;
    }
    let [out_rows, out_cols] = [out.strides()[0], out.strides()[1]];
    let [a_rows, a_cols] = [a.strides()[0], a.strides()[1]];
    let [b_rows, b_cols] = [b.strides()[0], b.strides()[1]];
    #[expect(
        unsafe_code,
        reason = "the kernel takes pointers; the views give them with their strides"
    )]
    // SAFETY: the three pointers, extents and strides are those of live views whose shapes were just compared, so
    // every element the kernel reads or writes lies inside its view; `out` is borrowed mutably and so overlaps
    // neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            out_cols,
            out_rows,
            add,
            a.as_ptr(),
            a_cols,
            a_rows,
            b.as_ptr(),
            b_cols,
            b_rows,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// out = x·wᵀ: x `[tokens, in]`, w `[out, in]`, out `[tokens, out]`; what a linear layer does.
///
/// In parallel over tiles of the output, whose size depends on the shapes alone, not on the number of threads. Leaves the rest as it
/// was once `is_cancelled`, which is asked before every tile.
///
/// # Panics
/// If the shapes do not fit together.
pub fn apply_rows(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    mut out: ArrayViewMut2<'_, f32>,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) {
    if x.nrows() <= FEW_ROWS && apply_by_dots(&x, &w, &mut out) {
        return;
    }
    for_each_tile(&mut out, |rows, cols, tile| {
        if !is_cancelled() {
            let x = x.slice(ndarray::s![rows, ..]);
            multiply(1.0, x, w.slice(ndarray::s![cols, ..]).t(), false, tile);
        }
    });
}

/// out ← out + dᵀ·x: d `[tokens, out]`, x `[tokens, in]`, out `[out, in]`; the derivative by the weights of a linear layer,
/// of that by its outputs.
///
/// In parallel as [`apply_rows`].
///
/// # Panics
/// If the shapes do not fit together.
pub fn add_outer(
    d: ArrayView2<'_, f32>,
    x: ArrayView2<'_, f32>,
    mut out: ArrayViewMut2<'_, f32>,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) {
    for_each_tile(&mut out, |rows, cols, tile| {
        if !is_cancelled() {
            let d = d.slice(ndarray::s![.., rows]);
            multiply(1.0, d.t(), x.slice(ndarray::s![.., cols]), true, tile);
        }
    });
}

/// Gives every tile of `out` to `work` with its rows and columns, in parallel. Tiles depend on the shape alone.
fn for_each_tile(
    out: &mut ArrayViewMut2<'_, f32>,
    work: impl Fn(Range<usize>, Range<usize>, ArrayViewMut2<'_, f32>) + Sync,
) {
    let mut tiles = Vec::new();
    let fitting = TILES.iter().find(|(from, _)| out.len() >= *from);
    let [tile_rows, tile_cols] = fitting.map_or([256, 512], |(_, tile)| *tile);
    for (row, band) in out.axis_chunks_iter_mut(Axis(0), tile_rows).enumerate() {
        let rows = row * tile_rows..row * tile_rows + band.nrows();
        let mut rest = band;
        let mut col = 0;
        while rest.ncols() > 0 {
            let cols = rest.ncols().min(tile_cols);
            let (tile, right) = rest.split_at(Axis(1), cols);
            tiles.push((rows.clone(), col..col + cols, tile));
            (rest, col) = (right, col + cols);
        }
    }
    tiles.into_par_iter().for_each(|(rows, cols, tile)| work(rows, cols, tile));
}

/// [`apply_rows`] for few tokens; `false` where rows are not contiguous, and nothing was done.
fn apply_by_dots(
    x: &ArrayView2<'_, f32>,
    w: &ArrayView2<'_, f32>,
    out: &mut ArrayViewMut2<'_, f32>,
) -> bool {
    if x.as_slice().is_none() || w.as_slice().is_none() {
        return false;
    }
    for (x, mut out) in x.rows().into_iter().zip(out.rows_mut()) {
        let Some(x) = x.to_slice() else { return false };
        let mut pieces: Vec<_> = out.axis_chunks_iter_mut(Axis(0), DOTS).collect();
        pieces.par_iter_mut().enumerate().for_each(|(piece, out)| {
            for (i, out) in out.iter_mut().enumerate() {
                let row = w.row(piece * DOTS + i);
                *out = row.to_slice().map_or(0.0, |row| dot(x, row));
            }
        });
    }
    true
}

/// Σ aᵢ·bᵢ in 16 partial sums, in f32.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::numeric::seeds::Random;

    fn random(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
        let mut random = Random::new(seed);
        Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32)
    }

    #[test]
    fn products_are_those_of_plain_loops() {
        let shapes = [
            [0, 5, 3],
            [1, 40, 600],
            [4, 17, 65],
            [5, 33, 7],
            [300, 40, 600],
            [257, 1, 513],
            [9, 0, 4],
            [1030, 9, 2100],
            [1030, 5, 8200],
        ];
        for [tokens, inputs, outputs] in shapes {
            let (x, w) = (random(tokens, inputs, 3), random(outputs, inputs, 9));
            let mut out = Array2::from_elem((tokens, outputs), f32::NAN);
            apply_rows(x.view(), w.view(), out.view_mut(), &|| false);
            for ((token, output), &found) in out.indexed_iter() {
                let terms = x.row(token).into_iter().zip(w.row(output));
                let exact: f64 = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((f64::from(found) - exact).abs() < 1e-4, "{found} for {exact}");
            }
        }
    }

    #[test]
    fn outer_products_are_added_to_what_is_there() {
        let (d, x, before) = (random(19, 300, 4), random(19, 530, 5), random(300, 530, 6));
        let mut out = before.clone();
        add_outer(d.view(), x.view(), out.view_mut(), &|| false);
        for ((row, col), &found) in out.indexed_iter() {
            let terms = d.column(row).into_iter().zip(x.column(col));
            let sum: f64 = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let exact = f64::from(before[(row, col)]) + sum;
            assert!((f64::from(found) - exact).abs() < 1e-4, "{found} for {exact}");
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (x, w) = (random(700, 300, 1), random(900, 300, 2));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let mut out = Array2::zeros((700, 900));
            let mut outer = Array2::zeros((300, 300));
            pool.expect("a pool").install(|| {
                apply_rows(x.view(), w.view(), out.view_mut(), &|| false);
                add_outer(x.view(), x.view(), outer.view_mut(), &|| false);
            });
            (out, outer)
        };
        assert_eq!(on(1), on(3));
    }
}
