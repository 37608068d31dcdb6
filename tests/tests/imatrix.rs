//! Importance matrices of llama.cpp: read as its tools write them, written as they read them.

use std::path::Path;

use lapidary_engine::calibration::{
    Calibration, Entry, Imatrix, LEGACY_CHUNK_TOKENS, Prefix, Record, Settings, Text,
};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::numeric::channels::Inputs;
use lapidary_tests::{Weights, assert_says, data, read, write};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use tempfile::TempDir;

fn golden(name: &str) -> std::path::PathBuf {
    data("imatrix").join(name)
}

#[test]
fn what_gguf_py_wrote_is_read() {
    let matrix = Imatrix::read(&golden("small.gguf")).unwrap();
    assert_eq!(matrix.datasets, ["wiki.txt", "code.txt"]);
    assert_eq!((matrix.chunk_count, matrix.chunk_size), (3, 512));
    assert_eq!(matrix.entries.len(), 2);
    let query = &matrix.entries["blk.0.attn_q.weight"];
    assert_eq!(query.sums, [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]);
    assert_eq!(query.counts, [1536.0]);
    let experts = &matrix.entries["blk.0.ffn_down_exps.weight"];
    assert_eq!(experts.counts, [1000.0, 0.0, 536.0]);
    let (tokens, squares) = experts.mean_square(2, 4).unwrap();
    assert_eq!((tokens, squares[0]), (536.0, (6.0_f64 / 536.0) as f32));
    assert_eq!(experts.mean_square(1, 4), Some((0.0, vec![0.0; 4])));
    assert_eq!((experts.mean_square(3, 4), experts.mean_square(0, 5)), (None, None));
    assert_eq!(experts.mean_square(0, 0), None);
}

#[test]
fn the_old_form_is_read() {
    let matrix = Imatrix::read(&golden("small.dat")).unwrap();
    assert_eq!((&matrix.datasets[..], matrix.chunk_count), (&["wiki.txt".to_owned()][..], 3));
    let (tokens, squares) = matrix.entries["blk.0.attn_q.weight"].mean_square(0, 8).unwrap();
    assert_eq!(tokens, 3.0 * f64::from(LEGACY_CHUNK_TOKENS));
    assert_eq!(squares, [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]);
}

/// Keys and tensors are in the same order there: the files are the same to the byte.
#[test]
fn what_is_written_is_what_gguf_py_writes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.gguf");
    let matrix = Imatrix::read(&golden("small.gguf")).unwrap();
    matrix.write(&path).unwrap();
    assert_eq!(Imatrix::read(&path).unwrap(), matrix);
    assert_eq!(read(&path), read(&golden("small.gguf")));
}

fn inputs(tokens: u64, channels: usize) -> Inputs {
    Inputs::of_mean_squares(tokens, (0..channels).map(|at| at as f32 + 0.5).collect())
}

fn layer(name: &str, tokens: u64, channels: usize) -> Record {
    let layers = name.split(' ').map(str::to_owned).collect();
    Record { layers, routed_of: None, inputs: inputs(tokens, channels), gram: None }
}

fn settings() -> Settings {
    Settings {
        model: "m".to_owned(),
        model_key: "k".to_owned(),
        texts: vec![Text { name: "wiki.txt".to_owned(), hash: "h".to_owned() }],
        sequence_tokens: 512,
        tokens: 1536,
        seed: 0,
        prefix: Prefix::Original,
        has_grams: false,
    }
}

#[test]
fn a_calibration_goes_there_and_back() {
    let folder = TempDir::new().unwrap();
    let records = vec![
        layer(
            "model.layers.0.self_attn.q_proj.weight model.layers.0.self_attn.k_proj.weight",
            1536,
            8,
        ),
        layer("model.layers.0.mlp.experts.0.down_proj.weight", 1000, 4),
        layer("model.layers.0.mlp.experts.2.down_proj.weight", 536, 4),
        layer("vision.patch.weight", 7, 4),
    ];
    let calibration = Calibration::new(settings(), records, true);
    let (matrix, unsaid) = Imatrix::from_calibration(&calibration);
    assert_eq!(unsaid, ["vision.patch.weight has no name in GGUF."]);
    assert_eq!((matrix.chunk_count, matrix.chunk_size), (3, 512));
    assert_eq!(matrix.datasets, ["wiki.txt"]);
    let path = folder.path().join("out.gguf");
    matrix.write(&path).unwrap();
    let matrix = Imatrix::read(&path).unwrap();
    let names: Vec<&str> = matrix.entries.keys().map(String::as_str).collect();
    assert_eq!(names, ["blk.0.attn_k.weight", "blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"]);
    assert_eq!(matrix.entries["blk.0.ffn_down_exps.weight"].counts, [1000.0, 0.0, 536.0]);
    // Back into the layers of a model.
    let model = folder.path().join("model.safetensors");
    let mut weights = Weights::new();
    for (name, rows, cols) in [
        ("model.layers.0.self_attn.q_proj.weight", 8, 8),
        ("model.layers.0.self_attn.k_proj.weight", 8, 9),
        ("model.layers.0.self_attn.v_proj.weight", 8, 8),
        ("model.layers.0.mlp.experts.0.down_proj.weight", 8, 4),
        ("model.layers.0.mlp.experts.1.down_proj.weight", 8, 4),
        ("model.layers.0.mlp.experts.2.down_proj.weight", 8, 4),
    ] {
        weights = weights.normal(name, &[rows, cols]);
    }
    weights.write(&model);
    let (back, unsaid) = matrix.records(&Checkpoint::open(&model).unwrap());
    assert_eq!(unsaid.len(), 1, "{unsaid:?}");
    assert!(unsaid[0].contains("k_proj") && unsaid[0].contains("9 channels"), "{unsaid:?}");
    let found: Vec<(&str, u64)> =
        back.iter().map(|record| (record.layers[0].as_str(), record.inputs.tokens)).collect();
    assert_eq!(found.len(), 4);
    for (name, tokens) in [
        ("model.layers.0.self_attn.q_proj.weight", 1536),
        ("model.layers.0.mlp.experts.0.down_proj.weight", 1000),
        ("model.layers.0.mlp.experts.1.down_proj.weight", 0),
        ("model.layers.0.mlp.experts.2.down_proj.weight", 536),
    ] {
        let record = back.iter().find(|record| record.layers[0] == name).unwrap();
        assert_eq!(record.inputs.tokens, tokens);
        for (at, square) in record.inputs.mean_square.iter().enumerate() {
            let wanted = if tokens == 0 { 0.0 } else { at as f32 + 0.5 };
            assert!((square - wanted).abs() < 1e-6 * wanted.max(1.0), "{name}: {square}");
        }
    }
}

#[test]
fn files_of_others_are_refused_in_a_sentence() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    let refuse = |bytes: &[u8], said: &[&str]| {
        write(&path, bytes);
        assert_says(Imatrix::read(&path), said);
    };
    refuse(b"", &["importance matrix", "ends within"]);
    refuse(&[0; 40], &["0 entries"]);
    refuse(&[0xff; 40], &["-1"]);
    refuse(b"GGUF", &["GGUF"]);
    let whole = read(&golden("small.gguf"));
    let at = whole.windows(7).position(|window| window == b"imatrix").unwrap();
    let mut other = whole.clone();
    other[at..at + 7].copy_from_slice(b"adapter");
    refuse(&other, &["adapter", "llama-imatrix"]);
    let bad = Entry { sums: vec![1.0; 3], counts: vec![1.0; 2] };
    let matrix = Imatrix { entries: [("a".to_owned(), bad)].into(), ..Imatrix::default() };
    assert_says(matrix.write(&path), &["3 sums", "2 counts"]);
}

/// Whatever the bytes, there is an answer.
fn read_any(path: &Path, bytes: &[u8]) -> Option<Imatrix> {
    write(path, bytes);
    Imatrix::read(path).ok()
}

#[test]
fn files_cut_at_any_byte_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cut");
    let whole = read(&golden("small.gguf"));
    let last_sum = whole.len() - 32;
    for length in 0..last_sum {
        assert!(read_any(&path, &whole[..length]).is_none(), "{length}");
    }
    // Of the old form, what follows the entries may be missing.
    let whole = read(&golden("small.dat"));
    let entries_end = whole.len() - 4 - 4 - "wiki.txt".len();
    for length in
        (0..whole.len()).filter(|&length| length != entries_end && length != entries_end + 4)
    {
        assert!(read_any(&path, &whole[..length]).is_none(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_matrix_goes_there_and_back(shapes in prop::collection::vec((1..9_usize, 1..4_usize), 1..5), seed in any::<u32>()) {
        let folder = TempDir::new().unwrap();
        let value = |at: usize| ((at as u32).wrapping_mul(2_654_435_761) ^ seed) as f32;
        let entry = |(channels, matrices): &(usize, usize)| Entry {
            sums: (0..channels * matrices).map(value).collect(),
            counts: (0..*matrices).map(value).collect(),
        };
        let entries = shapes.iter().enumerate().map(|(at, shape)| (format!("blk.{at}.ffn_up.weight"), entry(shape)));
        let matrix = Imatrix {
            datasets: vec!["a b".to_owned(); shapes.len() - 1],
            chunk_count: seed,
            chunk_size: 512,
            entries: entries.collect(),
        };
        let path = folder.path().join("out.gguf");
        matrix.write(&path).unwrap();
        assert_eq!(Imatrix::read(&path).unwrap(), matrix);
    }

    #[test]
    fn damage_never_panics(which in any::<bool>(), place in any::<u32>(), by in 1..=255_u8) {
        let folder = TempDir::new().unwrap();
        let mut bytes = read(&golden(if which { "small.gguf" } else { "small.dat" }));
        let at = place as usize % bytes.len();
        bytes[at] ^= by;
        if let Some(matrix) = read_any(&folder.path().join("x"), &bytes) {
            assert!(matrix.entries.values().all(|entry| entry.sums.len() < bytes.len()));
        }
    }
}
