//! How long an export of a 4 GB model in BF16 takes, packed 4-bit integers and `Q4_K`, against reading the source and
//! writing as many bytes as came out, with plain copies until the disk has them, in the same minute.
//!
//! Arguments: how many blocks of 0.44 GB the model has; 8 if there is none.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lapidary_benches::{Table, model, seconds};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::{Assignment, Rule, Rules};
use lapidary_engine::target;
use lapidary_engine::{Observer, Progress};
use serde_json::{Map, Value, json};

const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 14_336;
const VOCABULARY: usize = 32_000;
const USUAL_BLOCKS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let blocks = numbers.next().unwrap_or(USUAL_BLOCKS);
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("model");
    let bytes = write(&source, blocks)?;
    println!("{blocks} blocks, {:.2} GB", bytes as f64 / 1e9);
    let weights = source.join("model.safetensors");
    let mut table =
        Table::new(&["what", "time", "GB/s of source", "plain", "plain / ours", "stages"]);
    let integers = Step::new("round-to-nearest").with("bits", 4).with("group_size", 128);
    let blocks_of_256 = Step::new("gguf-blocks").with("type", "Q4_K");
    for (what, id, step) in
        [("4 bits, groups of 128", "compressed-tensors", integers), ("Q4_K", "gguf", blocks_of_256)]
    {
        let (time, written, stages) = exported(&source, (id, step), &folder.path().join(id))?;
        let plain = copy(&weights, &folder.path().join("copy"), written)?;
        table.row(&[
            what.to_owned(),
            seconds(time),
            format!("{:.2}", bytes as f64 / 1e9 / time.as_secs_f64()),
            seconds(plain),
            format!("{:.0} %", 100.0 * plain.as_secs_f64() / time.as_secs_f64()),
            stages,
        ]);
    }
    table.print();
    Ok(())
}

/// Every projection compressed so; the time of all of it, the bytes that came out, and the times of its stages.
fn exported(
    source: &Path,
    (id, step): (&str, Step),
    out: &Path,
) -> Result<(Duration, u64, String), Box<dyn Error>> {
    let checkpoint = Checkpoint::open(source)?;
    let rule = Rule::new("*_proj.weight", Assignment::of(vec![step]))?;
    let plan = Rules(vec![rule]).resolve(&checkpoint)?;
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    let stages = Stages::default();
    let begun = Instant::now();
    let report = export(&checkpoint, &plan, target::find(id)?, destination, &stages)?;
    let time = begun.elapsed();
    std::fs::remove_dir_all(out)?;
    Ok((time, report.totals.total_bytes, stages.told()))
}

/// Reads all of a file and writes as many of its bytes beside it, until the disk has them.
fn copy(from: &Path, to: &Path, bytes: u64) -> io::Result<Duration> {
    let begun = Instant::now();
    let (mut source, mut file) = (File::open(from)?, File::create_new(to)?);
    let mut buffer = vec![0; 8 << 20];
    let mut left = bytes;
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let kept = left.min(n as u64);
        file.write_all(&buffer[..kept as usize])?;
        left -= kept;
    }
    file.sync_all()?;
    let time = begun.elapsed();
    std::fs::remove_file(to)?;
    Ok(time)
}

/// When each stage was heard of first, and last.
#[derive(Default)]
struct Stages(Mutex<BTreeMap<Instant, (&'static str, Instant)>>);

impl Stages {
    fn told(&self) -> String {
        let stages = self.0.lock().map(|stages| stages.clone()).unwrap_or_default();
        let told = stages.iter().map(|(begun, (stage, last))| {
            format!("{stage} {:.1} s", last.duration_since(*begun).as_secs_f64())
        });
        told.collect::<Vec<_>>().join(", ")
    }
}

impl Observer for Stages {
    fn progress(&self, progress: Progress) {
        let now = Instant::now();
        let Ok(mut stages) = self.0.lock() else { return };
        match stages.values_mut().find(|(stage, _)| *stage == progress.stage) {
            Some((_, last)) => *last = now,
            None => {
                stages.insert(now, (progress.stage, now));
            }
        }
    }
}

/// A llama with all that llama.cpp asks for: norms, settings, a tokenizer of as many letters as there are tokens.
fn write(folder: &Path, blocks: usize) -> io::Result<u64> {
    std::fs::create_dir_all(folder)?;
    let mut tensors = model::llama(blocks, HIDDEN, INTERMEDIATE, VOCABULARY);
    tensors.push(("model.norm.weight".to_owned(), [1, HIDDEN]));
    for block in 0..blocks {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{block}.{name}.weight"), [1, HIDDEN]));
        }
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": false,
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": blocks,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    });
    let letter = |id: usize| char::from_u32(256 + id as u32).unwrap_or('?').to_string();
    let letters: Map<String, Value> = (0..VOCABULARY).map(|id| (letter(id), id.into())).collect();
    let tokenizer = json!({
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
        "model": {"type": "BPE", "vocab": letters, "merges": []},
    });
    for (name, value) in [("config.json", config), ("tokenizer.json", tokenizer)] {
        File::create_new(folder.join(name))?.write_all(value.to_string().as_bytes())?;
    }
    model::write(&folder.join("model.safetensors"), &tensors)
}
