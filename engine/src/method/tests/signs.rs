//! Signs, bits and trits: what is left of normal weights, and what a stack of levels promises.

use super::*;
use crate::encoding::Stack;
use crate::numeric::distributions::Distribution;

fn relative(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let decoded = encoding.decode();
    let off: f64 = weights.iter().zip(&decoded).map(|(&w, &d)| f64::from(w - d).powi(2)).sum();
    off / weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
}

/// The middles of 2¹⁶ equally likely parts of N(0, 1), each several times, in random order: of no sample's luck.
fn typical(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    const PARTS: usize = 1 << 16;
    let normal = Distribution::Normal { mean: 0.0, std: 1.0 };
    let quantile = |part: usize| {
        let share = (part as f64 + 0.5) / PARTS as f64;
        let (mut low, mut high) = (-6.0, 6.0);
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            let is_below = normal.cumulative(middle) < share;
            (low, high) = if is_below { (middle, high) } else { (low, middle) };
        }
        low as f32
    };
    let parts: Vec<f32> = (0..PARTS).map(quantile).collect();
    let mut values: Vec<f32> = parts.into_iter().cycle().take(rows * cols).collect();
    let mut random = Random::new(seed);
    for last in (1..values.len()).rev() {
        values.swap(last, (random.bits() % (last as u64 + 1)) as usize);
    }
    Array2::from_shape_vec((rows, cols), values).unwrap()
}

fn left_by(step: Step, weights: &Array2<f32>) -> f64 {
    let encoding = try_compress(&[step], weights, None).unwrap();
    let found = relative(weights, &encoding);
    let rate = encoding.bytes() as f64 * 8.0 / weights.len() as f64;
    assert!(found > (-2.0 * rate).exp2(), "{found} at {rate} bits is below Shannon's bound");
    found
}

fn stack_of(encoding: &Encoding) -> &Stack {
    match encoding {
        Encoding::Stack(stack) => stack,
        other => panic!("{:?}", other.layout()),
    }
}

fn bitstack(levels: i64, rank: i64) -> Step {
    Step::new("bitstack").with("levels", levels).with("rank", rank)
}

/// What numpy left of one sample of 1024 × 1024; samples of that size are half a per cent apart.
#[test]
fn levels_of_bitstack_leave_the_published_shares_in_true_bytes() {
    let weights = typical(31, 1024, 1024);
    let known = [(1, [0.3637, 0.1304, 0.0585, 0.0329]), (16, [0.3428, 0.1172, 0.0483, 0.0234])];
    for (rank, known) in known {
        let whole = try_compress(&[bitstack(4, rank)], &weights, None).unwrap();
        for (levels, known) in known.into_iter().enumerate() {
            let first = Encoding::Stack(stack_of(&whole).first(levels + 1));
            let found = relative(&weights, &first);
            assert!(
                (found / known - 1.0).abs() < 0.015,
                "rank {rank}, {levels}: {found} for {known}"
            );
            let bytes = (1024 * 1024 / 8 + 2 * rank as u64 * 2048) * (levels as u64 + 1);
            assert_eq!(first.bytes(), bytes);
            assert_eq!(first.layout().bytes(first.shape()), bytes);
        }
    }
}

#[test]
fn a_stack_that_is_cut_is_the_stack_of_fewer_levels() {
    let (weights, inputs) = (normals(32, 50, 70), correlated(33, 200, 70));
    for counted in ["alike", "by-inputs"] {
        let with =
            |levels| compress(&[bitstack(levels, 3).with("counted", counted)], &weights, &inputs);
        let whole = with(6);
        for levels in 1..=6 {
            let cut = Encoding::Stack(stack_of(&whole).first(levels as usize));
            assert_eq!(cut, with(levels), "{counted}, {levels}");
        }
        let all: Vec<f64> = (1..=6).map(|n| relative(&weights, &with(n))).collect();
        assert!(counted != "alike" || all.is_sorted_by(|a, b| a > b), "{all:?}");
    }
}

/// Sizes are projected on directions, so what is taken and what is left are at right angles.
#[test]
fn a_level_takes_away_its_own_power() {
    let weights = normals(34, 90, 60);
    for rank in [1, 5, 20] {
        let level = try_compress(&[bitstack(1, rank)], &weights, None).unwrap();
        let power =
            |values: &Array2<f32>| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let share = power(&level.decode()) / power(&weights);
        let found = relative(&weights, &level);
        assert!((share + found - 1.0).abs() < 2e-4, "rank {rank}: {share} and {found}");
    }
}

#[test]
fn sizes_of_rank_one_are_exact() {
    let signs = normals(35, 40, 24);
    let weights = Array2::from_shape_fn((40, 24), |(i, j)| {
        let size = (1 + i % 3) as f32 * 0.25 * (1 + j % 5) as f32;
        size.copysign(signs[[i, j]])
    });
    for step in [Step::new("onebit"), bitstack(1, 1)] {
        let encoding = try_compress(&[step], &weights, None).unwrap();
        // Factors of 11 bits.
        assert!(relative(&weights, &encoding) < 1e-6);
    }
}

#[test]
fn onebit_is_the_first_level_of_rank_one_and_factors_are_not_negative() {
    let (weights, inputs) = (normals(36, 200, 300), correlated(37, 400, 300));
    for counted in ["alike", "by-inputs"] {
        let with = |step: Step| compress(&[step.with("counted", counted)], &weights, &inputs);
        let one = with(Step::new("onebit"));
        assert_eq!(stack_of(&with(bitstack(1, 1))).levels(), std::slice::from_ref(&one));
        let Encoding::Signed(signed) = &one else { panic!("signs") };
        let sizes = signed.inner().decode();
        assert!(sizes.iter().all(|&size| size >= 0.0), "by Perron");
    }
    let found = left_by(Step::new("onebit"), &typical(38, 1024, 1024));
    assert!((found / 0.3637 - 1.0).abs() < 0.01, "{found}");
}

#[test]
fn errors_counted_by_inputs_are_smaller_in_outputs() {
    let (weights, inputs) = (normals(39, 60, 140), uncorrelated(140));
    let steps = [
        bitstack(2, 2),
        Step::new("onebit"),
        Step::new("ternary"),
        Step::new("bcq").with("bits", 2),
        Step::new("db-llm"),
    ];
    for step in steps {
        let [alike, counted] = ["alike", "by-inputs"].map(|counted| {
            let step = step.clone().with("counted", counted);
            damage(&weights, &compress(&[step], &weights, &inputs), &inputs)
        });
        assert!(counted < alike, "{step:?}: {counted} and {alike}");
    }
}

#[test]
fn trits_leave_what_three_levels_do_in_eight_bits_for_five() {
    let weights = typical(40, 512, 1024);
    let ternary =
        |scale: &str| Step::new("ternary").with("granularity", "tensor").with("scale", scale);
    for (scale, known) in [("least-squares", 0.1902), ("mean-size", 0.2634)] {
        let found = left_by(ternary(scale), &weights);
        assert!((found / known - 1.0).abs() < 0.01, "{scale}: {found} for {known}");
    }
    let bytes =
        |step: Step, weights: &Array2<f32>| try_compress(&[step], weights, None).unwrap().bytes();
    assert_eq!(bytes(ternary("mean-size"), &weights), 512 * 205 + 4);
    // 103 weights are 21 bytes, in groups of 48 that are no whole bytes.
    let ragged = Step::new("ternary").with("group_size", 48);
    assert_eq!(bytes(ragged, &normals(41, 7, 103)), 7 * (21 + 3 * 4));
}

#[test]
fn ternary_weights_stay_as_they_are() {
    let weights =
        normals(42, 30, 103).mapv(|w| if w.abs() > 0.7 { 0.375_f32.copysign(w) } else { 0.0 });
    for group in [16, 48, 128] {
        let step = Step::new("ternary").with("group_size", group);
        assert_eq!(try_compress(&[step], &weights, None).unwrap().decode(), weights);
    }
}

#[test]
fn binary_codes_leave_the_published_shares_and_rounds_never_more() {
    let weights = typical(43, 512, 1024);
    let bcq = |bits: i64, rounds: i64| {
        Step::new("bcq").with("bits", bits).with("rounds", rounds).with("granularity", "tensor")
    };
    for (bits, known) in [(1, 0.36338), (2, 0.13045), (3, 0.05839), (4, 0.0329)] {
        let greedy = left_by(bcq(bits, 0), &weights);
        assert!((greedy / known - 1.0).abs() < 0.01, "{bits}: {greedy} for {known}");
        let mut before = greedy;
        for rounds in [1, 5, 50] {
            let found = left_by(bcq(bits, rounds), &weights);
            assert!(found <= before, "{bits}, {rounds} rounds: {found} after {before}");
            before = found;
        }
        if bits == 2 {
            assert!((before / 0.1175 - 1.0).abs() < 0.01, "Lloyd and Max: {before}");
        }
    }
    let small = normals(44, 6, 100);
    let with = |bits| try_compress(&[bcq(bits, 0).with("granularity", "channel")], &small, None);
    let cut = Encoding::Stack(stack_of(&with(4).unwrap()).first(2));
    assert_eq!(cut, with(2).unwrap());
    assert_eq!(cut.bytes(), 2 * (75 + 6 * 4));
}

#[test]
fn planes_of_bits_leave_the_published_shares() {
    let weights = typical(45, 512, 1024);
    for (scales, known) in [("tied", 0.1494), ("free", 0.1380)] {
        let step = Step::new("db-llm").with("scales", scales).with("granularity", "tensor");
        let found = left_by(step.with("group_size", 64), &weights);
        assert!((found / known - 1.0).abs() < 0.01, "{scales}: {found} for {known}");
    }
}

#[test]
fn under_a_mask_scales_are_those_of_what_it_keeps() {
    // Kept weights are ±3, so that one scale is all there is, and the dropped would change it.
    let weights =
        normals(46, 8, 64).mapv(|w| if w.abs() > 0.6 { 3_f32.copysign(w) } else { 0.1 * w });
    let mask = Step::new("magnitude").with("fraction", 0.6);
    for id in ["ternary", "bcq", "db-llm"] {
        let dropped = try_compress(std::slice::from_ref(&mask), &weights, None).unwrap().decode();
        let found = try_compress(&[mask.clone(), Step::new(id)], &weights, None).unwrap().decode();
        for (found, kept) in found.iter().zip(&dropped) {
            assert!((found - kept).abs() < 1e-5, "{id}: {found} for {kept}");
        }
    }
    for id in ["bitstack", "onebit"] {
        let shape = MatrixShape { rows: 8, cols: 64 };
        let refused = chain_layout(&[mask.clone(), Step::new(id)], shape, DType::F32);
        assert!(refused.unwrap_err().sentence().contains("zeros"), "{id}");
    }
}

#[test]
fn one_bit_rows_leave_what_two_values_do_and_inputs_apart_are_integers() {
    let weights = typical(47, 64, 1024);
    let ptq =
        |share: f64, rounds: i64| Step::new("ptq161").with("share", share).with("rounds", rounds);
    // Every input as large as the others.
    let inputs = inputs_of(Array2::<f32>::eye(1024).view());
    let found = relative(&weights, &compress(&[ptq(0.0, 0)], &weights, &inputs));
    // A row's own two values fit its 1024 weights a little better.
    assert!((found / 0.3634 - 1.0).abs() < 0.01, "{found}");
    let all = compress(&[ptq(1.0, 0)], &weights, &inputs).decode();
    let integers = Step::new("round-to-nearest").with("granularity", "channel");
    let integers = integers.with("symmetry", "asymmetric").with("clipping", "weighted");
    let integers = compress(&[integers], &weights, &inputs);
    assert!(all == integers.decode(), "not the integers of the same grid");
    let fifth = compress(&[ptq(0.2, 5)], &weights, &inputs);
    // 205 inputs of 4 bits, a scale and a zero point a row; 819 of a bit, two values a row and a scale an input; the mask.
    let bytes = 64 * 205 / 2 + 64 * 4 + 32 + 64 * 819 / 8 + 64 * 8 + 819 * 4 + 128;
    assert_eq!(fifth.bytes(), bytes);
}

#[test]
fn inputs_of_the_largest_mean_square_are_apart_and_scales_are_never_worse() {
    let (mut weights, inputs) = (normals(48, 40, 110), correlated(49, 400, 110));
    for (j, mut column) in weights.columns_mut().into_iter().enumerate() {
        column *= 1.0 + (j % 3) as f32;
    }
    let with = |rounds: i64| {
        compress(&[Step::new("ptq161").with("rounds", rounds)], &weights, &inputs).decode()
    };
    let error = |decoded: &Array2<f32>| -> f64 {
        let off = (&weights - decoded).mapv(|off| f64::from(off).powi(2));
        let counts = inputs.mean_square.iter().map(|&count| f64::from(count));
        off.columns().into_iter().zip(counts).map(|(column, count)| column.sum() * count).sum()
    };
    let errors: Vec<f64> = [0, 1, 2, 5, 10].map(|rounds| error(&with(rounds))).to_vec();
    assert!(errors.is_sorted_by(|a, b| *b <= a * 1.0001), "{errors:?}");
    assert!(errors[3] < 0.9 * errors[0], "{errors:?}");
    // Of those apart there are more than two values in a column over all rows.
    let decoded = with(0);
    let mut order: Vec<usize> = (0..110).collect();
    order.sort_by(|&a, &b| inputs.mean_square[b].total_cmp(&inputs.mean_square[a]));
    let off = |at: &usize| {
        let column = (&weights - &decoded).column(*at).mapv(|off| off * off).sum();
        column / weights.column(*at).mapv(|w| w * w).sum()
    };
    let worst = order[..22].iter().map(off).fold(0.0, f32::max);
    let best = order[22..].iter().map(off).fold(f32::INFINITY, f32::min);
    assert!(worst < 0.5 * best, "{worst} of those apart, {best} of others");
}

#[test]
fn another_order_of_inputs_is_another_order_of_columns() {
    let (weights, x) = (normals(50, 12, 40), normals(51, 90, 40));
    let order: Vec<usize> = (0..40).map(|j| j * 7 % 40).collect();
    let moved = |all: &Array2<f32>| all.select(ndarray::Axis(1), &order);
    let with = |weights: &Array2<f32>, x: &Array2<f32>| {
        compress(&[Step::new("ptq161")], weights, &inputs_of(x.view())).decode()
    };
    let (plain, found) = (moved(&with(&weights, &x)), with(&moved(&weights), &moved(&x)));
    assert!(plain.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-4));
}
