//! The way back through a block, held against differences of the way there.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::network::design::Feed;
use lapidary_engine::network::{
    Backs, Batch, CheckpointWeights, Gradient, LoadedBlock, Network, NoTaps,
};
use lapidary_engine::numeric::activation::Activation;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::{Observer, Result, Silent};
use lapidary_tests::networks::golden;
use lapidary_tests::{names_in, on_threads, repository};
use ndarray::{Array2, ArrayView2};

/// Tokens of the two sequences that are run.
const LENGTHS: [usize; 2] = [21, 12];

fn random(shape: (usize, usize), scale: f32, seed: u64) -> Array2<f32> {
    let mut random = Random::new(seed);
    Array2::from_shape_simple_fn(shape, || scale * random.normal() as f32)
}

fn network<'a>(checkpoint: &Checkpoint, weights: &'a CheckpointWeights<'a>) -> Network<'a> {
    Network::open(checkpoint.config().expect("a config"), weights).expect("a network")
}

/// What a block gives.
fn run(network: &Network<'_>, block: &LoadedBlock, x: &Array2<f32>) -> Array2<f32> {
    let mut out = x.clone();
    let batch = Batch::new(&mut out, &LENGTHS);
    network.run(block, batch, &mut NoTaps, &Silent).expect("outputs");
    out
}

/// ‖block(x) − target‖².
fn error(network: &Network<'_>, block: &LoadedBlock, x: &Array2<f32>, target: &Array2<f32>) -> f64 {
    let out = run(network, block, x);
    out.iter().zip(target).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// The names and weights of the linear layers of a block.
fn layers(
    network: &Network<'_>,
    checkpoint: &Checkpoint,
    block: usize,
) -> Vec<(String, Array2<f32>)> {
    let names = network.inputs(Some(block)).into_iter().flat_map(|input| input.layers);
    let weights = |name: String| {
        let at = checkpoint.find(&name).expect("a tensor");
        (name, checkpoint.weights(at, &Silent).expect("weights"))
    };
    names.map(weights).collect()
}

/// The gradient of the squared error by all layers of a block.
fn gradient<'o>(
    network: &Network<'_>,
    block: &LoadedBlock,
    (x, target): (&Array2<f32>, &Array2<f32>),
    layers: &[(String, Array2<f32>)],
) -> Gradient<'o> {
    let shapes = layers.iter().map(|(name, weights)| (name.clone(), weights.dim()));
    let mut gradient = Gradient::new(shapes, &Silent);
    let mut slopes = |out: &Array2<f32>| {
        assert_eq!(out, &run(network, block, x), "the same bits as the forward pass");
        Ok(2.0 * (out - target))
    };
    network.run_back(block, (x, &LENGTHS), (&mut slopes, &mut gradient), &Silent).expect("a walk");
    gradient
}

/// Σ aᵢ·bᵢ.
fn product(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Holds the gradients of a block against differences of fourth order along three directions for each layer, and along
/// single weights. Returns how many layers there were.
fn check(name: &str, checkpoint: &Checkpoint, index: usize) -> usize {
    let weights = CheckpointWeights::new(checkpoint);
    let network = network(checkpoint, &weights);
    let mut block = network.load_whole(index, &Silent).expect("a block");
    let tokens = LENGTHS.iter().sum();
    let x = random((tokens, network.design().hidden), 1.0, 7);
    let shift = random(x.dim(), 0.5, 8);
    let target = run(&network, &block, &x) + shift;
    let layers = layers(&network, checkpoint, index);
    let found = gradient(&network, &block, (&x, &target), &layers);
    let feed = &network.design().blocks[index].feed;
    // Differences step over the edges of max(x, 0), and near the gradient only as steps go to nothing.
    let is_edged = matches!(feed, Feed::Plain { activation: Activation::Relu, .. });
    let most = if is_edged { 4e-3 } else { 3e-4 };
    for (layer, weights) in &layers {
        let by = found.of(layer).expect("a gradient");
        let norm = |m: &Array2<f32>| product(m, m).sqrt();
        assert!(norm(by) > 0.0, "{name}: {layer} has no gradient");
        for seed in 0..4 {
            let mut direction = random(weights.dim(), 1.0, 100 + seed);
            if seed == 3 {
                direction.clone_from(by);
            }
            let exact = product(by, &direction);
            let mut difference = |share: f64| {
                let step = share * norm(weights) / norm(&direction);
                let mut at = |steps: f64| {
                    let moved = weights + &((steps * step) as f32 * &direction);
                    network.replace(&mut block, layer, moved).expect("a layer");
                    error(&network, &block, &x, &target)
                };
                (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * step)
            };
            // Long steps leave the fifth derivative, short ones the last places of f32: which is right depends on the block.
            let differences = [0.01, 0.003, 0.001, 3e-4, 1e-4].map(&mut difference);
            let off = |difference: &f64| (exact - difference).abs() / (norm(by) * norm(&direction));
            let off = differences.iter().map(off).fold(f64::INFINITY, f64::min);
            network.replace(&mut block, layer, weights.clone()).expect("a layer");
            assert!(off < most, "{name}, {layer}: {exact} for {differences:?}, off by {off}");
        }
    }
    layers.len()
}

#[test]
fn gradients_are_those_of_differences_for_every_kind_of_block() {
    let folder = repository().join("tests/golden/networks");
    let (mut models, mut blocks) = (0, 0);
    for name in names_in(&folder) {
        if !folder.join(&name).is_dir() {
            continue;
        }
        let checkpoint = golden(&name);
        let weights = CheckpointWeights::new(&checkpoint);
        let design = network(&checkpoint, &weights).design().clone();
        let is_mixture = |at: &usize| matches!(design.blocks[*at].feed, Feed::Experts(_));
        let all: Vec<usize> = (0..design.blocks.len()).filter(|at| !is_mixture(at)).collect();
        blocks += all.len();
        models += usize::from(!all.is_empty());
        for index in all {
            assert!(check(&name, &checkpoint, index) >= 4, "{name}");
        }
    }
    assert!(models > 25 && blocks > 50, "{models} models, {blocks} blocks");
}

#[test]
fn the_number_of_threads_changes_no_bit_of_a_gradient() {
    let checkpoint = golden("gemma2");
    let on = |threads: usize| {
        on_threads(threads, || {
            let weights = CheckpointWeights::new(&checkpoint);
            let network = network(&checkpoint, &weights);
            let block = network.load_whole(0, &Silent).expect("a block");
            let x = random((33, network.design().hidden), 1.0, 1);
            let target = random(x.dim(), 1.0, 2);
            let layers = layers(&network, &checkpoint, 0);
            let found = gradient(&network, &block, (&x, &target), &layers);
            layers.iter().map(|(name, _)| found.of(name).cloned()).collect::<Vec<_>>()
        })
    };
    let one = on(1);
    assert!(one.iter().all(Option::is_some) && one == on(3));
}

/// Counts what it sees.
struct Count(HashMap<String, usize>);

impl Backs for Count {
    fn layer(
        &mut self,
        layer: &str,
        x: ArrayView2<'_, f32>,
        slope: ArrayView2<'_, f32>,
    ) -> Result<()> {
        assert_eq!(x.nrows(), slope.nrows());
        *self.0.entry(layer.to_owned()).or_default() += 1;
        Ok(())
    }
}

#[test]
fn every_layer_is_seen_once_and_a_mixture_is_refused_by_name() {
    let checkpoint = golden("qwen3");
    let weights = CheckpointWeights::new(&checkpoint);
    let of_qwen = network(&checkpoint, &weights);
    let block = of_qwen.load_whole(1, &Silent).expect("a block");
    let x = random((33, of_qwen.design().hidden), 1.0, 1);
    let mut seen = Count(HashMap::new());
    let mut same = |out: &Array2<f32>| Ok(out.clone());
    of_qwen.run_back(&block, (&x, &LENGTHS), (&mut same, &mut seen), &Silent).expect("a walk");
    assert!(seen.0.len() == 7 && seen.0.values().all(|&times| times == 1), "{:?}", seen.0);
    let checkpoint = golden("mixtral");
    let weights = CheckpointWeights::new(&checkpoint);
    let of_mixtral = network(&checkpoint, &weights);
    let block = of_mixtral.load_whole(0, &Silent).expect("a block");
    let x = random((33, of_mixtral.design().hidden), 1.0, 1);
    let walked = of_mixtral.run_back(&block, (&x, &LENGTHS), (&mut same, &mut seen), &Silent);
    let sentence = walked.expect_err("a mixture").sentence();
    assert!(sentence.contains("block 0") && sentence.contains("mixture"), "{sentence}");
}

/// Stops behind so many questions.
struct Stops(AtomicUsize);

impl Observer for Stops {
    fn is_cancelled(&self) -> bool {
        let one_less = |left: usize| Some(left.saturating_sub(1));
        self.0.fetch_update(SeqCst, SeqCst, one_less).expect("always some") == 0
    }
}

#[test]
fn a_walk_stops_when_it_is_asked_to() {
    let checkpoint = golden("llama");
    let weights = CheckpointWeights::new(&checkpoint);
    let network = network(&checkpoint, &weights);
    let block = network.load_whole(0, &Silent).expect("a block");
    let x = random((33, network.design().hidden), 1.0, 1);
    let observer = Stops(3.into());
    let mut same = |out: &Array2<f32>| Ok(out.clone());
    let mut seen = Count(HashMap::new());
    let walked = network.run_back(&block, (&x, &LENGTHS), (&mut same, &mut seen), &observer);
    assert!(matches!(walked, Err(lapidary_engine::Error::Cancelled)), "{walked:?}");
}
