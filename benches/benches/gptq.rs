//! GPTQ of one layer, 4 bits in groups of 128, by activation, the Gram matrix given: the factor of the inverse and the
//! walk; beside the loop over columns in torch that the authors published, where the environment variable `PYTHON`
//! names a Python with torch.
//!
//! Arguments: shapes as `4096x4096`, outputs by inputs.

use std::time::Duration;

use lapidary_benches::{Table, fastest, python, ratio, seconds};
use lapidary_engine::Silent;
use lapidary_engine::method::{LayerInputs, Step, Task, run_chain};
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::numeric::inverse::InverseFactor;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::tensor::DType;
use ndarray::Array2;

/// The authors' `fasterquant` (blocks of 128 columns, activation order, groups fixed beforehand, symmetric), as GPTQ's
/// users run it, in f32 on all cores; prints the shorter of two times. Arguments by the first line of its input.
const REFERENCE: &str = r"
import os, sys, time
import torch
rows, cols, tokens = map(int, sys.stdin.readline().split())
torch.set_num_threads(os.cpu_count())
torch.manual_seed(3)
weights = torch.randn(rows, cols)
x = torch.randn(tokens, cols)
gram = x.T @ x
def gptq(W, H, group=128, block=128, damping=0.01):
    W, H = W.clone(), H.clone()
    dead = torch.diag(H) == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    scales = [W[:, g:g + group].abs().amax(1) / 7.5 for g in range(0, cols, group)]
    perm = torch.argsort(torch.diag(H), descending=True)
    W, H = W[:, perm], H[perm][:, perm]
    diagonal = torch.arange(cols)
    H[diagonal, diagonal] += damping * torch.mean(torch.diag(H))
    H = torch.linalg.cholesky(H)
    H = torch.cholesky_inverse(H)
    Hinv = torch.linalg.cholesky(H, upper=True)
    Q = torch.zeros_like(W)
    for i1 in range(0, cols, block):
        i2 = min(i1 + block, cols)
        W1 = W[:, i1:i2].clone()
        Q1, Err1 = torch.zeros_like(W1), torch.zeros_like(W1)
        Hinv1 = Hinv[i1:i2, i1:i2]
        for i in range(i2 - i1):
            w, d = W1[:, i], Hinv1[i, i]
            scale = scales[int(perm[i1 + i]) // group]
            q = scale * torch.clamp(torch.round(w / scale), -8, 7)
            Q1[:, i] = q
            err = (w - q) / d
            W1[:, i:] -= err.unsqueeze(1).matmul(Hinv1[i, i:].unsqueeze(0))
            Err1[:, i] = err
        Q[:, i1:i2] = Q1
        W[:, i2:] -= Err1.matmul(Hinv[i1:i2, i2:])
    return Q[:, torch.argsort(perm)]
best = 1e9
for _ in range(2):
    begun = time.perf_counter()
    gptq(weights, gram)
    best = min(best, time.perf_counter() - begun)
print(best)
";

const SHAPES: [(usize, usize); 2] = [(1024, 1024), (4096, 4096)];
/// Runs of which the fastest counts.
const RUNS: usize = 2;
/// Tokens of the calibration.
const TOKENS: usize = 2048;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parse = |text: &String| {
        let (outputs, inputs) = text.split_once('x')?;
        Some((outputs.parse().ok()?, inputs.parse().ok()?))
    };
    let shapes: Vec<(usize, usize)> = arguments.iter().filter_map(parse).collect();
    let shapes = if shapes.is_empty() { SHAPES.to_vec() } else { shapes };
    let mut table = Table::new(&["outputs × inputs", "what", "time", "torch", "torch / ours"]);
    for (outputs, inputs) in shapes {
        measure(outputs, inputs, &mut table);
    }
    table.print();
}

fn measure(outputs: usize, channels: usize, table: &mut Table) {
    let mut random = Random::new(3);
    let mut normals =
        |rows| Array2::from_shape_simple_fn((rows, channels), || random.normal() as f32);
    let (weights, x) = (normals(outputs), normals(TOKENS));
    let mut gram = Gram::new(channels);
    gram.add(x.view());
    let order = || (0..channels).collect();
    let factor = || InverseFactor::new(&gram, order(), 0.01, &|| false).is_some();
    let (factor, _) = fastest(RUNS, factor);
    let inputs = LayerInputs::of_gram(gram.clone());
    let theirs = reference(outputs, channels);
    let mut row = |what: &str, time: Duration, theirs: Option<Duration>| {
        let dash = || "–".to_owned();
        table.row(&[
            format!("{outputs} × {channels}"),
            what.to_owned(),
            seconds(time),
            theirs.map_or_else(dash, seconds),
            theirs.map_or_else(dash, |theirs| ratio(theirs, time)),
        ]);
    };
    row("factor of the inverse", factor, None);
    for method in ["round-to-nearest", "gptq"] {
        let run = || {
            let task = Task {
                tensor: "layer.weight",
                weights: weights.view(),
                dtype: DType::BF16,
                previous: None,
                fused_peak: None,
                inputs: Some(&inputs),
                observer: &Silent,
            };
            run_chain(&[Step::new(method)], &task).is_ok()
        };
        row(method, fastest(RUNS, run).0, theirs.filter(|_| method == "gptq"));
    }
}

/// What torch takes; nothing where there is none.
fn reference(outputs: usize, channels: usize) -> Option<Duration> {
    let asked = format!("{outputs} {channels} {TOKENS}\n");
    let printed = python(REFERENCE, asked.as_bytes())?;
    printed.trim().parse().ok().map(Duration::from_secs_f64)
}
