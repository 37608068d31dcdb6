//! Closed forms and brute force of the sums of products.

use ndarray::{Array1, Array2, array, s};

use super::*;
use crate::numeric::seeds::Random;

fn normal(seed: u64, tokens: usize, channels: usize) -> Array2<f32> {
    let mut random = Random::new(seed);
    Array2::from_shape_simple_fn((tokens, channels), || random.normal() as f32)
}

fn gram_of(x: &Array2<f32>) -> Gram {
    let mut gram = Gram::new(x.ncols());
    gram.add(x.view());
    gram
}

/// Σ x·xᵀ in f64.
fn exact(x: &Array2<f32>) -> Array2<f64> {
    let wide = x.mapv(f64::from);
    wide.t().dot(&wide)
}

#[track_caller]
fn assert_close(found: &Array2<f64>, wanted: &Array2<f64>, tolerance: f64) {
    assert_eq!(found.dim(), wanted.dim());
    for ((i, j), value) in wanted.indexed_iter() {
        let scale = (wanted[[i.min(wanted.nrows() - 1), i.min(wanted.ncols() - 1)]].abs() + 1.0)
            .max(value.abs());
        assert!(
            (found[[i, j]] - value).abs() <= tolerance * scale,
            "({i}, {j}): {} for {value}",
            found[[i, j]]
        );
    }
}

#[test]
fn one_token_is_exact() {
    let gram = gram_of(&array![[1.0, -2.0, 3.0]]);
    assert_eq!(gram.to_dense(), array![[1.0, -2.0, 3.0], [-2.0, 4.0, -6.0], [3.0, -6.0, 9.0]]);
    assert_eq!((gram.tokens(), gram.diagonal()), (1, vec![1.0, 4.0, 9.0]));
    assert_eq!(gram.get(0, 2), 3.0);
    assert_eq!(gram.to_dense_f32()[[2, 1]], -6.0);
}

#[test]
fn every_shape_agrees_with_brute_force() {
    for (tokens, channels) in
        [(1, 1), (5, 1), (1, 200), (300, 127), (700, 128), (2100, 129), (40, 300), (0, 3)]
    {
        let x = normal(3, tokens, channels);
        let gram = gram_of(&x);
        assert_close(&gram.to_dense(), &exact(&x), 2e-6);
        assert_eq!(gram.tokens(), tokens as u64);
        assert_eq!(gram.bytes(), gram.tiles_bytes(), "{channels}");
    }
    assert_eq!(Gram::new(0).to_dense().dim(), (0, 0));
}

impl Gram {
    fn tiles_bytes(&self) -> u64 {
        let rows = self.tiles.tile_rows();
        let tiles = (0..rows).flat_map(|i| (0..=i).map(move |j| (i, j)));
        tiles
            .map(|(i, j)| {
                8 * (self.tiles.tile(i, j).nrows() * self.tiles.tile(i, j).ncols()) as u64
            })
            .sum()
    }
}

#[test]
fn threads_change_no_bit_and_merging_adds() {
    let x = normal(5, 3000, 300);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| gram_of(&x))
    };
    assert_eq!(run(1), run(2));
    // Where a cut falls between pieces, even the bits are those of one call.
    let (mut first, second) = (
        gram_of(&x.slice(s![..1024, ..]).to_owned()),
        gram_of(&x.slice(s![1024.., ..]).to_owned()),
    );
    let mut continued = first.clone();
    continued.add(x.slice(s![1024.., ..]));
    assert_eq!(continued, run(2));
    first.merge(&second);
    assert_eq!(first.tokens(), 3000);
    assert_close(&first.to_dense(), &continued.to_dense(), 1e-15);
}

#[test]
fn views_of_any_layout_and_values_that_are_no_numbers() {
    let x = normal(5, 300, 70);
    let turned = x.t().as_standard_layout().into_owned();
    let mut gram = Gram::new(70);
    gram.add(turned.t());
    assert_eq!(gram, gram_of(&x));
    assert!(gram.is_finite());
    let mut bad = x;
    bad[[17, 3]] = f32::NAN;
    let gram = gram_of(&bad);
    assert!(!gram.is_finite() && gram.get(3, 9).is_nan() && gram.get(4, 9).is_finite());
    assert!(matches!(gram.eigenvalues(&|| false), Err(Stopped::NotFinite)));
    assert_eq!(gram.cholesky(&|| false).unwrap().rank(), 0);
}

#[test]
fn the_lower_triangle_goes_there_and_back() {
    let gram = gram_of(&normal(2, 50, 150));
    let mut lower = Vec::new();
    (0..150).for_each(|i| gram.write_lower_row(i, &mut lower));
    let back = Gram::from_lower(150, 50, &lower).unwrap();
    assert_eq!(back.to_dense_f32(), gram.to_dense_f32());
    assert_eq!(Gram::from_lower(150, 50, &lower[1..]), None);
    assert_eq!(Gram::from_lower(usize::MAX, 0, &[]), None);
}

#[test]
fn quadratic_forms_are_sums_of_squares() {
    let (x, d) = (normal(1, 500, 200), normal(2, 70, 200));
    let forms = gram_of(&x).quadratic_forms(d.view());
    let outputs = x.mapv(f64::from).dot(&d.mapv(f64::from).t());
    for (form, column) in forms.iter().zip(outputs.columns()) {
        let wanted: f64 = column.iter().map(|y| y * y).sum();
        assert!((form / wanted - 1.0).abs() < 1e-5, "{form} for {wanted}");
    }
}

#[test]
fn eigenvalues_of_few_tokens_are_those_of_their_own_products() {
    // 40 tokens in 300 channels: rank 40, with the eigenvalues of X·Xᵀ.
    let x = normal(4, 40, 300);
    let values = gram_of(&x).eigenvalues(&|| false).unwrap();
    let small = gram_of(&x.t().to_owned()).eigenvalues(&|| false).unwrap();
    for (value, wanted) in values.iter().zip(&small) {
        assert!((value / wanted - 1.0).abs() < 1e-5);
    }
    assert!(values[40] < 1e-6 * values[0], "{}", values[40] / values[0]);
    assert!(matches!(gram_of(&x).eigenvalues(&|| true), Err(Stopped::Cancelled)));
}

#[test]
fn cholesky_restores_matrices_of_any_rank() {
    for (tokens, channels) in [(1, 5), (40, 300), (900, 200), (5, 1), (200, 200)] {
        let gram = gram_of(&normal(9, tokens, channels));
        let found = gram.cholesky(&|| false).unwrap();
        assert_eq!(found.rank(), tokens.min(channels));
        let l = found.factor();
        let product = Array2::from_shape_fn((channels, channels), |(i, j)| {
            (0..found.rank()).map(|k| l[(i, k)] * l[(j, k)]).sum::<f64>()
        });
        assert_close(&product, &gram.to_dense(), 1e-5);
        let triangle = found.triangle();
        for (i, &row) in found.pivots().iter().enumerate() {
            assert!(
                (0..found.rank()).all(|k| triangle[(i, k)] == l[(row, k)]),
                "rows of a triangle"
            );
        }
    }
    assert_eq!(Gram::new(4).cholesky(&|| false).unwrap().rank(), 0);
    assert!(gram_of(&normal(9, 20, 20)).cholesky(&|| true).is_none());
}

#[test]
fn rows_are_those_of_the_whole() {
    for channels in [1, 7, 128, 129, 300] {
        let gram = gram_of(&normal(8, 40, channels));
        let whole = gram.to_dense();
        for first in (0..channels).step_by(8) {
            let rows = first..(first + 8).min(channels);
            let mut found = vec![0.0; rows.len() * channels];
            gram.tiles().copy_rows(rows.clone(), &mut found);
            assert!(whole.slice(s![rows, ..]).iter().eq(&found), "{channels}: from {first}");
        }
    }
}

#[test]
fn the_mean_is_taken_out() {
    let mut x = normal(6, 400, 150);
    x += 3.0;
    let sums: Vec<f64> = x.mapv(f64::from).sum_axis(Axis(0)).to_vec();
    let mean = Array1::from(sums.clone()) / 400.0;
    let apart = x.mapv(f64::from) - &mean;
    assert_close(&gram_of(&x).centred(&sums).to_dense(), &apart.t().dot(&apart), 2e-5);
}

#[test]
fn products_of_two_agree_with_brute_force() {
    for (tokens, a, b) in [(700, 130, 260), (3, 1, 1), (1500, 128, 5)] {
        let (x, y) = (normal(1, tokens, a), normal(2, tokens, b));
        let mut cross = Cross::new(a, b);
        cross.add(x.view(), y.view());
        let wanted = x.mapv(f64::from).t().dot(&y.mapv(f64::from));
        for (found, wanted) in cross.sums().iter().zip(&wanted) {
            assert!((found - wanted).abs() < 1e-6 * tokens as f64, "{found} for {wanted}");
        }
        let mut twice = cross.clone();
        twice.merge(&cross);
        assert_eq!(twice.sums()[[0, 0]], 2.0 * cross.sums()[[0, 0]]);
    }
}
