//! Seconds that chains take for one layer, beside which `interop/references.py` sets those of reference implementations.
//!
//! `cargo run --release -p lapidary-benches --bin layer-seconds -- FILE CHAIN…`, where FILE is a safetensors file with `weight`
//! \[outputs, inputs\] and `inputs` \[tokens, inputs\] and a chain as in `gptq bits=3 group_size=64; polish`, or `squeeze` for the
//! bytes of the weights in BF16 in their entropy. Prints a line of JSON for each: the fastest of `--runs N` runs (1 if not said) and
//! the bytes. `--out DIR` writes what each decodes to, f32 in the order of the weights, as `DIR/0.f32` and so on.
#![expect(clippy::print_stdout, reason = "what was measured is printed")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lapidary_benches::{ended, fastest};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::encoding::Encoding;
use lapidary_engine::format::squeezed;
use lapidary_engine::method::{LayerInputs, Task, run_chain};
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::plan::Assignment;
use lapidary_engine::tensor::DType;
use lapidary_engine::{Error, Result, Silent, disk};
use ndarray::Array2;
use rayon::prelude::{ParallelIterator as _, ParallelSlice as _};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ended(run(&arguments))
}

/// What was asked for.
struct Asked {
    file: PathBuf,
    chains: Vec<String>,
    runs: usize,
    out: Option<PathBuf>,
}

impl Asked {
    fn of(arguments: &[String]) -> Result<Self> {
        let mut asked = Self { file: PathBuf::new(), chains: Vec::new(), runs: 1, out: None };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let value = if word.starts_with("--") { words.next() } else { None };
            match (word.as_str(), value) {
                ("--runs", Some(runs)) => asked.runs = runs.parse().unwrap_or(1).max(1),
                ("--out", Some(folder)) => asked.out = Some(PathBuf::from(folder)),
                _ if asked.file.as_os_str().is_empty() => asked.file = PathBuf::from(word),
                _ => asked.chains.push(word.clone()),
            }
        }
        if asked.chains.is_empty() {
            return Err(Error::plan("there is nothing to measure", "name a file and chains"));
        }
        Ok(asked)
    }
}

/// A layer, and what it receives.
struct Layer {
    weights: Array2<f32>,
    inputs: LayerInputs,
}

impl Layer {
    fn read(file: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(file)?;
        let matrix = |name: &str| {
            let missing = || {
                Error::plan(
                    format!("{} has no tensor {name}", file.display()),
                    "write one with `weight` and `inputs`",
                )
            };
            checkpoint.weights(checkpoint.find(name).ok_or_else(missing)?, &Silent)
        };
        let (weights, inputs) = (matrix("weight")?, matrix("inputs")?);
        let mut gram = Gram::new(weights.ncols());
        gram.add(inputs.view());
        Ok(Self { weights, inputs: LayerInputs::of_gram(gram) })
    }

    fn compress(&self, chain: &Assignment) -> Result<Encoding> {
        let task = Task {
            tensor: "layer.weight",
            weights: self.weights.view(),
            dtype: DType::BF16,
            previous: None,
            fused_peak: None,
            inputs: Some(&self.inputs),
            observer: &Silent,
        };
        run_chain(&chain.steps, &task)
    }

    /// The weights in BF16.
    fn halves(&self) -> Vec<u8> {
        self.weights
            .iter()
            .flat_map(|weight| ((weight.to_bits() >> 16) as u16).to_le_bytes())
            .collect()
    }
}

fn squeezed_bytes(bytes: &[u8]) -> u64 {
    let chunks = bytes.par_chunks(squeezed::chunk_bytes(DType::BF16));
    chunks.map(|chunk| squeezed::squeeze(DType::BF16, chunk, None).len() as u64).sum()
}

fn run(arguments: &[String]) -> Result<()> {
    let asked = Asked::of(arguments)?;
    let layer = Layer::read(&asked.file)?;
    for (at, chain) in asked.chains.iter().enumerate() {
        let (time, bytes) = if chain == "squeeze" {
            let halves = layer.halves();
            fastest(asked.runs, || squeezed_bytes(&halves))
        } else {
            let steps: Assignment = chain.parse()?;
            let (time, encoding) = fastest(asked.runs, || layer.compress(&steps));
            let encoding = encoding?;
            if let Some(folder) = &asked.out {
                let decoded: Vec<u8> =
                    encoding.decode().iter().flat_map(|value| value.to_le_bytes()).collect();
                disk::write_file(&folder.join(format!("{at}.f32")), &decoded)?;
            }
            (time, encoding.bytes())
        };
        print(chain, time, bytes);
    }
    Ok(())
}

fn print(chain: &str, time: Duration, bytes: u64) {
    let found =
        serde_json::json!({ "chain": chain, "seconds": time.as_secs_f64(), "bytes": bytes });
    println!("{found}");
}
