//! Plans at the bytes of llama.cpp's files: every candidate of every matrix measured on the model with that matrix
//! alone changed, a knapsack at each size, the plan run on the held-out text.

use std::sync::Arc;

use lapidary_engine::allocator::{self, Problem};
use lapidary_engine::checkpoint::Role;
use lapidary_engine::evaluation::Baseline;
use lapidary_engine::network::CheckpointWeights;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::{
    Bounds, Measuring, Question, Scored, Unit, UnitScores, groups, plan_of,
};
use lapidary_engine::{Result, Silent, target};

use crate::peers::{Peer, peers, verdict};
use crate::trials::{Bench, Outcome, count, markdown, network};

/// Tokens on which each candidate is measured, those after the first of the calibration's text.
const MEASURED_TOKENS: usize = 6144;

/// What a layer of the blocks may have, and the head.
const CHAINS: [&str; 24] = [
    "gptq bits=8 granularity=channel",
    "gguf-blocks type=Q6_K importance=outputs",
    "gptq bits=6 group_size=64 clipping=weighted; polish",
    "gptq bits=5 group_size=32 symmetry=asymmetric clipping=weighted; polish",
    "gguf-blocks type=Q5_K importance=outputs; polish",
    "gptq bits=5 group_size=128 clipping=weighted; polish",
    "gguf-blocks type=Q4_K importance=outputs; polish",
    "gptq bits=4 group_size=32 symmetry=asymmetric clipping=weighted; polish",
    "gguf-blocks type=IQ4_XS importance=outputs; polish",
    "gptq bits=4 group_size=128 symmetry=asymmetric clipping=weighted; polish",
    "gptq bits=4 granularity=channel clipping=weighted; polish",
    "quip-sharp bits=4",
    "gguf-blocks type=Q3_K importance=outputs; polish",
    "gptq bits=3 group_size=32 symmetry=asymmetric clipping=weighted; polish",
    "gptq bits=3 group_size=64 symmetry=asymmetric clipping=weighted; polish",
    "gptq bits=3 granularity=channel symmetry=asymmetric clipping=weighted; polish",
    "quip-sharp bits=3",
    "gguf-blocks type=Q2_K importance=outputs; polish",
    "quip-sharp bits=2; eora rank=8 factors=integers factor_bits=4",
    "gptq bits=2 group_size=16 symmetry=asymmetric clipping=weighted; polish",
    "gptq bits=2 group_size=32 symmetry=asymmetric clipping=weighted; polish",
    "gptq bits=2 group_size=64 symmetry=asymmetric clipping=weighted; polish",
    "gptq bits=2 granularity=channel symmetry=asymmetric clipping=weighted; polish",
    "quip-sharp bits=2",
];

/// What else the head may have, whose outputs are of very different size.
const OF_HEAD: [&str; 2] = ["quip-sharp bits=4 outputs=kept", "quip-sharp bits=3 outputs=kept"];

/// What the embedding may have, which receives no inputs.
const EMBEDDINGS: [&str; 12] = [
    "round-to-nearest bits=8 group_size=128 clipping=mse",
    "gguf-blocks type=Q6_K",
    "round-to-nearest bits=5 group_size=64 clipping=mse",
    "gguf-blocks type=Q4_K",
    "round-to-nearest bits=4 group_size=64 clipping=mse",
    "quip-sharp bits=4 rounding=nearest outputs=kept",
    "gguf-blocks type=Q3_K",
    "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    "round-to-nearest bits=3 group_size=128 symmetry=asymmetric clipping=mse",
    "quip-sharp bits=3 rounding=nearest outputs=kept",
    "round-to-nearest bits=2 group_size=32 symmetry=asymmetric clipping=mse",
    "quip-sharp bits=2 rounding=nearest outputs=kept",
];

/// What stands over the table.
const HEADING: [&str; 7] =
    ["llama.cpp", "bytes", "× bf16", "our bytes", "our × bf16", "KL", "verdict"];

/// The candidates of every matrix with their bytes and divergences.
///
/// # Errors
/// Whatever compressing and running say.
pub fn scores(bench: &Bench) -> Result<Vec<UnitScores>> {
    let checkpoint = bench.checkpoint();
    let weights = CheckpointWeights::new(checkpoint);
    let network = network(checkpoint, &weights)?;
    let sequences = bench.calibration_sequences(MEASURED_TOKENS)?;
    let baseline = Baseline::new(&network, &sequences, &Silent)?;
    let tokens = baseline.tokens();
    let measuring = Measuring { baseline: &baseline, weights: &weights, tokens };
    let (calibrated, plan) = (bench.calibrated(), Plan::default());
    let subject = bench.subject(&calibrated);
    let question = Question { subject, plan: &plan, palette: &[], target: target::find("dense")? };
    let mut scores = Vec::new();
    for (layer, tensor) in checkpoint.tensors().iter().enumerate() {
        let Some(matrix) = tensor.matrix else { continue };
        let unit = Unit { layers: vec![layer], is_locked: false, folds: false };
        let chains = match tensor.place.role {
            Role::Embedding => EMBEDDINGS.to_vec(),
            Role::Head => [&CHAINS[..], &OF_HEAD].concat(),
            _ => CHAINS.to_vec(),
        };
        let mut options = Vec::with_capacity(chains.len());
        for (place, chain) in chains.into_iter().enumerate() {
            let assignment: Assignment = chain.parse()?;
            let bytes = assignment.layout(matrix.shape, tensor.dtype)?.bytes(matrix.shape);
            let assignments = vec![Arc::new(assignment)];
            let mut option = Scored { candidate: Some(place), assignments, bytes, damage: 0.0 };
            option.damage = question.measure(&unit, &option, measuring, &Silent)?.max(0.0);
            options.push(option);
        }
        scores.push(UnitScores { unit, options });
    }
    Ok(scores)
}

/// The best plan by the scores of so many bytes of tensors; `None` where nothing is as small.
///
/// # Errors
/// Whatever the solver says.
pub fn plan(bench: &Bench, scores: &[UnitScores], bytes: u64) -> Result<Option<Plan>> {
    let checkpoint = bench.checkpoint();
    let rest = checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_none());
    let fixed: u64 = rest.map(lapidary_engine::checkpoint::Tensor::bytes).sum();
    let groups = groups(checkpoint, scores, &Bounds::default());
    let problem = Problem::new(groups, bytes.saturating_sub(fixed))?;
    if problem.smallest().bytes > problem.budget() {
        return Ok(None);
    }
    let choice = allocator::find("knapsack")?.solve(&problem, &Silent)?.choice;
    Ok(Some(plan_of(checkpoint, scores, &choice, &Plan::default())))
}

/// The table, a row for each of llama.cpp's types. `say` hears each row as it comes.
///
/// # Errors
/// Whatever scoring, compressing and running say.
pub fn table(bench: &Bench, say: &mut dyn FnMut(&[String])) -> Result<String> {
    let scores = scores(bench)?;
    let mut rows = Vec::new();
    for peer in peers(bench) {
        let found = match plan(bench, &scores, peer.bytes)? {
            Some(plan) => Some(bench.run(&plan)?),
            None => None,
        };
        let row = row(&peer, found.as_ref());
        say(&row);
        rows.push(row);
    }
    Ok(markdown(&HEADING, &rows))
}

fn row(peer: &Peer, found: Option<&Outcome>) -> Vec<String> {
    let mut cells = vec![peer.name.to_owned(), count(peer.bytes), format!("{:.4}", peer.ratio)];
    match found {
        None => cells.extend(["–", "–", "–", "nothing as small"].map(str::to_owned)),
        Some(ours) => cells.extend([
            count(ours.bytes),
            format!("{:.4} ± {:.4}", ours.ratio(), ours.margin()),
            format!("{:.5}", ours.kl),
            verdict((ours.ratio(), ours.margin()), peer.ratio),
        ]),
    }
    cells
}
