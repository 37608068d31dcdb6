//! HIGGS: what is left depends on the grid alone, and on nothing else where weights are many enough to become normal.

use super::*;

fn relative(weights: &Array2<f32>, step: Step) -> f64 {
    let decoded = try_compress(&[step], weights, None).unwrap().decode();
    let off: f64 = weights.iter().zip(&decoded).map(|(&w, &d)| f64::from(w - d).powi(2)).sum();
    off / weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
}

fn higgs(bits: i64, grid: &str) -> Step {
    Step::new("higgs").with("bits", bits).with("grid", grid)
}

#[test]
fn what_is_left_is_that_of_the_grid_whatever_the_weights() {
    let normal = normals(4, 256, 1024);
    let heavy = normal.mapv(|x| x * x.abs());
    let two = normal.mapv(|x| 3.0 * x.signum());
    for (bits, alone, paired) in
        [(2, 0.11748, 0.10758), (3, 0.03455, 0.02972), (4, 0.00950, 0.00777)]
    {
        for (weights, what) in
            [(&normal, "normal"), (&heavy, "signed squares"), (&two, "two values")]
        {
            for (grid, known) in [("scalars", alone), ("pairs", paired)] {
                let found = relative(weights, higgs(bits, grid));
                assert!((found / known - 1.0).abs() < 0.02, "{bits} {grid} of {what}: {found}");
            }
        }
    }
}

/// A spike of a row of 256 becomes ±1/16 of itself everywhere: every code is that of the level nearest to 1.
#[test]
fn a_lone_spike_is_a_row_of_one_magnitude() {
    let mut weights = Array2::zeros((1, 256));
    weights[[0, 77]] = 8.0;
    let found = relative(&weights, higgs(2, "scalars"));
    // Of Lloyd and Max's levels 0.4528 and 1.5104 the second is nearer to 1.
    let level = 1.510_4_f64;
    assert!((found - (1.0 - level).powi(2)).abs() < 2e-3, "{found}");
}

/// Groups that do not divide the row, of lengths with odd factors, have scales of their own.
#[test]
fn runs_of_any_length_are_turned_by_themselves() {
    let mut weights = normals(6, 40, 330);
    weights.slice_mut(s![.., 256..]).mapv_inplace(|x| 100.0 * x);
    for (group, groups) in [(64, 6), (256, 2), (1024, 1)] {
        let step = higgs(4, "pairs").with("group_size", group);
        let encoding = try_compress(std::slice::from_ref(&step), &weights, None).unwrap();
        let bits = encoding.bytes() as f64 * 8.0 / weights.len() as f64;
        let expected = 4.0 + 32.0 * f64::from(groups) / 330.0;
        assert!((bits - expected).abs() < 0.1, "{group}: {bits} for {expected}");
        let decoded = encoding.decode();
        let left = |cols: std::ops::Range<usize>| {
            let (w, d) = (weights.slice(s![.., cols.clone()]), decoded.slice(s![.., cols]));
            let off: f64 = w.iter().zip(d).map(|(&w, &d)| f64::from(w - d).powi(2)).sum();
            off / w.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
        };
        // One group for all mixes small with large; groups that end between them keep them apart.
        let small = left(0..256);
        assert!(if group == 1024 { small > 0.5 } else { small < 0.009 }, "{group}: {small}");
        assert!(left(256..330) < 0.009, "{group}");
    }
}
