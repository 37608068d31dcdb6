//! Checkpoints made on the spot.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use lapidary_engine::numeric::seeds::Random;
use serde_json::{Map, Value, json};

/// Names and shapes of BF16 tensors; norms are vectors, whatever their rows.
pub type Tensors = Vec<(String, [usize; 2])>;

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
