//! Plans run: from the store as from the exported folder, what blocks do, partial figures, and cancelling.

use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::{Evaluation, block_scores, evaluate, evaluate_in_rounds};
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::{self, Limits, StoreWeights};
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Network, Weights};
use lapidary_engine::text::{Cut, Sequences, Source, Specials, Tokenizer, cut};
use lapidary_engine::{Error, Observer, Progress, Silent, target};
use lapidary_tests::{plan, repository, rtn, sample};

fn heldout(checkpoint: &Checkpoint, budget: usize) -> Sequences {
    let path = repository().join("assets/sample-books-6m/heldout_oz.txt");
    let texts = Source::path(path).read(&Silent).expect("the text");
    let tokenizer = Tokenizer::open(checkpoint).expect("the tokenizer");
    let tokens = tokenizer.encode_documents(texts.documents(), Specials::Added, &Silent);
    cut(&tokens.expect("tokens"), &Cut { budget: Some(budget), ..Cut::scoring(256) })
        .expect("windows")
}

fn run(checkpoint: &Checkpoint, weights: &dyn Weights, sequences: &Sequences) -> Evaluation {
    let network = Network::open(checkpoint.config().expect("a config"), weights);
    evaluate(&network.expect("a network"), None, sequences, &Silent).expect("an evaluation")
}

#[test]
fn a_plan_runs_from_its_store_as_from_its_export() {
    let checkpoint = sample();
    let sequences = heldout(&checkpoint, 512);
    let original = run(&checkpoint, &CheckpointWeights::new(&checkpoint), &sequences);
    let four = || rtn(4).with("group_size", 32);
    let (zeros, offsets) = (four().with("symmetry", "asymmetric"), Step::new("hqq"));
    for (id, step) in [
        ("compressed-tensors", four()),
        ("mlx", four()),
        ("mlx", offsets),
        ("gptq", four()),
        ("gptq-v2", zeros.clone()),
        ("awq", zeros),
    ] {
        let rules = [("model.layers.*_proj.weight", vec![step])];
        let plan = plan(&checkpoint, &rules).expect("a plan");
        let store =
            job::run(&checkpoint, &plan, Limits::default(), None, &Silent).expect("a finished job");
        let from_store = run(&checkpoint, &StoreWeights::new(&checkpoint, &store), &sequences);

        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
        let target = target::find(id).expect("a target");
        let report = export(&checkpoint, &plan, target, destination, &Silent).expect("an export");
        assert_eq!((report.totals.compressed, report.totals.dense), (plan.len(), 0), "{id}");
        let exported = Checkpoint::open(&out).expect("the export opens");
        let from_export = run(&exported, &CheckpointWeights::new(&exported), &sequences);

        let [a, b] = [&from_store, &from_export].map(|found| found.perplexity().value);
        assert!((a - b).abs() < 1e-6, "{id}: {a} from the store, {b} from the export");
        assert!(a - original.perplexity().value > 0.05, "{id}: four bits cost something: {a}");
    }
}

#[test]
fn rows_of_a_stored_layer_are_read_alone_and_what_is_no_row_is_refused() {
    let checkpoint = sample();
    let name = "model.layers.1.mlp.down_proj.weight";
    let plan = plan(&checkpoint, &[(name, vec![rtn(4)])]).expect("a plan");
    let store =
        job::run(&checkpoint, &plan, Limits::default(), None, &Silent).expect("a finished job");
    let weights = StoreWeights::new(&checkpoint, &store);
    let extents = weights.extents(name).expect("a layer");
    let cols = extents[1];
    let tensor = checkpoint.find(name).expect("a layer");
    let whole = store.get(tensor).expect("an encoding").decode();
    let mut rows = vec![0.0; 2 * cols];
    weights.read(name, 3 * cols, &mut rows, &Silent).expect("two rows");
    assert_eq!(rows, whole.slice(ndarray::s![3..5, ..]).iter().copied().collect::<Vec<f32>>());
    assert!(weights.read(name, 1, &mut rows, &Silent).is_err());
    assert!(weights.read(name, (extents[0] - 1) * cols, &mut rows, &Silent).is_err());
}

#[test]
fn blocks_have_scores_that_fit_together() {
    let checkpoint = sample();
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let ids: Vec<Vec<u32>> =
        heldout(&checkpoint, 2048).list.into_iter().map(|sequence| sequence.ids).collect();
    let scores = block_scores(&network, &ids, &Silent).expect("scores");
    assert_eq!(scores.len(), network.design().blocks.len());
    for (score, next) in scores.iter().zip(&scores[1..]) {
        assert_eq!(
            score.rate_after, next.rate_before,
            "the output of one is the input of the next"
        );
    }
    for score in &scores {
        let linearity = &score.linearity;
        assert_eq!((linearity.fitted_tokens, linearity.held_out_tokens), (1536, 512));
        assert!(linearity.linear > linearity.linear_without_residual, "{linearity:?}");
        assert!((0.0..=1.0).contains(&linearity.linear), "{linearity:?}");
        assert!(linearity.cosine > 0.0 && linearity.relative_change > 0.0, "{linearity:?}");
        assert!(score.rate_after > 0.0 && score.rate_after.is_finite());
    }
}

/// Stops after so many reports.
struct StopsAfter(AtomicU64);

impl Observer for StopsAfter {
    fn progress(&self, _progress: Progress) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn what_was_scored_before_cancelling_is_kept() {
    let checkpoint = lapidary_tests::data("stories260K");
    let checkpoint = Checkpoint::open(&checkpoint).expect("the model opens");
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let sequences = heldout(&checkpoint, 40_000);
    let blocks = network.design().blocks.len() as u64;
    let mut seen = Vec::new();
    let found = evaluate_in_rounds(
        (&network, None),
        &sequences,
        &mut |partial| seen.push(partial.tokens()),
        &StopsAfter(AtomicU64::new(blocks + 2)),
    )
    .expect("a part");
    assert!(!found.is_complete() && found.tokens() > 10_000, "{}", found.tokens());
    assert_eq!(seen, [found.tokens()]);
    let none = evaluate_in_rounds((&network, None), &sequences, &mut |_| {}, &StopsAfter(1.into()));
    assert!(matches!(none, Err(Error::Cancelled)));
}
