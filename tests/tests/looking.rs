//! Looking at weights: planted cases are found and named right, pictures equal brute force.

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::numeric::grouping::Grouping;
use lapidary_engine::numeric::pooling::pool;
use lapidary_engine::statistics::{
    Field, Profile, Statistics, Structure, Verdict, measure, measure_heat, measure_profile,
    measure_structure, window,
};
use lapidary_engine::tensor::DType;
use lapidary_tests::{Weights, data, normals, on_threads, sample};
use ndarray::{Array2, s};
use tempfile::TempDir;

const NAME: &str = "layers.0.fc1.weight";

/// A checkpoint of one F32 layer.
fn layer(rows: usize, cols: usize, values: &[f32]) -> (TempDir, Checkpoint) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("one.safetensors");
    Weights::new().f32(NAME, &[rows, cols], values).write(&path);
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    (folder, checkpoint)
}

fn look(rows: usize, cols: usize, values: &[f32]) -> (Statistics, Structure, Profile) {
    let (_folder, checkpoint) = layer(rows, cols, values);
    let statistics = measure(&checkpoint, 0, &Silent).expect("statistics");
    let spread = (statistics.mean, statistics.std);
    let structure = measure_structure(&checkpoint, 0, spread, &Silent).expect("a structure");
    let profile = measure_profile(&checkpoint, 0, statistics.mean, &Silent).expect("a profile");
    (statistics, structure, profile)
}

#[test]
fn a_planted_spike_is_found_by_place_and_named_a_super_weight() {
    let mut values = normals(1, 300 * 200);
    values[123 * 200 + 45] = -90.0;
    let (statistics, structure, profile) = look(300, 200, &values);
    assert_eq!(statistics.super_weight_count, 1);
    assert_eq!(statistics.super_weights[0].index, 123 * 200 + 45);
    assert_eq!(statistics.super_weights[0].value, -90.0);
    let largest = structure.largest[0];
    assert_eq!((largest.row, largest.col, largest.value), (123, 45, -90.0));
    assert_eq!(structure.concentration.verdict(), Verdict::Scattered, "one weight is no column");
    assert!(structure.concentration.hot_columns.is_empty());
    assert_eq!(profile.rows.abs_max[123], 90.0);
    assert_eq!(profile.cols.abs_max[45], 90.0);
    assert!(profile.rows.kurtosis[123] > 100.0);
}

#[test]
fn a_hot_column_and_a_hot_row_are_told_apart_from_scattered_outliers() {
    let (rows, cols) = (512, 400);
    let mut column = normals(2, rows * cols);
    for row in 0..rows {
        column[row * cols + 37] *= 12.0;
    }
    let (_, structure, profile) = look(rows, cols, &column);
    let found = &structure.concentration;
    assert_eq!((found.verdict(), &found.hot_columns[..]), (Verdict::Columns, &[37][..]));
    assert!(found.in_columns > 0.95 && found.hot_rows.is_empty(), "{found:?}");
    assert!(found.against_normal > 20.0, "{found:?}");
    assert!((profile.cols.std[37] - 12.0).abs() < 1.5, "{}", profile.cols.std[37]);
    assert!((profile.cols.std[36] - 1.0).abs() < 0.15);

    let mut row = normals(2, rows * cols);
    for w in &mut row[99 * cols..100 * cols] {
        *w *= 12.0;
    }
    let (_, structure, _) = look(rows, cols, &row);
    let found = &structure.concentration;
    assert_eq!((found.verdict(), &found.hot_rows[..]), (Verdict::Rows, &[99][..]));

    let mut scattered = normals(2, rows * cols);
    for w in scattered.iter_mut().step_by(1999) {
        *w += 15.0;
    }
    let (_, structure, _) = look(rows, cols, &scattered);
    let found = &structure.concentration;
    assert!(found.outliers > 90, "{found:?}");
    assert_eq!(found.verdict(), Verdict::Scattered);
    assert!((found.in_columns + found.in_rows + found.scattered - 1.0).abs() < 1e-12);

    let (_, structure, _) = look(rows, cols, &normals(3, rows * cols));
    let found = &structure.concentration;
    assert_eq!(found.verdict(), Verdict::NoOutliers);
    // 204,800 normal weights: 13 beyond 4 std are expected.
    assert!((4..30).contains(&found.outliers) && found.against_normal < 1.5, "{found:?}");
}

#[test]
fn a_hot_column_is_told_from_the_many_outliers_a_large_normal_matrix_has_anyway() {
    let (rows, cols) = (3000, 3000);
    let mut values = normals(6, rows * cols);
    for row in 0..rows {
        values[row * cols + 1234] *= 2.5;
    }
    let (_, structure, _) = look(rows, cols, &values);
    let found = &structure.concentration;
    assert!(found.against_normal < 2.0 && found.in_columns < 0.5, "{found:?}");
    assert_eq!((found.verdict(), &found.hot_columns[..]), (Verdict::Columns, &[1234][..]));
}

/// A small layer: its few outliers are not to be hidden by what chance is granted.
#[test]
fn the_tails_are_the_plain_ratio_to_a_normal_distribution_also_in_a_small_layer() {
    let (rows, cols) = (24, 64);
    let mut values = normals(11, rows * cols);
    for w in values.iter_mut().step_by(151) {
        *w += 15.0;
    }
    let (statistics, structure, _) = look(rows, cols, &values);
    let z = values.iter().map(|w| (f64::from(*w) - statistics.mean) / statistics.std);
    let mass: f64 = z.filter(|z| z.abs() > 4.0).map(|z| z * z).sum();
    let found = &structure.concentration;
    let wanted = mass / (0.001_134 * (rows * cols) as f64);
    assert!(wanted > 50.0 && (found.against_normal / wanted - 1.0).abs() < 1e-9, "{found:?}");
    assert_eq!(found.verdict(), Verdict::Scattered);

    // One weight just beyond 4 std is chance, whatever the ratio.
    let mut values = vec![1.0_f32; 400];
    values.iter_mut().step_by(2).for_each(|w| *w = -1.0);
    values[33] = 4.3;
    let (_, structure, _) = look(20, 20, &values);
    let found = &structure.concentration;
    assert_eq!((found.outliers, found.verdict()), (1, Verdict::NoOutliers), "{found:?}");
    assert!(found.against_normal > 30.0, "{found:?}");
}

#[test]
fn a_cross_of_row_and_column_is_counted_once() {
    let (rows, cols) = (400, 400);
    let mut values = normals(4, rows * cols);
    for i in 0..400 {
        values[i * cols + 7] *= 12.0;
        values[11 * cols + i] *= 12.0;
    }
    let (_, structure, _) = look(rows, cols, &values);
    let found = structure.concentration;
    assert_eq!((&found.hot_columns[..], &found.hot_rows[..]), (&[7][..], &[11][..]));
    assert!((found.in_columns + found.in_rows + found.scattered - 1.0).abs() < 1e-9, "{found:?}");
    assert!(found.scattered < 0.05, "{found:?}");
}

#[test]
fn a_normal_matrix_is_as_theory_has_it() {
    let (statistics, structure, profile) = look(512, 512, &normals(5, 512 * 512));
    assert!(statistics.kurtosis.abs() < 0.05, "{}", statistics.kurtosis);
    assert!((statistics.mean_abs_deviation - (2.0 / std::f64::consts::PI).sqrt()).abs() < 0.005);
    let (normal, laplace) =
        (statistics.distance(statistics.normal()), statistics.distance(statistics.laplace()));
    assert!(normal < 0.02 && laplace > 0.08, "normal {normal}, Laplace {laplace}");
    // Simulated mean of max|x|/rms over 128 normal numbers: 2.79.
    let peak = structure.group_peak(Grouping::Group(128)).unwrap();
    assert!((2.7..2.9).contains(&peak), "{peak}");
    assert_eq!(structure.hidden_grid, None);
    let mean_std = profile.rows.std.iter().sum::<f32>() / 512.0;
    assert!((mean_std - 1.0).abs() < 0.01, "{mean_std}");
}

#[test]
fn profiles_equal_brute_force() {
    let (rows, cols) = (70, 33);
    let values: Vec<f32> = normals(6, rows * cols).iter().map(|w| 5.0 + w).collect();
    let (_, _, profile) = look(rows, cols, &values);
    let brute = |line: Vec<f64>| {
        let n = line.len() as f64;
        let mean = line.iter().sum::<f64>() / n;
        let moment = |p: i32| line.iter().map(|w| (w - mean).powi(p)).sum::<f64>() / n;
        (moment(2).sqrt(), moment(4) / moment(2).powi(2) - 3.0)
    };
    for row in 0..rows {
        let line = (0..cols).map(|col| f64::from(values[row * cols + col])).collect();
        let (std, kurtosis) = brute(line);
        assert!((f64::from(profile.rows.std[row]) - std).abs() < 1e-6);
        assert!((f64::from(profile.rows.kurtosis[row]) - kurtosis).abs() < 1e-5);
    }
    for col in 0..cols {
        let line = (0..rows).map(|row| f64::from(values[row * cols + col])).collect();
        let (std, kurtosis) = brute(line);
        assert!((f64::from(profile.cols.std[col]) - std).abs() < 1e-6);
        assert!((f64::from(profile.cols.kurtosis[col]) - kurtosis).abs() < 1e-5);
    }
}

#[test]
fn bf16_stored_as_f32_and_weights_rounded_before_are_found() {
    let bf16: Vec<f32> =
        normals(7, 64 * 256).iter().map(|w| f32::from_bits(w.to_bits() & 0xffff_0000)).collect();
    let (statistics, structure, _) = look(64, 256, &bf16);
    let bits = statistics.bits.unwrap();
    assert_eq!((bits.low_zero_bits, bits.narrowest), (16, Some(DType::BF16)));
    assert!(bits.floor_bits().unwrap() < 12.0, "{bits:?}");
    assert_eq!(structure.hidden_grid, None);

    let int4: Vec<f32> = normals(8, 64 * 256)
        .chunks(128)
        .flat_map(|group| {
            let step = group.iter().fold(0.0_f32, |a, w| a.max(w.abs())) / 7.0;
            group.iter().map(move |w| (w / step).round() * step)
        })
        .collect();
    let (_, structure, _) = look(64, 256, &int4);
    let grid = structure.hidden_grid.unwrap();
    assert_eq!((grid.grouping, grid.is_even), (Grouping::Group(128), true), "{grid:?}");
    assert!(grid.levels <= 15);

    let (statistics, _, _) = look(64, 256, &normals(9, 64 * 256));
    let bits = statistics.bits.unwrap();
    assert_eq!((bits.low_zero_bits, bits.narrowest), (0, None));
}

#[test]
fn a_lossless_floor_is_told_only_where_there_are_weights_enough() {
    let floor = |n: usize| {
        let (statistics, _, _) = look(1, n, &normals(12, n));
        statistics.bits.unwrap().floor_bits()
    };
    assert_eq!((floor(16), floor(1000)), (None, None), "their number is what would be told");
    // 23 random bits of mantissa, 1 of sign, 2.6 of exponent.
    assert!((26.0..27.0).contains(&floor(20_000).unwrap()), "{:?}", floor(20_000));
    let (statistics, _, _) = look(1, 64, &[1.0; 64]);
    assert_eq!(statistics.bits.unwrap().floor_bits(), Some(0.0), "one pattern is told by few");
}

#[test]
fn pictures_equal_brute_force_from_the_whole_down_to_single_weights() {
    // More than 2048 columns, so that the finest level kept is not the weights themselves.
    let (rows, cols) = (333, 2500);
    let values = normals(10, rows * cols);
    let (_folder, checkpoint) = layer(rows, cols, &values);
    let matrix = Array2::from_shape_vec((rows, cols), values).unwrap();
    let heat = measure_heat(&checkpoint, 0, Field::Weights, &Silent).unwrap();
    assert_eq!(heat.levels[0].step, 2);
    assert_eq!(heat.levels.last().unwrap().extreme.dim(), (1, 1));
    for level in &heat.levels {
        let wanted = pool(matrix.view(), level.step);
        assert_eq!(level.extreme, wanted.extreme, "step {}", level.step);
        for (found, wanted) in level.mean_abs.iter().zip(&wanted.mean_abs) {
            assert!((found - wanted).abs() <= 2e-6 * wanted, "step {}", level.step);
        }
    }
    let near = window(&checkpoint, 0, Field::Weights, (1, 100..140, 2000..2100), &Silent).unwrap();
    assert_eq!(near.extreme, matrix.slice(s![100..140, 2000..2100]));
    let zero = |_: usize, row: &mut [f32]| row.fill(0.0);
    let error = window(&checkpoint, 0, Field::Error(&zero), (1, 3..5, 0..9), &Silent).unwrap();
    assert_eq!(error.extreme, matrix.slice(s![3..5, 0..9]));
}

#[test]
fn what_is_seen_does_not_depend_on_the_threads() {
    let sample = sample();
    let stories = Checkpoint::open(&data("stories260K")).unwrap();
    for checkpoint in [&sample, &stories] {
        let index = (0..checkpoint.tensors().len())
            .find(|&i| checkpoint.tensors()[i].matrix.is_some())
            .unwrap();
        let all = || {
            (
                measure(checkpoint, index, &Silent).unwrap(),
                measure_structure(checkpoint, index, (0.0, 0.05), &Silent).unwrap(),
                measure_profile(checkpoint, index, 0.0, &Silent).unwrap(),
                measure_heat(checkpoint, index, Field::Weights, &Silent).unwrap(),
            )
        };
        let one = on_threads(1, all);
        assert!(one == on_threads(2, all) && one == on_threads(7, all));
    }
}
