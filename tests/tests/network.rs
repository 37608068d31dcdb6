//! The forward pass against logits that transformers computed for tiny random networks of every architecture.

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::network::{CheckpointWeights, Network};
use lapidary_engine::{Result, Silent};
use lapidary_tests::{read, repository};
use ndarray::{Array2, s};
use safetensors::SafeTensors;

/// Tokens of each sequence, and the logits transformers gave them.
struct Golden {
    sequences: Vec<Vec<u32>>,
    logits: Vec<Array2<f32>>,
}

impl Golden {
    fn of(name: &str) -> Self {
        let bytes =
            read(&repository().join(format!("tests/golden/networks/{name}/golden.safetensors")));
        let file = SafeTensors::deserialize(&bytes).expect("a golden file");
        let tokens = file.tensor("tokens").expect("tokens");
        let logits = file.tensor("logits").expect("logits");
        let [sequences, length, vocabulary] = logits.shape()[..] else { panic!("three extents") };
        let ids: Vec<u32> = tokens
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as u32)
            .collect();
        let values = logits.data().chunks_exact(4);
        let values = values.map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        let all = Array2::from_shape_vec((sequences * length, vocabulary), values).expect("logits");
        let part = |i: usize| all.slice(s![i * length..(i + 1) * length, ..]).to_owned();
        Self {
            sequences: ids.chunks(length).map(<[u32]>::to_vec).collect(),
            logits: (0..sequences).map(part).collect(),
        }
    }
}

/// Every network there is.
fn names() -> Vec<String> {
    let folder = repository().join("tests/golden/networks");
    let entries = std::fs::read_dir(folder).expect("the folder of networks");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn open(name: &str) -> Checkpoint {
    let path = repository().join(format!("tests/golden/networks/{name}"));
    Checkpoint::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn logits(checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<Vec<Array2<f32>>> {
    let weights = CheckpointWeights::new(checkpoint);
    let config = checkpoint.config().expect("a config.json");
    let network = Network::open(config, &weights)?;
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    network.logits_of(&sequences, &Silent)
}

/// ‖a − b‖∞ / ‖b‖∞.
fn distance(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    let largest = b.iter().fold(0.0_f32, |largest, b| largest.max(b.abs()));
    a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn logits_of_every_architecture_are_those_of_transformers() {
    let names = names();
    assert!(names.len() >= 33, "{} networks", names.len());
    let mut failures = Vec::new();
    for name in &names {
        let golden = Golden::of(name);
        match logits(&open(name), &golden.sequences) {
            Err(error) => failures.push(format!("{name}: {}", error.sentence())),
            Ok(found) => {
                let pairs = found.iter().zip(&golden.logits);
                let worst = pairs.map(|(a, b)| distance(a, b)).fold(0.0, f32::max);
                if worst.is_nan() || worst > 2e-5 {
                    failures.push(format!("{name}: off by {worst:e}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), names.len(), failures.join("\n"));
}
