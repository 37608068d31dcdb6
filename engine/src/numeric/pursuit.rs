//! Matching pursuit: the few entries by which a matrix comes nearest to another, in its entries or in the outputs.

use faer::MatRef;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _,
    ParallelSlice as _, ParallelSliceMut as _,
};

use crate::numeric::gram::Gram;

/// Portions in which places are chosen where one that is taken changes what others would gain.
const PORTIONS: usize = 8;
/// How often the values of a row are moved in turn behind each portion, and behind the last.
const SWEEPS: [usize; 2] = [1, 4];

/// Places and values of S, `count` of them or all, that make ‖(D − S)·H^½‖ small, H = Σ x·xᵀ or without `gram` the
/// identity: places as row·cols + col, ascending.
///
/// With g = (D − S)·H, a value that moves by δ changes the square by δ²·Hⱼⱼ − 2·δ·gᵢⱼ, so that the best gains
/// gᵢⱼ²/Hⱼⱼ. Places of the largest gains are taken, an eighth at a time, of equal ones the first; then every value in
/// turn goes to `stored` of its best where that is better (Mallat & Zhang 1993, with all coefficients refitted). S = 0
/// is where it begins and no move makes it worse. Without `gram` these are the largest entries themselves.
/// Cost: 2·rows·cols² operations for g and up to 12·cols for each value, in f64; memory 8·cols² + 16·rows·cols bytes.
/// `None` once `is_cancelled`. The same on any number of threads.
///
/// # Panics
/// If the channels of `gram` are not the columns of `d`.
pub fn pursue(
    d: ArrayView2<'_, f32>,
    gram: Option<&Gram>,
    count: usize,
    stored: &(dyn Fn(f64) -> f32 + Sync),
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<(Vec<usize>, Vec<f32>)> {
    let cols = d.ncols();
    let count = count.min(d.len());
    if count == 0 {
        return Some((Vec::new(), Vec::new()));
    }
    let h = gram.map(Gram::to_dense);
    let own: Vec<f64> = match &h {
        Some(h) => h.diag().to_vec(),
        None => vec![1.0; cols],
    };
    chase(gradient(d, gram, is_cancelled)?, (h.as_ref(), &own), count, (stored, is_cancelled))
}

/// The same from g = D·H, row-major, and H: for rows of D as combinations of others, g = W·Aᵀ and H = A·Aᵀ of those A.
///
/// # Panics
/// If the gradient is not of whole rows of H.
pub fn pursue_along(
    gradient: Vec<f64>,
    h: &Array2<f64>,
    count: usize,
    stored: &(dyn Fn(f64) -> f32 + Sync),
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<(Vec<usize>, Vec<f32>)> {
    let count = count.min(gradient.len());
    if count == 0 {
        return Some((Vec::new(), Vec::new()));
    }
    assert_eq!(gradient.len() % h.ncols(), 0, "whole rows");
    chase(gradient, (Some(h), &h.diag().to_vec()), count, (stored, is_cancelled))
}

/// How values are stored, and whether somebody wants it to end.
type Rules<'r> = (&'r (dyn Fn(f64) -> f32 + Sync), &'r (dyn Fn() -> bool + Sync));

/// Portion by portion, places and values from the gradient where none is taken.
fn chase(
    mut gradient: Vec<f64>,
    (h, own): (Option<&Array2<f64>>, &[f64]),
    count: usize,
    (stored, is_cancelled): Rules<'_>,
) -> Option<(Vec<usize>, Vec<f32>)> {
    let cols = own.len();
    let rows = gradient.len() / cols;
    let mut few: Vec<Row> = (0..rows).map(|_| Row::default()).collect();
    let portions = if h.is_some() { PORTIONS } else { 1 };
    for portion in 1..=portions {
        let wanted = count * portion / portions - count * (portion - 1) / portions;
        take(&mut few, &gradient, own, wanted);
        let sweeps = SWEEPS[usize::from(portion == portions)];
        few.par_iter_mut().zip(gradient.par_chunks_mut(cols)).for_each(|(row, gradient)| {
            for _ in 0..sweeps {
                if is_cancelled() || !row.refit(gradient, h, own, stored) {
                    return;
                }
            }
        });
        if is_cancelled() {
            return None;
        }
    }
    let places = few.iter().enumerate();
    let places = places.flat_map(|(row, few)| few.columns.iter().map(move |col| row * cols + col));
    Some((places.collect(), few.iter().flat_map(|row| row.values.iter().copied()).collect()))
}

/// D·H, row-major.
fn gradient(
    d: ArrayView2<'_, f32>,
    gram: Option<&Gram>,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<f64>> {
    let (rows, cols) = d.dim();
    let mut wide: Vec<f64> = d.iter().map(|&value| f64::from(value)).collect();
    let Some(gram) = gram else { return Some(wide) };
    assert_eq!(gram.channels(), cols, "one channel a column");
    let view = MatRef::from_row_major_slice(&wide, rows, cols);
    let product = gram.tiles().multiplied_by(0, view, is_cancelled);
    if is_cancelled() {
        return None;
    }
    wide.par_chunks_mut(cols).enumerate().for_each(|(row, out)| {
        for (col, value) in out.iter_mut().enumerate() {
            *value = product[(row, col)];
        }
    });
    Some(wide)
}

/// What is taken of a row: columns, ascending, and their values.
#[derive(Default)]
struct Row {
    columns: Vec<usize>,
    values: Vec<f32>,
}

impl Row {
    /// Every value in turn at its best; whether one moved.
    fn refit(
        &mut self,
        gradient: &mut [f64],
        h: Option<&Array2<f64>>,
        own: &[f64],
        stored: &(dyn Fn(f64) -> f32 + Sync),
    ) -> bool {
        let mut has_moved = false;
        for (&col, value) in self.columns.iter().zip(&mut self.values) {
            let (now, slope, curve) = (f64::from(*value), gradient[col], own[col]);
            if curve <= 0.0 {
                continue;
            }
            let next = stored(now + slope / curve);
            let moved = f64::from(next) - now;
            if !next.is_finite() || moved * (moved * curve - 2.0 * slope) >= 0.0 {
                continue;
            }
            (*value, has_moved) = (next, true);
            match h.map(|h| h.row(col)) {
                None => gradient[col] -= moved,
                Some(along) => {
                    for (slope, along) in gradient.iter_mut().zip(along) {
                        *slope -= moved * along;
                    }
                }
            }
        }
        has_moved
    }
}

/// Takes the `wanted` places of the largest gains that are not yet taken.
fn take(few: &mut [Row], gradient: &[f64], own: &[f64], wanted: usize) {
    let cols = own.len();
    let mut gains = vec![0.0_f32; gradient.len()];
    gains.par_chunks_mut(cols).zip(gradient.par_chunks(cols)).zip(few.par_iter_mut()).for_each(
        |((gains, gradient), row)| {
            for ((gain, slope), own) in gains.iter_mut().zip(gradient).zip(own) {
                *gain = if *own > 0.0 { (slope.abs() / own.sqrt()) as f32 } else { 0.0 };
            }
            row.columns.iter().for_each(|&col| gains[col] = -1.0);
        },
    );
    let Some(last) = wanted.checked_sub(1) else { return };
    let mut sorted = gains.clone();
    let (_, &mut least, _) = sorted.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
    let mut of_least = wanted - gains.iter().filter(|&&gain| gain > least).count();
    for (row, gains) in few.iter_mut().zip(gains.chunks(cols)) {
        for (col, &gain) in gains.iter().enumerate() {
            let is_taken = gain > least || (gain == least && of_least > 0);
            if is_taken {
                of_least -= usize::from(gain == least);
                let at = row.columns.partition_point(|&other| other < col);
                row.columns.insert(at, col);
                row.values.insert(at, 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn normals(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
        let mut random = Random::new(seed);
        Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32)
    }

    fn left(d: &Array2<f32>, gram: &Gram, (places, values): &(Vec<usize>, Vec<f32>)) -> f64 {
        let mut rest = d.clone();
        for (at, value) in places.iter().zip(values) {
            rest[[at / d.ncols(), at % d.ncols()]] -= value;
        }
        gram.quadratic_forms(rest.view()).iter().sum()
    }

    #[test]
    fn without_inputs_the_largest_entries_are_taken_as_they_are() {
        let d = normals(1, 9, 31);
        let mut order: Vec<usize> = (0..d.len()).collect();
        let at = |i: usize| d[[i / 31, i % 31]];
        order.sort_by(|&a, &b| at(b).abs().total_cmp(&at(a).abs()));
        for count in [0, 1, 7, 100, 279, 500] {
            let (places, values) = pursue(d.view(), None, count, &|v| v as f32, &|| false).unwrap();
            let mut wanted = order[..count.min(279)].to_vec();
            wanted.sort_unstable();
            assert_eq!(places, wanted);
            assert!(places.iter().zip(&values).all(|(&i, &value)| at(i) == value));
        }
    }

    #[test]
    fn planted_entries_are_found_through_inputs_that_are_alike() {
        let (rows, cols) = (12, 40);
        let mut x = normals(2, 400, cols);
        for j in 1..cols {
            let before = x.column(j - 1).to_owned();
            x.column_mut(j).scaled_add(0.4, &before);
        }
        let mut gram = Gram::new(cols);
        gram.add(x.view());
        let mut planted = Array2::<f32>::zeros((rows, cols));
        let places: Vec<usize> = (0..20).map(|i| i * 24 + i % 5).collect();
        for (i, &at) in places.iter().enumerate() {
            planted[[at / cols, at % cols]] = 1.0 + i as f32 / 10.0;
        }
        let found = pursue(planted.view(), Some(&gram), 20, &|v| v as f32, &|| false).unwrap();
        assert_eq!(found.0, places);
        let all: f64 = gram.quadratic_forms(planted.view()).iter().sum();
        assert!(left(&planted, &gram, &found) < 1e-6 * all);
        // Beside noise, more entries leave less, and less than the largest entries by themselves.
        let d = &planted * 0.1 + &normals(3, rows, cols);
        let mut last = f64::INFINITY;
        for count in [1, 10, 40, 160] {
            let found = pursue(d.view(), Some(&gram), count, &|v| v as f32, &|| false).unwrap();
            assert_eq!(found.0.len(), count);
            let ours = left(&d, &gram, &found);
            let plain = pursue(d.view(), None, count, &|v| v as f32, &|| false).unwrap();
            assert!(ours < last && ours < left(&d, &gram, &plain), "{count}: {ours} after {last}");
            last = ours;
        }
    }

    #[test]
    fn it_stops_when_told() {
        let d = normals(4, 3, 5);
        let mut gram = Gram::new(5);
        gram.add(normals(5, 9, 5).view());
        assert!(pursue(d.view(), Some(&gram), 4, &|v| v as f32, &|| true).is_none());
    }
}
