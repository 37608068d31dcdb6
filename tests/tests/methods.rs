//! Every method of the registry × its parameters × shapes × contents: decodes, and is as large as predicted.

use lapidary_engine::encoding::{Affine, Encoding, Part};
use lapidary_engine::method::{
    Kind, METHODS, Method, Needs, Parameter, Stage, Step, Value, chain_label, chain_layout,
    chain_needs,
};
use lapidary_engine::tensor::{DType, MatrixShape, round_f32};
use lapidary_tests::{assert_says, compress, matrix, normal_matrix, normals, on_threads};
use ndarray::Array2;
use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};

/// Rows and columns, ragged, long, high and empty.
const SHAPES: [(usize, usize); 8] =
    [(1, 1), (1, 300), (140, 1), (7, 172), (32, 64), (0, 5), (5, 0), (0, 0)];

const CONTENTS: [&str; 6] = ["random", "zeros", "constant", "spike", "subnormal", "one-sided"];

fn content(kind: &str, rows: usize, cols: usize) -> Array2<f32> {
    let n = rows * cols;
    let values = match kind {
        "random" => normals(3, n),
        "zeros" => vec![0.0; n],
        "constant" => vec![-0.75; n],
        "spike" => (0..n).map(|i| if i == n / 2 { 1000.0 } else { 0.001 }).collect(),
        "subnormal" => normals(4, n).iter().map(|v| v * 1e-42).collect(),
        "one-sided" => normals(5, n).iter().map(|v| v.abs() + 0.1).collect(),
        other => panic!("no content {other}"),
    };
    matrix(rows, cols, values)
}

/// Rows and columns for chains that factor the Gram matrix, which is as large as its row is long.
const SHORTER: [(usize, usize); 8] =
    [(1, 1), (1, 140), (140, 1), (7, 86), (32, 64), (0, 5), (5, 0), (0, 0)];

/// Every shape, and for blocks longer rows, whole and ragged.
fn shapes_of(steps: &[Step]) -> Vec<(usize, usize)> {
    let has_blocks = steps.iter().any(|step| step.method == "gguf-blocks");
    let long = [(3, 256), (2, 700)];
    let usual = if chain_needs(steps) == Needs::Gram { SHORTER } else { SHAPES };
    usual.into_iter().chain(long.into_iter().filter(|_| has_blocks)).collect()
}

/// The values of a parameter that are tried: every choice, the ends and the default of a range.
fn tried(parameter: &Parameter) -> Vec<Value> {
    match parameter.kind {
        Kind::Integer { min, max, default, .. } => [min, default, max].map(Value::Integer).to_vec(),
        Kind::Fraction { min, max, default } => {
            [min, 0.3, default, max].map(Value::Fraction).to_vec()
        }
        Kind::Choice(options) => options.iter().map(|option| Value::from(option.id)).collect(),
    }
}

/// A step for every combination of tried values; parameters without effect stay at their default.
fn combinations(method: &dyn Method) -> Vec<Step> {
    let about = method.about();
    let mut steps = vec![Step::new(about.id)];
    for parameter in about.parameters {
        steps = steps
            .into_iter()
            .flat_map(|step| {
                let resolved = about.resolve(&step.parameters).expect("values of the schema");
                let values = if resolved.uses(parameter) { tried(parameter) } else { Vec::new() };
                if values.is_empty() {
                    return vec![step];
                }
                values.into_iter().map(|value| step.clone().with(parameter.name, value)).collect()
            })
            .collect();
    }
    steps
}

/// Methods that learn, decompose or search: each combination takes a hundred to a thousand times as long as to round.
const SLOW: [&str; 9] = [
    "aqlm",
    "vector-quantisation",
    "sparse-dictionary",
    "bitstack",
    "tensor-train",
    "entropy-coded",
    "bcq",
    "ccq",
    "seedlm",
];

/// All combinations of a method that needs the weights alone; of the others, which cost more, some eight, and four of
/// the slow ones.
fn thinned(method: &dyn Method) -> Vec<Step> {
    let all = combinations(method);
    let about = method.about();
    let most = match about.needs {
        _ if SLOW.contains(&about.id) => 4,
        Needs::Weights => all.len(),
        _ => 8,
    };
    let step = all.len().div_ceil(most);
    all.into_iter().step_by(step).collect()
}

/// Whether every weight that stays goes to the nearest level of its grid.
fn is_rounding(steps: &[Step]) -> bool {
    let methods = ["keep", "magnitude", "wanda", "round-to-nearest"];
    steps.iter().all(|step| methods.contains(&step.method.as_str()))
}

/// Every single step, every pruning step before a few quantisers, and every polish and correction behind a few of
/// both; those that make no sense left out.
fn chains() -> Vec<Vec<Step>> {
    let shape = MatrixShape { rows: 4, cols: 4 };
    // A layer alone is nothing that blocks could be refined by.
    let alone = METHODS.iter().filter(|method| method.about().stage != Stage::Refine);
    let all: Vec<Step> = alone.flat_map(|m| thinned(*m)).collect();
    let at = |stage: Stage| {
        let of_stage = move |step: &&Step| stage_of(step) == stage;
        all.iter().filter(of_stage).cloned()
    };
    let mut chains: Vec<Vec<Step>> = all.iter().map(|step| vec![step.clone()]).collect();
    let n = at(Stage::Quantise).count();
    let quantisers: Vec<Step> = at(Stage::Quantise).step_by(n.div_ceil(30)).collect();
    assert!(quantisers.len() > 15);
    for prune in at(Stage::Prune) {
        chains.extend(quantisers.iter().map(|quantiser| vec![prune.clone(), quantiser.clone()]));
    }
    let is_valid = |steps: &Vec<Step>| chain_layout(steps, shape, DType::F32).is_ok();
    let mut n = 0;
    chains.retain(|steps| {
        n += 1;
        let is_tried = steps.len() == 1 || chain_needs(steps) == Needs::Weights || n % 12 == 0;
        is_tried && is_valid(steps)
    });
    assert!(chains.len() > 200, "only {} chains", chains.len());
    for stage in [Stage::Polish, Stage::Compensate, Stage::Outliers] {
        let mut longer = Vec::new();
        for step in at(stage) {
            let behind = chains.iter().map(|steps| [steps.clone(), vec![step.clone()]].concat());
            let behind: Vec<_> = behind.filter(is_valid).collect();
            assert!(behind.len() > 100, "{step:?} behind {} chains", behind.len());
            longer.extend(behind.iter().step_by(behind.len() / 6).cloned());
        }
        chains.extend(longer);
    }
    chains
}

fn stage_of(step: &Step) -> Stage {
    let method = METHODS.iter().find(|method| method.about().id == step.method);
    method.expect("a registered method").about().stage
}

/// The weights as a checkpoint of that element type would hold them.
fn rounded(weights: &Array2<f32>, dtype: DType) -> Array2<f32> {
    weights.mapv(|value| round_f32(dtype, value))
}

fn restore(encoding: &Encoding, parts: &[Part<'_>]) -> Option<Encoding> {
    let part = |name: &str| {
        let part = parts.iter().find(|part| part.name == name)?;
        Some(&*part.bytes)
    };
    Encoding::from_parts(&encoding.layout(), encoding.shape(), &part)
}

#[test]
fn every_method_compresses_every_shape_and_content_to_the_predicted_byte() {
    chains().par_iter().for_each(|steps| {
        for (rows, cols) in shapes_of(steps) {
            for (i, kind) in CONTENTS.into_iter().enumerate() {
                for dtype in dtypes_of(steps, i) {
                    let weights = rounded(&content(kind, rows, cols), dtype);
                    check(steps, &weights, dtype, kind);
                }
            }
        }
    });
}

/// Every element type for a single step; for chains one, another for each content.
fn dtypes_of(steps: &[Step], content: usize) -> Vec<DType> {
    let all = [DType::F32, DType::BF16, DType::F16];
    if steps.len() == 1 { all.to_vec() } else { vec![all[content % all.len()]] }
}

fn check(steps: &[Step], weights: &Array2<f32>, dtype: DType, kind: &str) {
    let (rows, cols) = weights.dim();
    let shape = MatrixShape { rows, cols };
    let what = format!("{} of {kind} {shape} {dtype}", chain_label(steps));
    let predicted = chain_layout(steps, shape, dtype).expect("a layout");
    let encoding =
        compress(steps, weights, dtype).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(encoding.layout(), predicted, "{what}");
    assert_eq!(encoding.shape(), shape, "{what}");
    assert_eq!(predicted.bytes(shape), encoding.bytes(), "{what}");
    let parts = encoding.parts();
    assert_eq!(restore(&encoding, &parts).as_ref(), Some(&encoding), "{what}");
    for at in 0..parts.len() {
        let mut longer = parts.clone();
        longer[at].bytes.to_mut().push(0);
        longer[at].bytes.to_mut().push(0);
        longer[at].bytes.to_mut().push(0);
        longer[at].bytes.to_mut().push(0);
        let is_refused = restore(&encoding, &longer).is_none();
        assert!(is_refused, "{what}: a longer {} fits", parts[at].name);
    }
    let decoded = encoding.decode();
    assert_eq!(decoded.dim(), (rows, cols), "{what}");
    assert!(decoded.iter().all(|value| value.is_finite()), "{what}");
    if kind == "zeros" {
        assert!(decoded.iter().all(|&value| value == 0.0), "{what}");
    }
    if !is_rounding(steps) {
        return;
    }
    match &encoding {
        Encoding::Dense(_) => assert_eq!(&decoded, weights, "{what}"),
        Encoding::Affine(affine) => check_nearest(affine, steps, weights, &what),
        Encoding::Palette(_) | Encoding::Float(_) | Encoding::Blocks(_) => {}
        Encoding::Sparse(sparse) => {
            let n_zero = decoded.iter().filter(|&&value| value == 0.0).count();
            assert!(n_zero >= sparse.mask().len() - sparse.mask().kept(), "{what}");
            // Dropped weights have a code of no meaning where an offset keeps codes from zero.
            let has_zero = |affine: &&Affine| !affine.layout().has_offsets;
            if let Some(affine) = affine_in(sparse.inner()).filter(has_zero) {
                let mut masked = weights.clone();
                for (i, value) in masked.iter_mut().enumerate() {
                    if !sparse.mask().keeps(i) {
                        *value = 0.0;
                    }
                }
                check_nearest(affine, steps, &masked, &what);
            }
        }
        other => panic!("{what} made {:?}", other.layout()),
    }
}

fn affine_in(encoding: &Encoding) -> Option<&Affine> {
    match encoding {
        Encoding::Affine(affine) => Some(affine),
        _ => None,
    }
}

/// No neighbouring level of its grid is nearer to a weight than the level it went to.
fn check_nearest(affine: &Affine, steps: &[Step], weights: &Array2<f32>, what: &str) {
    let layout = affine.layout();
    let is_restricted = steps.iter().any(|step| {
        step.parameters.0.get("symmetry") == Some(&Value::from("symmetric-restricted"))
    });
    let lowest = i32::from(is_restricted);
    let cols = affine.shape().cols;
    for ((row, col), &weight) in weights.indexed_iter() {
        let first = layout.grouping.first_scale(row, cols);
        let group = first + col / layout.grouping.width(cols);
        let scale = f64::from(affine.scales()[group]);
        let zero = i32::from(affine.zeros()[group]);
        let offset = affine.offsets().get(group).map_or(0.0, |&offset| f64::from(offset));
        let code = i32::from(affine.codes()[row * cols + col]);
        assert!((lowest..=i32::from(layout.largest())).contains(&code), "{what}: code {code}");
        let away = |code: i32| (f64::from(weight) - offset - scale * f64::from(code - zero)).abs();
        for neighbour in [code - 1, code + 1] {
            let exists = (lowest..=i32::from(layout.largest())).contains(&neighbour);
            // Codes of up to 256 are found in f32: half-way cases may fall to either side.
            let rounding = (scale * 256.0 + offset.abs()) * 2.0 * f64::from(f32::EPSILON);
            assert!(
                !exists || away(code) <= away(neighbour) + rounding,
                "{what}: {weight} at [{row}, {col}] goes to {code}, {neighbour} is nearer"
            );
        }
    }
}

fn squared_error(weights: &Array2<f32>, decoded: &Array2<f32>) -> f64 {
    weights.iter().zip(decoded).map(|(&w, &d)| f64::from(w - d).powi(2)).sum()
}

#[test]
fn error_falls_with_bits() {
    let mut compared = 0;
    for method in METHODS.iter().filter(|method| method.about().needs == Needs::Weights) {
        let about = method.about();
        let bits = about.parameters.iter().find(|p| p.name == "bits");
        let Some(Kind::Integer { min, max, .. }) = bits.map(|p| &p.kind) else {
            continue;
        };
        for step in combinations(*method) {
            let weights = content("random", 64, 64);
            let error = |bits: i64| {
                let steps = [step.clone().with("bits", bits)];
                let encoding = compress(&steps, &weights, DType::F32).unwrap();
                squared_error(&weights, &encoding.decode())
            };
            let errors: Vec<f64> = (*min..=*max).map(error).collect();
            compared += errors.len();
            // A table with room for every weight leaves none.
            let falls = |pair: &[f64]| pair[1] < pair[0] || pair[0] == 0.0;
            assert!(errors.windows(2).all(falls), "{step:?}: {errors:?}");
        }
    }
    assert!(compared > 300, "only {compared} errors were compared");
}

/// Whether compressing what was decoded must give the same again.
///
/// The full symmetric grid is left out: its highest level lies half a step below the largest weight (or the
/// lowest half a step beyond), so a second fit sees another range by construction. Scales in 16 bits are left
/// out with it, as a rounded scale need not reach the last level.
fn is_idempotent(steps: &[Step]) -> bool {
    if !is_rounding(steps) {
        return false;
    }
    let quantiser = steps.iter().find(|step| stage_of(step) == Stage::Quantise);
    quantiser.is_none_or(|step| {
        match step.method.as_str() {
            // Tables hold what was decoded; scales of NF4 are the largest weights, which are levels.
            "optimal-palette" | "nf4" => return true,
            "round-to-nearest" => {}
            // A second search begins elsewhere; scales that are rounded again may be others.
            _ => return false,
        }
        let symmetry = step.parameters.0.get("symmetry");
        symmetry.is_some_and(|symmetry| *symmetry != Value::from("symmetric"))
    })
}

#[test]
fn compressing_again_changes_nothing() {
    let mut tried = 0;
    for steps in chains().iter().filter(|steps| is_idempotent(steps)) {
        for (rows, cols) in SHAPES {
            for kind in ["random", "zeros", "constant", "spike", "one-sided"] {
                let weights = content(kind, rows, cols);
                let once = compress(steps, &weights, DType::F32).unwrap().decode();
                let twice = compress(steps, &once, DType::F32).unwrap().decode();
                tried += 1;
                for (&first, &second) in once.iter().zip(&twice) {
                    // The scale is divided out of a rounded product, and so may differ in its last bit.
                    assert!(
                        (first - second).abs() <= 4.0 * f32::EPSILON * first.abs(),
                        "{} of {kind} {rows} × {cols}: {first} became {second}",
                        chain_label(steps)
                    );
                }
            }
        }
    }
    assert!(tried > 3000, "only {tried}");
}

#[test]
fn of_equal_weights_the_later_are_dropped_first() {
    let weights = matrix(2, 4, vec![1.0, -1.0, 1.0, 1.0, 2.0, -1.0, 1.0, -1.0]);
    let kept = |step: Step| -> Vec<f32> {
        let encoding = compress(&[step], &weights, DType::F32).unwrap();
        encoding.decode().iter().copied().collect()
    };
    let anywhere = Step::new("magnitude").with("fraction", 0.5);
    assert_eq!(kept(anywhere), [1.0, -1.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
    let of_four = Step::new("magnitude").with("pattern", "n-of-m");
    assert_eq!(kept(of_four), [1.0, -1.0, 0.0, 0.0, 2.0, -1.0, 0.0, 0.0]);
}

#[test]
fn results_do_not_depend_on_the_threads() {
    // More than one piece of the parallel sums, ragged in every way.
    let weights = normal_matrix(11, 131, 517);
    for steps in chains().iter().step_by(5) {
        let run = || compress(steps, &weights, DType::BF16).unwrap();
        let one = on_threads(1, run);
        for n in [2, 7] {
            let many = on_threads(n, run);
            assert!(one == many, "{} on {n} threads", chain_label(steps));
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    for method in METHODS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // Rows of whole pieces may be read by another way.
            for cols in [172, 512] {
                let mut weights = content("random", 7, cols);
                weights[[3, 100]] = bad;
                weights[[6, 0]] = bad;
                assert_says(
                    compress(&[Step::new(method.about().id)], &weights, DType::F32),
                    &["layer.weight", &format!("2 of its {} weights", 7 * cols), "NaN"],
                );
            }
        }
    }
}

#[test]
fn schemas_are_complete_and_guarded() {
    let mut ids = Vec::new();
    for method in METHODS {
        let about = method.about();
        ids.push(about.id);
        assert!(!about.title.is_empty() && about.summary.ends_with('.'), "{}", about.id);
        assert!(!method.label(&about.resolve(&Step::new(about.id).parameters).unwrap()).is_empty());
        assert_says(
            about.resolve(&Step::new(about.id).with("colour", 3).parameters),
            &[about.id, "colour"],
        );
        for parameter in about.parameters {
            assert!(parameter.help.ends_with('.'), "{}", parameter.name);
            if let Some((other, value)) = parameter.only_when {
                let other = about.parameters.iter().find(|p| p.name == other).unwrap();
                assert!(tried(other).contains(&Value::from(value)), "{}", parameter.name);
            }
            let refused: Vec<Value> = match parameter.kind {
                Kind::Integer { min, max, .. } => vec![
                    Value::Integer(min - 1),
                    Value::Integer(max + 1),
                    Value::Fraction(min as f64),
                    Value::from("many"),
                ],
                Kind::Fraction { min, max, .. } => vec![
                    Value::Fraction(min - 0.001),
                    Value::Fraction(max + 0.001),
                    Value::Fraction(f64::NAN),
                    Value::from("many"),
                ],
                Kind::Choice(_) => vec![Value::from("no such choice"), Value::Integer(1)],
            };
            for value in refused {
                let step = Step::new(about.id).with(parameter.name, value);
                assert_says(about.resolve(&step.parameters), &[about.id, parameter.name, "give "]);
            }
        }
    }
    let listed = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), listed, "two methods have one id");
}
