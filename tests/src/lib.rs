//! Helpers of the cross-file tests: where the fixtures lie, small models made on the spot, threads, folders.
//! Files are made by hand here, not by the engine, so that what it reads was not written by itself.

pub mod gguf;
pub mod layers;
pub mod networks;
pub mod observers;
mod packed;
pub mod reader;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk::{self, Source};
use lapidary_engine::encoding::Encoding;
use lapidary_engine::export::{PAGE, REPORT};
use lapidary_engine::method::{self, LayerInputs, Needs, Step, Task};
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::plan::{Assignment, Plan, Rule, Rules};
use lapidary_engine::target::{self, Target};
use lapidary_engine::tensor::DType;
use lapidary_engine::{Error, Result, Silent};
use ndarray::Array2;
use serde_json::{Value, json};

/// The top of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A fixture of this package.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

/// The folder of the built-in sample model.
pub fn sample_path() -> PathBuf {
    repository().join("assets").join("sample-books-6m")
}

/// The built-in sample model.
pub fn sample() -> Checkpoint {
    Checkpoint::open(&sample_path()).expect("the sample opens")
}

/// A stored JSON document.
pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).expect("valid JSON")
}

/// The bytes of a file.
pub fn read(path: &Path) -> Vec<u8> {
    let source = Source::open(path).unwrap_or_else(|error| panic!("{error}"));
    let bytes = source.bytes(0..source.len_bytes());
    bytes.unwrap_or_else(|error| panic!("{error}")).to_vec()
}

/// Writes a file, making its folder.
pub fn write(path: &Path, bytes: &[u8]) {
    disk::write_file(path, bytes).unwrap_or_else(|error| panic!("{error}"));
}

/// Every file directly in a folder.
pub fn read_folder(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = disk::list_files(folder).unwrap_or_else(|error| panic!("{error}"));
    let read = |(name, _): (String, u64)| {
        let bytes = read(&folder.join(&name));
        (name, bytes)
    };
    files.into_iter().map(read).collect()
}

/// Every file of an export but its two reports, which are there.
pub fn read_output(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = read_folder(folder);
    for report in [REPORT, PAGE] {
        assert!(files.remove(report).is_some(), "{report} is missing in {}", folder.display());
    }
    files
}

/// Everything in a folder by name, hidden entries and folders too.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder that can be listed");
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Puts a tensor of the source back into the one file of an export, as if it had not been changed.
pub fn with_tensor_of(out: &Path, source: &Checkpoint, name: &str) {
    let path = out.join("model.safetensors");
    let mut bytes = read(&path);
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let all: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
    let first = all[name]["data_offsets"][0].as_u64().expect("an offset") as usize + 8 + header;
    let tensor = &source.tensors()[source.find(name).expect("a tensor")];
    let before = source.element_bytes(tensor, 0, tensor.parameters()).expect("bytes");
    bytes[first..first + before.len()].copy_from_slice(&before);
    write(&path, &bytes);
}

/// Runs `work` with a pool of `n` threads.
pub fn on_threads<T: Send>(n: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    pool.expect("a pool of threads").install(work)
}

/// The targets of grouped integers, or of everything in full, whose files are safetensors, so that what they wrote opens as a
/// checkpoint again. Those of codes of research methods have tests of their own, `research_targets.rs`.
pub fn writable() -> impl Iterator<Item = &'static dyn Target> {
    let others = ["gguf", "archive", "aqlm", "spqr"];
    target::writable().filter(move |target| !others.contains(&target.about().id))
}

/// `n` independent standard normal numbers.
pub fn normals(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal() as f32).collect()
}

/// A matrix of standard normal numbers.
pub fn normal_matrix(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    matrix(rows, cols, normals(seed, rows * cols))
}

/// `values` as a matrix.
pub fn matrix(rows: usize, cols: usize, values: Vec<f32>) -> Array2<f32> {
    Array2::from_shape_vec((rows, cols), values).expect("rows × cols values")
}

/// What a layer of so many inputs receives: 64 tokens whose neighbouring channels are alike, of differing size.
pub fn synthetic_inputs(channels: usize) -> LayerInputs {
    let mut x = normal_matrix(77, 64, channels);
    for mut token in x.rows_mut() {
        for j in 1..channels {
            token[j] = (0.7 * token[j - 1] + token[j]) * (0.5 + (j % 5) as f32 / 4.0);
        }
    }
    let mut gram = Gram::new(channels);
    gram.add(x.view());
    let mean = x.mean_axis(ndarray::Axis(0)).map(|mean| mean.to_vec()).unwrap_or_default();
    // Tokens as rarely as in a short text: a few occur, the others do not.
    let shares = vec![0.125; 8];
    LayerInputs { mean, shares, ..LayerInputs::of_gram(gram) }
}

/// Compresses a matrix as the layer `layer.weight` of element type `dtype`, which receives [`synthetic_inputs`].
pub fn compress(steps: &[Step], weights: &Array2<f32>, dtype: DType) -> Result<Encoding> {
    let needs_inputs = method::chain_needs(steps) > Needs::Weights;
    let inputs = needs_inputs.then(|| synthetic_inputs(weights.ncols()));
    let task = Task {
        tensor: "layer.weight",
        weights: weights.view(),
        dtype,
        previous: None,
        fused_peak: None,
        inputs: inputs.as_ref(),
        observer: &Silent,
    };
    method::run_chain(steps, &task)
}

/// A plan of one chain for every layer that a pattern matches.
pub fn plan(checkpoint: &Checkpoint, rules: &[(&str, Vec<Step>)]) -> Result<Plan> {
    let rule =
        |(pattern, steps): &(&str, Vec<Step>)| Rule::new(pattern, Assignment::of(steps.clone()));
    Rules(rules.iter().map(rule).collect::<Result<_>>()?).resolve(checkpoint)
}

/// A round-to-nearest step.
pub fn rtn(bits: i64) -> Step {
    Step::new("round-to-nearest").with("bits", bits)
}

/// Asserts that a failure happens and its sentence says each of `said`.
#[track_caller]
pub fn assert_says<T>(result: Result<T>, said: &[&str]) -> Error {
    let Err(error) = result else {
        panic!("this must not work; it should say {said:?}");
    };
    let sentence = error.sentence();
    for part in said {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
    assert!(!sentence.contains('\n'), "more than a line: {sentence}");
    error
}

/// Asserts that there are as many sentences as expected, each a line with a full stop that says each of its parts.
#[track_caller]
pub fn assert_unsaid(unsaid: &[String], expected: &[&[&str]]) {
    assert_eq!(unsaid.len(), expected.len(), "{unsaid:#?}");
    for (sentence, parts) in unsaid.iter().zip(expected) {
        assert!(sentence.ends_with('.') && !sentence.contains('\n'), "{sentence}");
        for part in *parts {
            assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
        }
    }
}

/// A safetensors file, put together by hand.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Weights {
    /// A file without tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// The file with one more tensor of the given bytes.
    pub fn with(mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) -> Self {
        let begin = self.data.len();
        self.data.extend_from_slice(bytes);
        let entry =
            json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, self.data.len()]});
        self.header.insert(name.to_owned(), entry);
        self
    }

    /// The file with one more F32 tensor.
    pub fn f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.with(name, "F32", shape, &bytes)
    }

    /// The file with one more F32 tensor of standard normal numbers.
    pub fn normal(self, name: &str, shape: &[usize]) -> Self {
        let seed = name.bytes().fold(7, |seed, byte| seed * 31 % 65_521 + u64::from(byte));
        self.f32(name, shape, &normals(seed, shape.iter().product()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        raw_file(&Value::from(self.header.clone()).to_string(), &self.data)
    }

    /// Writes it to `path`.
    pub fn write(&self, path: &Path) {
        write(path, &self.bytes());
    }
}

/// A safetensors file of a header as it is and data.
pub fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A llama of one block in F32 whose rows have 48 inputs, in `folder`: weights and config.json.
pub fn small_llama(folder: &Path) {
    let mut weights = Weights::new()
        .normal("model.embed_tokens.weight", &[20, 48])
        .normal("lm_head.weight", &[20, 48])
        .normal("model.norm.weight", &[48]);
    for (name, rows, cols) in [
        ("self_attn.q_proj", 48, 48),
        ("self_attn.k_proj", 16, 48),
        ("self_attn.v_proj", 16, 48),
        ("self_attn.o_proj", 48, 48),
        ("mlp.gate_proj", 80, 48),
        ("mlp.up_proj", 80, 48),
        ("mlp.down_proj", 48, 80),
    ] {
        weights = weights.normal(&format!("model.layers.0.{name}.weight"), &[rows, cols]);
    }
    weights.write(&folder.join("model.safetensors"));
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": false,
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1, "vocab_size": 20,
    });
    write(&folder.join("config.json"), config.to_string().as_bytes());
}

/// A llama of two blocks of zeros in BF16 whose rows have 256 and 384 inputs, in `folder`: weights and config.json.
pub fn plain_llama(folder: &Path) -> Checkpoint {
    let mut weights = Weights::new();
    let mut add = |name: String, shape: &[usize]| {
        let zeros = vec![0; 2 * shape.iter().product::<usize>()];
        weights = std::mem::take(&mut weights).with(&name, "BF16", shape, &zeros);
    };
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        add(name.to_owned(), &[8, 256]);
    }
    add("model.norm.weight".to_owned(), &[256]);
    for block in 0..2 {
        for (name, rows, cols) in [
            ("self_attn.q_proj", 16, 256),
            ("self_attn.k_proj", 8, 256),
            ("self_attn.v_proj", 8, 256),
            ("self_attn.o_proj", 16, 256),
            ("mlp.gate_proj", 24, 256),
            ("mlp.up_proj", 24, 256),
            ("mlp.down_proj", 16, 384),
        ] {
            add(format!("model.layers.{block}.{name}.weight"), &[rows, cols]);
        }
        add(format!("model.layers.{block}.input_layernorm.weight"), &[256]);
    }
    weights.write(&folder.join("model.safetensors"));
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": false,
        "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2, "vocab_size": 8,
    });
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("the model opens")
}
