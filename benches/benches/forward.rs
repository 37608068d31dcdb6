//! Tokens a second scored by a network, against torch through transformers: forward pass, logits and the likelihood of
//! every token, f32, the same sequences, on as many threads as rayon takes. Torch runs before and after ours, and the
//! faster counts; loading the model is not counted there, decoding the weights is counted here.
//!
//! Arguments: folders of models (the built-in sample without); `--tokens N`, `--length N`, `--no-torch`.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lapidary_benches::{Table, fastest, python, ratio, seconds};
use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::evaluate;
use lapidary_engine::network::{CheckpointWeights, Network};
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::text::{Extent, Sequence, Sequences};

/// Runs of which the fastest counts.
const RUNS: usize = 3;

/// Prints the shortest time, and the nats a token.
const TORCH: &str = "
import os
os.environ['OMP_NUM_THREADS'] = 'THREADS'
import sys, time, torch, transformers
torch.set_num_threads(THREADS)
model = transformers.AutoModelForCausalLM.from_pretrained('MODEL', dtype=torch.float32).eval()
ids = torch.tensor([int(line) for line in sys.stdin]).view(-1, LENGTH)
batch = max(1, 2048 // LENGTH)
def run():
    nats = 0.0
    for part in ids.split(batch):
        logits = model(part, use_cache=False).logits[:, :-1]
        nats += torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), part[:, 1:].reshape(-1), reduction='sum').item()
    return nats / (ids.numel() - len(ids))
best = 1e9
with torch.no_grad():
    for _ in range(RUNS):
        begun = time.perf_counter()
        nats = run()
        best = min(best, time.perf_counter() - begun)
print(best, nats)
";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)?.parse::<usize>().ok()
    };
    let with_torch = !arguments.iter().any(|argument| argument == "--no-torch");
    let mut models: Vec<PathBuf> =
        arguments.iter().map(PathBuf::from).filter(|path| path.is_dir()).collect();
    if models.is_empty() {
        models.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/sample-books-6m"));
    }
    let mut table =
        Table::new(&["model", "what", "time", "tokens/s", "nats a token", "as long as ours"]);
    for model in models {
        let tokens = after("--tokens").unwrap_or(16_384);
        measure(&model, [tokens, after("--length").unwrap_or(256)], with_torch, &mut table);
    }
    table.print();
}

fn measure(model: &Path, [tokens, length]: [usize; 2], with_torch: bool, table: &mut Table) {
    let checkpoint = match Checkpoint::open(model) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return println!("{}", error.sentence()),
    };
    let weights = CheckpointWeights::new(&checkpoint);
    let Some(Ok(network)) = checkpoint.config().map(|config| Network::open(config, &weights))
    else {
        return println!("{} does not run", model.display());
    };
    let sequences = sequences(network.design().vocabulary, tokens, length);
    let before = with_torch.then(|| torch(model, &sequences, length)).flatten();
    let (ours, scored) = fastest(RUNS, || evaluate(&network, None, &sequences, &Silent));
    let after = with_torch.then(|| torch(model, &sequences, length)).flatten();
    let nats = scored.map_or(f64::NAN, |scored| scored.nats_per_token().value);
    let mut row = |what: &str, time: Duration, nats: f64| {
        let rate = sequences.tokens() as f64 / time.as_secs_f64();
        let title = checkpoint.title();
        table.row(&[
            title,
            what.to_owned(),
            seconds(time),
            format!("{rate:.0}"),
            format!("{nats:.5}"),
            ratio(time, ours),
        ]);
    };
    row("ours, f32", ours, nats);
    match before.into_iter().chain(after).min_by(|a, b| a.0.cmp(&b.0)) {
        Some((time, nats)) => row("torch, f32", time, nats),
        None if with_torch => println!("torch is left out: PYTHON, or python3, has none"),
        None => {}
    }
}

fn sequences(vocabulary: usize, tokens: usize, length: usize) -> Sequences {
    let mut random = Random::new(5);
    let mut sequence = |at: usize| Sequence {
        ids: (0..length).map(|_| (random.uniform() * vocabulary as f64) as u32).collect(),
        at: at * length,
        scored: Extent::default(),
    };
    Sequences { list: (0..tokens / length).map(&mut sequence).collect(), available: tokens }
}

fn torch(model: &Path, sequences: &Sequences, length: usize) -> Option<(Duration, f64)> {
    let program = TORCH
        .replace("THREADS", &rayon::current_num_threads().to_string())
        .replace("MODEL", &model.display().to_string())
        .replace("LENGTH", &length.to_string())
        .replace("RUNS", &RUNS.to_string());
    let ids = sequences.list.iter().flat_map(|sequence| &sequence.ids);
    let lines: Vec<String> = ids.map(ToString::to_string).collect();
    let printed = python(&program, lines.join("\n").as_bytes())?;
    let mut numbers = printed.split_whitespace();
    let time = Duration::from_secs_f64(numbers.next()?.parse().ok()?);
    Some((time, numbers.next()?.parse().ok()?))
}
