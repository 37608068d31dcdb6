//! Blocks of llama.cpp chosen for the outputs: against plain loops, rounding and every other multiple.

use super::*;
use crate::encoding::{BlockRun, BlockType, Blocks, IQ4_LEVELS};

fn step(kind: BlockType, importance: &str) -> Step {
    Step::new("gguf-blocks").with("type", kind.name()).with("importance", importance)
}

fn blocks(encoding: &Encoding) -> &Blocks {
    match encoding {
        Encoding::Blocks(blocks) => blocks,
        Encoding::Sparse(sparse) => blocks(sparse.inner()),
        other => panic!("{:?}", other.layout()),
    }
}

fn runs(of: &Blocks) -> Vec<Vec<BlockRun>> {
    of.as_bytes().chunks(of.kind().bytes()).map(|block| of.kind().runs(block)).collect()
}

/// Every value a run can have.
fn values(kind: BlockType, run: BlockRun) -> Vec<f32> {
    let (low, count) = match kind {
        BlockType::Q2_K => (0, 4),
        BlockType::Q3_K => (-4, 8),
        BlockType::Q4_0 => (-8, 16),
        BlockType::Q4_1 | BlockType::Q4_K => (0, 16),
        BlockType::Q5_0 => (-16, 32),
        BlockType::Q5_1 | BlockType::Q5_K => (0, 32),
        BlockType::Q6_K => (-32, 64),
        BlockType::Q8_0 => (-128, 256),
        BlockType::IQ4_NL | BlockType::IQ4_XS => {
            let value = |&level: &i8| run.scale() * f32::from(level) + run.origin();
            return IQ4_LEVELS.iter().map(value).collect();
        }
    };
    (low..low + count).map(|level| run.scale() * level as f32 + run.origin()).collect()
}

#[test]
fn codes_are_those_of_the_plain_loop_on_scales_by_inputs() {
    let (rows, cols) = (3, 288);
    let (weights, inputs) = (normals(301, rows, cols), correlated(302, 900, cols));
    let diagonal = inputs.gram.as_ref().unwrap().diagonal();
    let mut order: Vec<usize> = (0..cols).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
    let u = plain_factor(&inputs, &order, 0.01);
    for kind in BlockType::ALL {
        let by_inputs = compress(&[step(kind, "inputs")], &weights, &inputs);
        let by_outputs = compress(&[step(kind, "outputs")], &weights, &inputs);
        let scales = runs(blocks(&by_inputs));
        assert_eq!(scales, runs(blocks(&by_outputs)), "{kind}: the scales stay");
        let (found, per_row) = (by_outputs.decode(), cols.div_ceil(kind.weights()));
        for row in 0..rows {
            let mut w: Vec<f64> = order.iter().map(|&j| f64::from(weights[[row, j]])).collect();
            for i in 0..cols {
                let at = order[i];
                let run =
                    scales[row * per_row + at / kind.weights()][at % kind.weights() / kind.run()];
                let away = |value: &f32| (f64::from(*value) - w[i]).abs();
                let near = values(kind, run);
                let nearest = near.iter().min_by(|a, b| away(a).total_cmp(&away(b))).unwrap();
                let got = found[[row, at]];
                // What f32 cannot tell apart may go either way.
                let slack = 1e-4 * run.scale().abs();
                assert!(away(&got) <= away(nearest) + f64::from(slack), "{kind} {row} {i}");
                let error = (w[i] - f64::from(got)) / u[i][i];
                for j in i + 1..cols {
                    w[j] -= error * u[i][j];
                }
            }
        }
    }
}

#[test]
fn with_inputs_apart_codes_are_the_nearest() {
    let (weights, inputs) = (normals(303, 4, 512), uncorrelated(512));
    for kind in BlockType::ALL {
        let of = |importance: &str| compress(&[step(kind, importance)], &weights, &inputs);
        assert_eq!(of("inputs").decode(), of("outputs").decode(), "{kind}");
    }
}

#[test]
fn outputs_and_polish_lower_the_damage_in_the_same_bytes() {
    let (weights, inputs) = (normals(304, 8, 320), correlated(305, 1200, 320));
    for kind in BlockType::ALL {
        let of = |steps: &[Step]| {
            let encoding = compress(steps, &weights, &inputs);
            assert_eq!(blocks(&encoding).as_bytes().len(), 8 * kind.row_bytes(320));
            damage(&weights, &encoding, &inputs)
        };
        let by_inputs = of(&[step(kind, "inputs")]);
        let by_outputs = of(&[step(kind, "outputs")]);
        let polished = of(&[step(kind, "outputs"), Step::new("polish")]);
        assert!(by_outputs < 0.6 * by_inputs, "{kind}: {by_outputs} {by_inputs}");
        assert!(polished < 0.95 * by_outputs, "{kind}: {polished} {by_outputs}");
        let mut before = by_outputs;
        for (what, rounds) in [("codes", 1), ("codes", 3), ("both", 3), ("both", 6)] {
            let polish = Step::new("polish").with("what", what).with("rounds", rounds);
            let now = of(&[step(kind, "outputs"), polish]);
            assert!(now <= before * (1.0 + 1e-6), "{kind} {what} {rounds}: {now} {before}");
            before = if what == "codes" { now } else { before };
        }
    }
}

#[test]
fn where_scales_have_settled_no_other_multiple_helps() {
    let (weights, inputs) = (normals(306, 2, 256), correlated(307, 900, 256));
    for kind in [BlockType::Q2_K, BlockType::Q3_K, BlockType::Q4_K, BlockType::IQ4_XS] {
        let scales = Step::new("polish").with("what", "scales").with("rounds", 20);
        let settled = compress(&[step(kind, "outputs"), scales], &weights, &inputs);
        let least = damage(&weights, &settled, &inputs);
        let settled = blocks(&settled);
        let decoded = Encoding::Blocks(settled.clone()).decode();
        let all = runs(settled);
        let each = all
            .iter()
            .enumerate()
            .flat_map(|(row, runs)| runs.iter().enumerate().map(move |(at, &run)| (row, at, run)));
        for ((row, at, run), steps) in each.flat_map(|run| [(run, -1), (run, 1)]) {
            let own = [f64::from(run.scale()), f64::from(run.origin())];
            let moved = kind.near(run, own, steps).unwrap();
            let mut other = decoded.clone();
            for col in at * kind.run()..(at + 1) * kind.run() {
                other[[row, col]] = on(moved, run, other[[row, col]]);
            }
            let gram = inputs.gram.as_ref().unwrap();
            let now = gram_weighted_error(weights.view(), other.view(), gram).error;
            assert!(now >= least * (1.0 - 1e-9), "{kind} {row} {at} {steps}");
        }
    }
}

/// The same level with another scale.
fn on(moved: BlockRun, run: BlockRun, value: f32) -> f32 {
    let steps = (value - run.origin()) / run.scale();
    let level = if run.scale() == 0.0 { 0.0 } else { steps.round() };
    moved.scale() * level + moved.origin()
}

#[test]
fn what_a_mask_drops_stays_zero() {
    let (weights, inputs) = (normals(308, 4, 256), correlated(309, 900, 256));
    let mask = Step::new("wanda").with("pattern", "n-of-m");
    for kind in [BlockType::Q4_0, BlockType::Q4_K, BlockType::Q3_K] {
        let chain = [mask.clone(), step(kind, "outputs"), Step::new("polish")];
        let found = compress(&chain, &weights, &inputs);
        let decoded = found.decode();
        let Encoding::Sparse(sparse) = &found else { panic!("a mask") };
        let dropped = (0..1024).filter(|&at| !sparse.mask().keeps(at));
        assert!(
            dropped.clone().count() == 512
                && dropped.map(|at| decoded[[at / 256, at % 256]]).all(|w| w == 0.0)
        );
        let plain = compress(&[mask.clone(), step(kind, "inputs")], &weights, &inputs);
        assert!(damage(&weights, &found, &inputs) < 0.9 * damage(&weights, &plain, &inputs));
    }
}
