//! GPTQ of one layer, 4 bits in groups of 128, by activation: the factor of the inverse and the walk.
//!
//! Arguments: shapes as `4096x4096`, outputs by inputs.

use lapidary_benches::{Table, fastest, seconds};
use lapidary_engine::Silent;
use lapidary_engine::method::{LayerInputs, Step, Task, run_chain};
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::numeric::inverse::InverseFactor;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::tensor::DType;
use ndarray::Array2;

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
    let mut table = Table::new(&["outputs × inputs", "what", "time"]);
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
    let mut row = |what: &str, time| {
        table.row(&[format!("{outputs} × {channels}"), what.to_owned(), seconds(time)]);
    };
    row("factor of the inverse", factor);
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
        row(method, fastest(RUNS, run).0);
    }
}
