//! Scores that are measured: slopes of noise against what was measured, and damages found again by content.

use std::sync::atomic::{AtomicUsize, Ordering};

use lapidary_engine::calibration::model_key;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::Baseline;
use lapidary_engine::job::Subject;
use lapidary_engine::network::{CheckpointWeights, Network};
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::{Measuring, Metric, Question, Remembered, UnitScores};
use lapidary_engine::statistics::{CACHE_LIMIT_BYTES, Cache};
use lapidary_engine::target;
use lapidary_engine::{Error, Observer, Silent};
use lapidary_tests::{assert_says, on_threads, sample};

fn ids(seed: u32) -> Vec<Vec<u32>> {
    (0..3).map(|s| (0..32).map(|i| (i * 37 + s * 101 + seed * 7) % 2048).collect()).collect()
}

/// Calls `work` with the sample, four and eight bits for compressed-tensors, and the original on a text.
fn measured<T>(seed: u32, work: impl FnOnce(&Question<'_>, Measuring<'_>) -> T) -> T {
    let model = sample();
    let plan = Plan::default();
    let palette = [4, 8].map(|bits| Assignment::keep().with_bits(bits));
    let target = target::find("compressed-tensors").expect("a target");
    let subject = Subject::from(&model);
    let question = Question { subject, plan: &plan, palette: &palette, target };
    let weights = CheckpointWeights::new(&model);
    let network = Network::open(model.config().expect("config.json"), &weights).expect("a network");
    let baseline = Baseline::new(&network, &ids(seed), &Silent).expect("a baseline");
    let tokens = baseline.tokens();
    work(&question, Measuring { baseline: &baseline, weights: &weights, tokens })
}

fn damages(scores: &[UnitScores]) -> Vec<f64> {
    scores.iter().flat_map(|of| &of.options).map(|option| option.damage).collect()
}

fn name(model: &Checkpoint, layer: usize) -> &str {
    &model.tensors()[layer].name
}

#[test]
fn the_slope_of_noise_predicts_what_rounding_does() {
    measured(0, |question, measuring| {
        let model = question.subject.checkpoint;
        let mut units = question.units();
        units.retain(|unit| {
            let name = name(model, unit.layers[0]);
            name.contains("layers.1.") || name.contains("layers.5.") || name.contains("lm_head")
        });
        assert_eq!(units.len(), 9);
        for unit in &units {
            let name = name(model, unit.layers[0]);
            let slope = question.sensitivity(unit, measuring, &Silent).unwrap();
            assert!(slope.alpha > 0.0 && slope.r_squared > 0.99, "{name}: {slope:?}");
            let options = question.options(unit).unwrap();
            for option in &options[1..] {
                let (mut error, mut norm) = (0.0, 0.0);
                for (&layer, assignment) in unit.layers.iter().zip(&option.assignments) {
                    let weights = model.weights(layer, &Silent).unwrap();
                    let dtype = model.tensors()[layer].dtype;
                    let decoded = lapidary_tests::compress(&assignment.steps, &weights, dtype)
                        .unwrap()
                        .decode();
                    error +=
                        (&weights - &decoded).iter().map(|d| f64::from(*d).powi(2)).sum::<f64>();
                    norm += weights.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
                }
                let predicted = slope.alpha * error / norm;
                let found = question.measure(unit, option, measuring, &Silent).unwrap();
                let ratio = predicted / found;
                assert!((0.4..2.5).contains(&ratio), "{name}: {predicted} for {found}");
            }
        }
    });
}

#[test]
fn linearity_scores_are_slope_times_squared_error_at_any_number_of_threads() {
    let score = |threads| {
        on_threads(threads, || {
            measured(0, |question, measuring| {
                let scores = question.score(Metric::Linearity, Some(measuring), &Silent).unwrap();
                let first = scores.iter().find(|of| of.options.len() == 3).unwrap();
                let slope = question.sensitivity(&first.unit, measuring, &Silent).unwrap().alpha;
                (damages(&scores), slope, damages(std::slice::from_ref(first)))
            })
        })
    };
    let (all, slope, first) = score(1);
    assert_eq!(first[0], 0.0, "kept");
    let error = first.iter().map(|damage| damage / slope).collect::<Vec<f64>>();
    assert!(error[1] > 1e-3 && error[1] < 0.1 && error[2] < error[1] / 100.0, "{error:?}");
    assert_eq!(score(7).0, all);
    measured(0, |question, _| {
        assert_says(question.score(Metric::Linearity, None, &Silent), &["measured on a text"]);
    });
}

/// Cancels at the n-th time it is asked.
struct StopAt(AtomicUsize);

impl Observer for StopAt {
    fn is_cancelled(&self) -> bool {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        left.is_err()
    }
}

#[test]
fn damages_are_remembered_by_content_and_scoring_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), CACHE_LIMIT_BYTES);
    let key = model_key(&sample(), Some(&cache), &Silent).unwrap();
    let score = |seed, text: &str, observer: &dyn Observer| {
        measured(seed, |question, measuring| {
            let remembered = Remembered::new(&cache, question, [&key, text]);
            let by = (Metric::Measured, Some(measuring));
            question.score_remembering(by, Some(&remembered), observer)
        })
    };
    let plain = measured(0, |question, measuring| {
        question.score(Metric::Measured, Some(measuring), &Silent).unwrap()
    });
    let stopped = score(0, "a", &StopAt(AtomicUsize::new(3000)));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    // What is taken up again is told apart by another baseline behind the same key.
    let mixed = damages(&score(1, "a", &Silent).unwrap());
    let (first, other) = (damages(&plain), damages(&score(1, "b", &Silent).unwrap()));
    let from_first = mixed.iter().zip(&first).take_while(|(a, b)| a == b).count();
    assert!(from_first > 2 && from_first < first.len(), "{from_first} of {}", first.len());
    assert_eq!(mixed[from_first..], other[from_first..]);
    assert_eq!(damages(&score(0, "b", &Silent).unwrap()), other, "nothing is measured again");
    // Errors of weights need no text, and are not those of outputs.
    let weights = |metric| {
        measured(0, |question, _| {
            let remembered = Remembered::new(&cache, question, [&key, ""]);
            let scores = question.score_remembering((metric, None), Some(&remembered), &Silent);
            damages(&scores.unwrap())
        })
    };
    let once = weights(Metric::Weights);
    assert_eq!(weights(Metric::Weights), once);
    let plain = measured(0, |question, _| question.score(Metric::Weights, None, &Silent).unwrap());
    assert_eq!(damages(&plain), once);
}
