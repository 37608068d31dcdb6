//! What each quantiser loses on N(0,1), through the public methods, against published and computed references.

use std::sync::OnceLock;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::encoding::Encoding;
use lapidary_engine::job::Sample;
use lapidary_engine::method::Step;
use lapidary_engine::numeric::distance::relative_error;
use lapidary_engine::tensor::DType;
use lapidary_tests::{Weights, compress, normal_matrix, read_json, repository, rtn};
use ndarray::Array2;
use serde_json::Value;
use tempfile::TempDir;

/// Allowed relative difference: the references' own precision.
const TOLERANCE: f64 = 0.01;

/// 2²¹ numbers: the mean square error of a group scatters by about its own size, and there are at least
/// 8,192 groups, so that the sampling noise stays below 0.5 %.
fn sample() -> &'static Array2<f32> {
    static SAMPLE: OnceLock<Array2<f32>> = OnceLock::new();
    SAMPLE.get_or_init(|| normal_matrix(2026, 1024, 2048))
}

/// Enough for statements that hold for every sample.
fn small_sample() -> Array2<f32> {
    normal_matrix(2027, 128, 1024)
}

/// Mean square error over variance.
fn distortion(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let decoded = encoding.decode();
    let (mut error, mut power) = (0.0, 0.0);
    for (&w, &d) in weights.iter().zip(&decoded) {
        error += (f64::from(w) - f64::from(d)).powi(2);
        power += f64::from(w).powi(2);
    }
    error / power
}

fn measured(steps: &[Step]) -> f64 {
    let encoding = compress(steps, sample(), DType::F32).expect("a sample compresses");
    distortion(sample(), &encoding)
}

#[track_caller]
fn assert_lands(what: &str, found: f64, wanted: f64) {
    let off = found / wanted - 1.0;
    assert!(
        off.abs() <= TOLERANCE,
        "{what}: {found:.5} where {wanted:.5} is known, off by {:.2} %",
        100.0 * off
    );
}

fn group(bits: i64, size: i64, symmetry: &str) -> Step {
    rtn(bits).with("group_size", size).with("symmetry", symmetry)
}

#[test]
fn quantisers_land_on_the_published_table() {
    let asymmetric = |bits, size| group(bits, size, "asymmetric");
    let tensor = |bits| rtn(bits).with("granularity", "tensor").with("clipping", "mse");
    // LSQ's levels are those of the symmetric grid, its step the one of least error over the whole sample.
    let table = [
        ("int2 asym g16", asymmetric(2, 16), 0.122),
        ("int3 asym g16", asymmetric(3, 16), 0.0222),
        ("int4 asym g16", asymmetric(4, 16), 0.00483),
        ("int2 asym g128", asymmetric(2, 128), 0.253),
        ("int3 asym g128", asymmetric(3, 128), 0.0464),
        ("int4 asym g128", asymmetric(4, 128), 0.0101),
        ("int4 asym g64", asymmetric(4, 64), 0.00830),
        ("int4 sym g64", group(4, 64, "symmetric-restricted"), 0.01159),
        ("LSQ 2", tensor(2), 0.1494),
        ("LSQ 3", tensor(3), 0.0406),
        ("LSQ 4", tensor(4), 0.0119),
    ];
    for (what, step, wanted) in table {
        assert_lands(what, measured(&[step]), wanted);
    }
}

#[test]
fn every_grid_lands_on_what_numpy_computes() {
    let golden = read_json(&repository().join("tests/golden/distortion.json"));
    let rows = golden["quantisers"].as_array().unwrap();
    assert!(rows.len() > 120, "only {} rows", rows.len());
    for row in rows {
        let integer = |name: &str| row[name].as_i64();
        let step = if let (Some(n), Some(m)) = (integer("n"), integer("m")) {
            Step::new("magnitude").with("pattern", "n-of-m").with("n", n).with("m", m)
        } else {
            let text = |name: &str| row[name].as_str().unwrap();
            group(integer("bits").unwrap(), integer("group").unwrap(), text("symmetry"))
                .with("clipping", text("clipping"))
        };
        let wanted = row.get("distortion").and_then(Value::as_f64).unwrap();
        assert_lands(&row.to_string(), measured(&[step]), wanted);
    }
}

/// The t at which P(|x| < t) = `share` for a standard normal x, by bisection of the error function's integral.
fn quantile_of_magnitude(share: f64) -> f64 {
    let (mut low, mut high) = (0.0, 10.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if share_below(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// P(|x| < t) by Simpson's rule.
fn share_below(t: f64) -> f64 {
    let n = 400;
    let h = t / f64::from(n);
    let weight = |i| match i {
        0 => 1.0,
        i if i == n => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let sum: f64 = (0..=n).map(|i| weight(i) * density(f64::from(i) * h)).sum();
    2.0 * sum * h / 3.0
}

#[test]
fn magnitude_sparsity_loses_what_its_closed_form_says() {
    for fraction in [0.1, 0.3, 0.5, 0.7, 0.9, 0.99] {
        let t = quantile_of_magnitude(fraction);
        // ∫ x² φ(x) over |x| < t.
        let wanted = fraction - 2.0 * t * density(t);
        let step = Step::new("magnitude").with("fraction", fraction);
        assert_lands(&format!("{fraction} sparse"), measured(&[step]), wanted);
    }
}

#[test]
fn a_search_per_tensor_row_and_group_never_loses_to_min_max() {
    let weights = small_sample();
    let measured = |step: Step| {
        let encoding = compress(&[step], &weights, DType::F32).unwrap();
        distortion(&weights, &encoding)
    };
    for granularity in ["group", "channel", "tensor"] {
        for symmetry in ["symmetric", "symmetric-restricted", "asymmetric"] {
            for bits in 2..=8 {
                let step = rtn(bits).with("granularity", granularity).with("symmetry", symmetry);
                let searched = measured(step.clone().with("clipping", "mse"));
                let plain = measured(step);
                assert!(
                    searched <= plain,
                    "{bits} bits {granularity} {symmetry}: {searched} > {plain}"
                );
            }
        }
    }
}

#[test]
fn nothing_beats_the_shannon_bound() {
    let weights = small_sample();
    let mut tried = 0;
    let mut check = |steps: &[Step]| {
        let encoding = compress(steps, &weights, DType::F32).unwrap();
        let rate = encoding.bytes() as f64 * 8.0 / weights.len() as f64;
        let (found, bound) = (distortion(&weights, &encoding), 2_f64.powf(-2.0 * rate));
        tried += 1;
        assert!(
            found > bound,
            "{steps:?}: {found} at {rate} bits, where no code goes below {bound}"
        );
    };
    for bits in [2, 3, 4, 8] {
        for granularity in ["group", "channel", "tensor"] {
            for symmetry in ["symmetric", "asymmetric"] {
                let step = rtn(bits)
                    .with("granularity", granularity)
                    .with("group_size", 16)
                    .with("symmetry", symmetry)
                    .with("clipping", "mse");
                check(std::slice::from_ref(&step));
                check(&[Step::new("magnitude").with("fraction", 0.6), step]);
            }
        }
    }
    assert_eq!(tried, 48);
}

#[test]
fn a_sample_of_rows_estimates_what_all_rows_measure() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.safetensors");
    Weights::new().normal("model.layers.0.mlp.down_proj.weight", &[2048, 512]).write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let rows = Sample::new(&checkpoint, 0, &Silent).unwrap();
    let weights = checkpoint.weights(0, &Silent).unwrap();
    for (bits, group, symmetry) in
        [(2, 128, "symmetric"), (4, 64, "symmetric"), (4, 32, "asymmetric"), (8, 128, "symmetric")]
    {
        let step = Step::new("round-to-nearest").with("bits", bits).with("group_size", group);
        let steps = vec![step.with("symmetry", symmetry)];
        let damage = rows.damage(&steps, &Silent).unwrap();
        assert!(!damage.is_exact() && damage.rows == 512 && damage.of == 2048, "{damage:?}");
        let dtype = checkpoint.tensors()[0].dtype;
        let encoding = compress(&steps, &weights, dtype).unwrap();
        let exact = relative_error(weights.view(), encoding.decode().view());
        let off = (damage.relative_error / exact - 1.0).abs();
        assert!(off < 0.02, "{bits} bits: {} against {exact}", damage.relative_error);
    }
}
