//! Blocks of llama.cpp, small floats, palettes and half-quadratic quantisation against other programs and closed forms.

use lapidary_engine::encoding::{BlockType, Blocks, Encoding};
use lapidary_engine::format::gguf::BLOCK_TYPES;
use lapidary_engine::method::Step;
use lapidary_engine::tensor::{DType, MatrixShape};
use lapidary_tests::{compress, matrix, normal_matrix, read_json, repository, rtn};
use ndarray::Array2;
use serde_json::Value;

const ROWS: usize = 64;
const COLS: usize = 1024;

fn golden() -> Value {
    read_json(&repository().join("tests/golden/blocks.json"))
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// The numbers of `make_blocks.py`: sums of twelve of a linear congruential generator.
fn nearly_normal(n: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u64::from(state >> 8)
    };
    (0..n)
        .map(|_| {
            let sum: u64 = (0..12).map(|_| next()).sum();
            (sum as f64 / f64::from(1 << 24) - 6.0) as f32
        })
        .collect()
}

fn content(what: &str) -> Array2<f32> {
    let normal = matrix(ROWS, COLS, nearly_normal(ROWS * COLS));
    match what {
        "normal" => normal,
        "heavy" => normal.mapv(|v| v * v * v),
        "leaning" => normal.mapv(|v| v.abs() * 0.5 - 0.25),
        "scaled" => {
            let mut scaled = normal;
            for ((_, col), value) in scaled.indexed_iter_mut() {
                *value = *value * (col % 7 + 1) as f32 / 64.0;
            }
            scaled
        }
        other => panic!("no content {other}"),
    }
}

fn blocks(kind: BlockType, weights: &Array2<f32>) -> Blocks {
    let step = Step::new("gguf-blocks").with("type", kind.name());
    match compress(&[step], weights, DType::F32).expect("it compresses") {
        Encoding::Blocks(blocks) => blocks,
        other => panic!("{:?}", other.layout()),
    }
}

fn error(weights: &Array2<f32>, decoded: &Array2<f32>) -> f64 {
    weights.iter().zip(decoded).map(|(&w, &d)| (f64::from(w) - f64::from(d)).powi(2)).sum()
}

#[test]
fn blocks_are_as_large_as_the_format_says() {
    for kind in BlockType::ALL {
        let known = BLOCK_TYPES.iter().find(|t| t.name.eq_ignore_ascii_case(kind.name())).unwrap();
        assert_eq!((known.elements, known.bytes), (kind.weights() as u64, kind.bytes() as u64));
        assert_eq!(BlockType::named(known.name), Some(kind));
    }
}

#[test]
fn every_block_decodes_to_the_bits_of_gguf_py() {
    for kind in BlockType::ALL {
        let entry = &golden()["decode"][kind.name()];
        let bytes = hex(entry["bytes"].as_str().unwrap());
        let wanted = hex(entry["f32_bits"].as_str().unwrap());
        let wanted: Vec<u32> =
            wanted.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let cols = wanted.len();
        let blocks = Blocks::new(MatrixShape { rows: 1, cols }, kind, bytes);
        let decoded = Encoding::Blocks(blocks).decode();
        let found: Vec<u32> = decoded.iter().map(|value| value.to_bits()).collect();
        assert_eq!(found, wanted, "{kind}");
    }
}

#[test]
fn plain_blocks_are_encoded_to_the_bits_of_gguf_py() {
    for what in ["normal", "heavy", "leaning", "scaled"] {
        let weights = content(what);
        for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"] {
            let kind = BlockType::named(name).unwrap();
            let wanted = hex(golden()["encode"][what][name].as_str().unwrap());
            let found = blocks(kind, &weights);
            assert!(found.as_bytes()[..wanted.len()] == wanted, "{name} of {what}");
        }
    }
}

#[test]
fn searched_blocks_lose_no_more_than_those_of_llama_cpp() {
    for what in ["normal", "heavy", "leaning", "scaled"] {
        let weights = content(what);
        for name in ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"] {
            let kind = BlockType::named(name).unwrap();
            let theirs = golden()["errors"][what][name].as_f64().unwrap();
            let ours = error(&weights, &Encoding::Blocks(blocks(kind, &weights)).decode());
            assert!(ours <= theirs, "{name} of {what}: {ours} where llama.cpp has {theirs}");
            assert!(ours > 0.3 * theirs, "{name} of {what}: {ours} is too good to be true");
        }
    }
}

/// Mean square error over variance.
fn distortion(step: Step, weights: &Array2<f32>) -> f64 {
    let zero = Array2::zeros(weights.dim());
    let decoded = compress(&[step], weights, DType::F32).expect("it compresses").decode();
    error(weights, &decoded) / error(weights, &zero)
}

#[test]
fn tables_and_floats_land_on_the_published_distortions() {
    let weights = normal_matrix(2031, 1024, 2048);
    let nf4 = |levels: &str| Step::new("nf4").with("levels", levels);
    // NF4 and FP4 in groups of 64; the Lloyd–Max errors of 4, 8 and 16 levels.
    let table = [
        ("nf4", nf4("nf4"), 0.008_45),
        ("fp4", nf4("fp4"), 0.014_87),
        ("2-bit palette", Step::new("optimal-palette").with("bits", 2), 0.117_48),
        ("3-bit palette", Step::new("optimal-palette").with("bits", 3), 0.034_55),
        ("4-bit palette", Step::new("optimal-palette").with("bits", 4), 0.009_50),
    ];
    for (what, step, wanted) in table {
        let found = distortion(step, &weights);
        assert!((found / wanted - 1.0).abs() < 0.01, "{what}: {found} where {wanted} is known");
    }
}

#[test]
fn nothing_beats_the_shannon_bound() {
    let weights = normal_matrix(2032, 128, 1024);
    let blocks = BlockType::ALL.map(|kind| Step::new("gguf-blocks").with("type", kind.name()));
    let micro = ["mxfp4", "mxfp8", "nvfp4"].map(|f| Step::new("microscaling").with("format", f));
    let bits = |method: &str| [2, 3, 4, 8].map(|bits| Step::new(method).with("bits", bits));
    let fp8 = ["e4m3", "e5m2"].map(|levels| Step::new("fp8").with("levels", levels));
    let steps =
        [&blocks[..], &micro, &bits("hqq"), &bits("optimal-palette"), &fp8, &[Step::new("nf4")]];
    let steps: Vec<Step> = steps.concat();
    assert_eq!(steps.len(), 26);
    for step in steps {
        let encoding = compress(std::slice::from_ref(&step), &weights, DType::F32).unwrap();
        let rate = encoding.bytes() as f64 * 8.0 / weights.len() as f64;
        let (found, bound) = (distortion(step.clone(), &weights), 2_f64.powf(-2.0 * rate));
        assert!(found > bound, "{step:?}: {found} at {rate} bits, bound {bound}");
        assert!(found < 0.2, "{step:?}: {found}");
    }
}

#[test]
fn floats_of_8_bits_lose_what_their_mantissas_say() {
    // Within an octave [1, 2) the error of steps of h is h²/12 and the power 7/3 for even spread.
    let n = 1 << 16;
    let even: Vec<f32> = (0..n).map(|i| 1.0 + (i as f32 + 0.5) / n as f32).collect();
    let mut weights = matrix(1, n, even);
    for (levels, top, step) in [("e4m3", 448.0_f32, 1.0 / 8.0), ("e5m2", 57_344.0, 1.0 / 4.0)] {
        // The largest weight makes the scale 1.
        weights[[0, 0]] = top;
        let fp8 = Step::new("fp8").with("levels", levels);
        let decoded = compress(&[fp8], &weights, DType::F32).unwrap().decode();
        let mean = error(&weights, &decoded) / n as f64;
        let wanted = step * step / 12.0;
        assert!((mean / wanted - 1.0).abs() < 0.01, "{levels}: {mean} {wanted}");
        assert_eq!(decoded[[0, 0]], top);
    }
}

#[test]
fn hqq_lowers_the_norm_it_aims_at_and_fractions_fit_best() {
    let weights = normal_matrix(2033, 64, 1024);
    let p_norm = |step: Step, p: f32| -> f64 {
        let decoded = compress(&[step], &weights, DType::F32).unwrap().decode();
        weights.iter().zip(&decoded).map(|(&w, &d)| f64::from((w - d).abs().powf(p))).sum()
    };
    for bits in [2, 3, 4] {
        for size in [32, 64] {
            let hqq = |zero: &str| {
                let step = Step::new("hqq").with("bits", bits).with("group_size", size);
                step.with("symmetry", zero)
            };
            let plain = rtn(bits).with("group_size", size).with("symmetry", "asymmetric");
            let (plain, whole) = (p_norm(plain, 0.7), p_norm(hqq("asymmetric"), 0.7));
            let fractional = p_norm(hqq("fractional"), 0.7);
            assert!(whole <= plain, "{bits} bits of {size}: {whole} {plain}");
            assert!(fractional < 0.99 * plain, "{bits} bits of {size}: {fractional} {plain}");
            let once = p_norm(hqq("fractional").with("rounds", 1), 0.7);
            assert!(fractional < once, "more rounds help");
        }
    }
}
