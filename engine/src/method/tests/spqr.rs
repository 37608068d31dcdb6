//! `SpQR` against GPTQ, and what its outliers are.

use super::*;

fn spqr(bits: i64, share: f64) -> Step {
    Step::new("spqr").with("bits", bits).with("share", share)
}

/// The values of single weights and where they lie, zeros left out.
fn found(encoding: &Encoding) -> Vec<(usize, f32)> {
    let Encoding::Sum(sum) = encoding else { panic!("no outliers") };
    let values = sum.correction().decode();
    values.iter().copied().enumerate().filter(|(_, value)| *value != 0.0).collect()
}

#[test]
fn without_room_and_codes_it_is_gptq_with_zero_points() {
    let (weights, inputs) = (normals(41, 21, 150), correlated(42, 400, 150));
    for (bits, group) in [(2, 16), (3, 32), (4, 48)] {
        let plain = |order: &str| {
            let spqr = spqr(bits, 0.0).with("statistics", "plain");
            let steps = [spqr.with("group_size", group).with("order", order)];
            compress(&steps, &weights, &inputs)
        };
        let gptq = |order: &str| {
            let step = Step::new("gptq").with("bits", bits).with("symmetry", "asymmetric");
            compress(&[step.with("group_size", group).with("order", order)], &weights, &inputs)
        };
        assert_eq!(plain("columns"), gptq("columns"));
        // Another factorisation: a code on the edge between two may fall to the other.
        let (Encoding::Affine(ours), Encoding::Affine(theirs)) =
            (plain("activation"), gptq("activation"))
        else {
            panic!("grouped integers")
        };
        assert_eq!((ours.scales(), ours.zeros()), (theirs.scales(), theirs.zeros()));
        let others = ours.codes().iter().zip(theirs.codes()).filter(|(a, b)| a != b).count();
        assert!(others <= 30, "{others} codes differ");
    }
}

#[test]
fn with_room_for_all_nothing_is_lost_but_the_last_bits() {
    let (weights, inputs) = (normals(43, 20, 70), correlated(44, 300, 70));
    for order in ["activation", "columns"] {
        for statistics in ["codes", "plain"] {
            let step = spqr(3, 1.0).with("order", order).with("statistics", statistics);
            let decoded = compress(&[step], &weights, &inputs).decode();
            let squares = |all: Vec<f64>| all.iter().map(|x| x * x).sum::<f64>();
            let off = weights.iter().zip(&decoded).map(|(w, d)| f64::from(w - d)).collect();
            let left = squares(off) / squares(weights.iter().map(|&w| f64::from(w)).collect());
            // 16 bits lose 2⁻⁹ of a number, here of one that may be larger than its weight.
            assert!(left < 2_f64.powi(-16), "{order} {statistics}: {left}");
        }
    }
}

#[test]
fn spikes_are_the_outliers_and_grids_are_those_of_the_other_weights() {
    let (mut weights, inputs) = (normals(45, 32, 96), uncorrelated(96));
    let calm = weights.clone();
    let spikes: Vec<usize> = (0..12).map(|i| i * 251 + 7).collect();
    for &at in &spikes {
        weights[[at / 96, at % 96]] = if at % 2 == 0 { 20.0 } else { -20.0 };
    }
    let share = 12.0 / (32.0 * 96.0);
    for order in ["activation", "columns"] {
        let step = spqr(3, share).with("statistics", "plain").with("order", order);
        let encoding = compress(&[step], &weights, &inputs);
        let places: Vec<usize> = found(&encoding).iter().map(|(at, _)| *at).collect();
        // Inputs count by their size, so a spike on one that is hardly there may be left.
        assert!(places.iter().filter(|at| spikes.contains(at)).count() >= 11, "{places:?}");
        let Encoding::Sum(sum) = &encoding else { panic!("outliers") };
        let Encoding::Affine(grid) = sum.base() else { panic!("grouped integers") };
        for &at in places.iter().filter(|at| spikes.contains(at)) {
            let (row, group) = (at / 96, at % 96 / 16);
            let others = (group * 16..group * 16 + 16).map(|col| calm[[row, col]].abs());
            let most = others.fold(0.0, f32::max);
            let scale = grid.scales()[row * 6 + group];
            assert!(scale <= 2.0 * most / 7.0 * 1.001, "{scale} of a group up to {most}");
        }
    }
}

#[test]
fn more_room_leaves_less_and_none_is_exceeded() {
    let (weights, inputs) = (normals(46, 150, 160), correlated(47, 600, 160));
    let weights = weights.mapv(|x| x * x.abs());
    for order in ["activation", "columns"] {
        let mut last = f64::INFINITY;
        for share in [0.0, 0.003, 0.01, 0.05, 0.2] {
            let encoding = compress(&[spqr(3, share).with("order", order)], &weights, &inputs);
            let error = damage(&weights, &encoding, &inputs);
            assert!(error < last, "{order}: {error} with {share}, {last} with less");
            last = error;
            if share > 0.0 {
                let (room, used) = (share * 24_000.0, found(&encoding).len());
                assert!(
                    used as f64 <= room.ceil() && used as f64 > 0.95 * room,
                    "{used} of {room}"
                );
            }
        }
    }
    // A threshold that few weights exceed leaves room empty.
    let high = spqr(3, 0.2).with("threshold", 0.1);
    let few = found(&compress(&[high], &weights, &inputs)).len();
    assert!(few > 0 && few < 2400, "{few}");
}

/// b + 2·m/g + 64/(g·r) + (16 + 8)·share bits, the ends of rows apart.
#[test]
fn its_bits_are_those_of_the_paper() {
    let shape = MatrixShape { rows: 64, cols: 256 };
    let bits = |steps: &[Step]| {
        let bytes = chain_layout(steps, shape, DType::BF16).unwrap().bytes(shape);
        bytes as f64 * 8.0 / shape.elements() as f64
    };
    assert_eq!(bits(&[spqr(3, 0.0)]), 3.625);
    assert_eq!(bits(&[spqr(4, 0.0)]), 4.625);
    let ends = 64.0 * 8.0 / shape.elements() as f64;
    assert_eq!(bits(&[spqr(3, 1.0 / 128.0)]), 3.625 + 24.0 / 128.0 + ends);
    let wide = spqr(2, 0.0).with("group_size", 32).with("statistic_bits", 4);
    assert_eq!(bits(&[wide.with("statistic_rows", 64)]), 2.0 + 0.25 + 64.0 / 2048.0);
}

#[test]
fn at_equal_bits_it_leaves_less_than_gptq() {
    let (weights, inputs) = (normals(48, 128, 256), correlated(49, 900, 256));
    // Long tails, as trained weights have.
    let weights = weights.mapv(|x| x * (0.5 + x.abs()));
    let bits = |steps: &[Step]| {
        let shape = MatrixShape { rows: 128, cols: 256 };
        chain_layout(steps, shape, DType::BF16).unwrap().bytes(shape)
    };
    let gptq = [Step::new("gptq").with("bits", 4).with("group_size", 64)];
    let ours = [spqr(3, 0.01)];
    assert!(bits(&ours) < bits(&gptq));
    let gptq = [Step::new("gptq").with("bits", 3).with("group_size", 16)];
    assert!(bits(&ours) < bits(&gptq));
    let [found, other] =
        [&ours, &gptq].map(|s| damage(&weights, &compress(s, &weights, &inputs), &inputs));
    assert!(found < 0.7 * other, "{found} and {other}");
}
