//! Opening and listing a checkpoint of 812 GB, of which only headers and holes exist: `lapidary inspect --headers
//! --json` of the release build, or of the program that the environment variable LAPIDARY names.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lapidary_benches::{Table, seconds};
use serde_json::{Map, Value, json};

const HIDDEN: u64 = 16_384;
const LAYERS: u64 = 126;
const HEADS: u64 = 128;
const KV_HEADS: u64 = 8;
const INTERMEDIATE: u64 = 53_248;
const VOCAB: u64 = 128_256;
const SHARDS: u64 = 191;

const LIMIT: Duration = Duration::from_millis(300);
const LIMIT_BYTES: u64 = 100_000_000;
const RUNS: usize = 5;

fn main() -> io::Result<()> {
    let program = std::env::var_os("LAPIDARY").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/lapidary"),
        PathBuf::from,
    );
    if !program.is_file() {
        println!("{} is missing: cargo build --release, or set LAPIDARY", program.display());
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (tensors, bytes) = write_checkpoint(folder.path())?;
    println!("{tensors} tensors, {:.1} GB in {SHARDS} files", bytes as f64 / 1e9);
    let mut table = Table::new(&["run", "time", "of 0.3 s", "peak memory", "of 100 MB"]);
    for run in 1..=RUNS {
        let (time, peak, listed) = inspect(&program, folder.path())?;
        assert_eq!(listed, tensors, "every tensor is listed once");
        let share = |part: f64| format!("{:.0} %", 100.0 * part);
        table.row(&[
            run.to_string(),
            seconds(time),
            share(time.as_secs_f64() / LIMIT.as_secs_f64()),
            format!("{:.1} MB", peak as f64 / 1e6),
            share(peak as f64 / LIMIT_BYTES as f64),
        ]);
    }
    table.print();
    Ok(())
}

/// Time, peak resident bytes (0 where the system does not say) and number of tensors listed.
fn inspect(program: &Path, folder: &Path) -> io::Result<(Duration, u64, usize)> {
    let begun = Instant::now();
    let mut child = Command::new(program)
        .arg("inspect")
        .arg(folder)
        .args(["--headers", "--json"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let reader = thread::Builder::new().name("reader".to_owned()).spawn(move || {
        let mut printed = Vec::new();
        pipe.read_to_end(&mut printed).map(|_| printed)
    })?;
    let mut peak = 0;
    let status = loop {
        // The mark only rises, so what is missed is what came in the last half millisecond.
        peak = peak_bytes(child.id()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_micros(500));
    };
    let time = begun.elapsed();
    let printed = reader.join().map_err(|_panic| io::ErrorKind::Other)??;
    assert!(status.success(), "{status}");
    let rows: Vec<Value> = serde_json::from_slice(&printed)?;
    Ok((time, peak, rows.len()))
}

/// The high-water mark of a process's resident memory.
fn peak_bytes(process: u32) -> Option<u64> {
    let mut text = String::new();
    let mut file = OpenOptions::new().read(true).open(format!("/proc/{process}/status")).ok()?;
    file.read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Names and shapes of a llama.
fn tensors() -> Vec<(String, Vec<u64>)> {
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![kv, HIDDEN]),
            ("self_attn.v_proj", vec![kv, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ] {
            all.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    all.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    all.push(("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]));
    all
}

/// Writes headers, holes, index and config.json; returns the number of tensors and their bytes.
fn write_checkpoint(folder: &Path) -> io::Result<(usize, u64)> {
    let all = tensors();
    let bytes_of = |shape: &[u64]| 2 * shape.iter().product::<u64>();
    let total: u64 = all.iter().map(|(_, shape)| bytes_of(shape)).sum();
    let mut weight_map = Map::new();
    let (mut shard, mut filled) = (0, 0);
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in &all {
        let bytes = bytes_of(shape);
        if (filled + bytes / 2) * SHARDS > total * (shard + 1) && shard + 1 < SHARDS {
            write_shard(&folder.join(file_name(shard)), std::mem::take(&mut header), at)?;
            (shard, at) = (shard + 1, 0);
        }
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + bytes]});
        header.insert(name.clone(), entry);
        weight_map.insert(name.clone(), Value::from(file_name(shard)));
        (at, filled) = (at + bytes, filled + bytes);
    }
    write_shard(&folder.join(file_name(shard)), header, at)?;
    assert_eq!(shard + 1, SHARDS, "every shard holds something");
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_new(&folder.join("model.safetensors.index.json"), index.to_string().as_bytes(), 0)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "intermediate_size": INTERMEDIATE, "vocab_size": VOCAB,
        "tie_word_embeddings": false,
    });
    write_new(&folder.join("config.json"), config.to_string().as_bytes(), 0)?;
    Ok((all.len(), total))
}

fn file_name(shard: u64) -> String {
    format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1)
}

fn write_shard(path: &Path, header: Map<String, Value>, data_bytes: u64) -> io::Result<()> {
    let mut text = Value::from(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    write_new(path, &bytes, data_bytes)
}

/// A file of `bytes` and a hole of `hole` bytes behind them.
fn write_new(path: &Path, bytes: &[u8], hole: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64 + hole)
}
