//! Checkpoints made on the spot.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use lapidary_engine::numeric::seeds::Random;
use serde_json::{Map, Value, json};

/// Names and shapes of BF16 tensors; norms are vectors, whatever their rows.
pub type Tensors = Vec<(String, [usize; 2])>;

/// Shape of a [`complete_llama`].
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 14_336;
const VOCABULARY: usize = 32_000;

/// Patterns in the block of normal numbers that fills tensors over and over.
const BLOCK: usize = 1 << 24;

/// Writes tensors of normal numbers of standard deviation 0.02 in BF16 to one safetensors file; gives the bytes of
/// the weights. The numbers of a block of 2²⁴ are repeated.
///
/// # Errors
/// Those of writing.
pub fn write(path: &Path, tensors: &Tensors) -> io::Result<u64> {
    let mut header = Map::new();
    let mut end = 0_usize;
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape[0] * shape[1];
        let extents = if name.ends_with("norm.weight") { &shape[1..] } else { &shape[..] };
        let entry = json!({"dtype": "BF16", "shape": extents, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
    }
    let header = Value::from(header).to_string();
    let mut random = Random::new(1);
    let block: Vec<u8> = (0..BLOCK)
        .flat_map(|_| {
            (((0.02 * random.normal()) as f32).to_bits() >> 16).to_le_bytes().into_iter().take(2)
        })
        .collect();
    let mut file = BufWriter::with_capacity(1 << 22, File::create_new(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut left = end;
    while left > 0 {
        let piece = left.min(block.len());
        file.write_all(&block[..piece])?;
        left -= piece;
    }
    file.flush()?;
    Ok(end as u64)
}

/// The linear layers of `blocks` llama blocks, and embedding and head.
pub fn llama(blocks: usize, hidden: usize, intermediate: usize, vocabulary: usize) -> Tensors {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), [vocabulary, hidden]),
        ("lm_head.weight".to_owned(), [vocabulary, hidden]),
    ];
    for block in 0..blocks {
        for (name, shape) in [
            ("self_attn.q_proj", [hidden, hidden]),
            ("self_attn.k_proj", [hidden / 4, hidden]),
            ("self_attn.v_proj", [hidden / 4, hidden]),
            ("self_attn.o_proj", [hidden, hidden]),
            ("mlp.gate_proj", [intermediate, hidden]),
            ("mlp.up_proj", [intermediate, hidden]),
            ("mlp.down_proj", [hidden, intermediate]),
        ] {
            tensors.push((format!("model.layers.{block}.{name}.weight"), shape));
        }
    }
    tensors
}

/// A llama with blocks of 0.44 GB and all that llama.cpp asks for: norms, settings, a tokenizer of as many letters as there are tokens.
///
/// # Errors
/// Those of writing.
pub fn complete_llama(folder: &Path, blocks: usize) -> io::Result<u64> {
    std::fs::create_dir_all(folder)?;
    let mut tensors = llama(blocks, HIDDEN, INTERMEDIATE, VOCABULARY);
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
    write(&folder.join("model.safetensors"), &tensors)
}

/// A mixture of experts: the attention of small llama blocks, and 128 experts in each.
pub fn mixture(blocks: usize) -> Tensors {
    const EXPERTS: usize = 128;
    let mut tensors = llama(blocks, 16, 32, 64);
    for block in 0..blocks {
        for expert in 0..EXPERTS {
            for (name, shape) in
                [("gate_proj", [8, 16]), ("up_proj", [8, 16]), ("down_proj", [16, 8])]
            {
                let module = format!("model.layers.{block}.mlp.experts.{expert}.{name}");
                tensors.push((format!("{module}.weight"), shape));
            }
        }
    }
    tensors
}
