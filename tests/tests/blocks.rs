//! Blocks of weight matrices are what the whole matrices hold at their place.

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::{Checkpoint, MatrixKind};
use lapidary_tests::{Weights, assert_says, data, normals, on_threads};
use ndarray::s;
use tempfile::TempDir;

/// A GPT-2 of one block, whose `c_fc` is stored `[in, out]`, and tensors of odd extents beside it.
fn gpt2(folder: &TempDir) -> Checkpoint {
    let path = folder.path().join("model.safetensors");
    let halves: Vec<u8> = normals(5, 30 * 7)
        .into_iter()
        .flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes())
        .collect();
    Weights::new()
        .normal("wte.weight", &[40, 12])
        .normal("h.0.ln_1.weight", &[12])
        .normal("h.0.attn.c_attn.weight", &[12, 36])
        .normal("h.0.mlp.c_fc.weight", &[12, 48])
        .normal("h.0.mlp.c_proj.weight", &[48, 12])
        .with("odd.weight", "BF16", &[30, 7], &halves)
        // More than a chunk of elements, in rows each longer than a chunk.
        .normal("long.weight", &[2, 600_000])
        .write(&path);
    Checkpoint::open(&path).expect("the model opens")
}

#[track_caller]
fn assert_blocks(checkpoint: &Checkpoint, name: &str, kind: MatrixKind) {
    let index = checkpoint.find(name).expect("the tensor");
    let matrix = checkpoint.tensors()[index].matrix.expect("a matrix");
    assert_eq!(matrix.kind, kind, "{name}");
    let whole = checkpoint.weights(index, &Silent).expect("its weights");
    let (rows, cols) = whole.dim();
    let ranges = |n: usize| [0..n, 0..1, n - 1..n, n / 3..n / 2 + 1, 1..n - 1, n / 2..n / 2];
    for r in ranges(rows) {
        for c in ranges(cols) {
            let block = checkpoint.weight_block(index, r.clone(), c.clone()).expect("a block");
            assert!(block.is_standard_layout());
            assert_eq!(block, whole.slice(s![r.clone(), c.clone()]), "{name} [{r:?}, {c:?}]");
        }
    }
}

#[test]
fn blocks_hold_the_entries_at_their_place() {
    let folder = TempDir::new().unwrap();
    let gpt2 = gpt2(&folder);
    assert_blocks(&gpt2, "wte.weight", MatrixKind::Embedding);
    assert_blocks(&gpt2, "h.0.attn.c_attn.weight", MatrixKind::Conv1d);
    assert_blocks(&gpt2, "h.0.mlp.c_fc.weight", MatrixKind::Conv1d);
    assert_blocks(&gpt2, "odd.weight", MatrixKind::Unknown);
    assert_blocks(&gpt2, "long.weight", MatrixKind::Unknown);
    let resnet = Checkpoint::open(&data("cifar10-resnet20")).unwrap();
    let convolution = resnet
        .tensors()
        .iter()
        .find(|tensor| tensor.matrix.is_some_and(|m| m.kind == MatrixKind::Convolution))
        .expect("a convolution");
    assert_blocks(&resnet, &convolution.name, MatrixKind::Convolution);
}

#[test]
fn a_block_is_the_same_on_any_number_of_threads() {
    let folder = TempDir::new().unwrap();
    let gpt2 = gpt2(&folder);
    let index = gpt2.find("long.weight").unwrap();
    let whole = gpt2.weights(index, &Silent).unwrap();
    for threads in [1, 2, 7] {
        let all = || gpt2.weight_block(index, 0..2, 0..600_000).unwrap();
        assert_eq!(on_threads(threads, all), whole);
    }
}

#[test]
fn only_matrices_have_blocks() {
    let folder = TempDir::new().unwrap();
    let gpt2 = gpt2(&folder);
    let norm = gpt2.find("h.0.ln_1.weight").unwrap();
    assert_says(gpt2.weight_block(norm, 0..1, 0..1), &["h.0.ln_1.weight", "not those of a"]);
}

#[test]
#[should_panic(expected = "of a matrix of 40 × 12")]
fn a_block_beyond_the_matrix_is_a_mistake_of_the_caller() {
    let folder = TempDir::new().unwrap();
    let gpt2 = gpt2(&folder);
    let index = gpt2.find("wte.weight").unwrap();
    drop(gpt2.weight_block(index, 0..41, 0..12));
}
