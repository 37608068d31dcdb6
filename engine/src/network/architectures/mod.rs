//! One file per family of architectures: config.json in, [`Design`] out. A new one is a file that ends in its
//! function, and a line in the list below. Defaults are those of the transformers library.

mod bert;
mod gemma;
mod gpt2;
mod gpt_neox;
mod llama;
mod opt;
mod phi3;

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::network::design::{Attention, Design, Embedding, Head, Linear, Projection};
use crate::network::settings::Settings;

type Make = fn(&Settings<'_>) -> Result<Design>;

/// Every `model_type` that runs, with the function that reads its config.json.
const ARCHITECTURES: &[(&str, Make)] = &[
    ("llama", llama::llama),
    ("mistral", llama::mistral),
    ("qwen2", llama::qwen2),
    ("qwen3", llama::qwen3),
    ("mixtral", llama::mixtral),
    ("qwen3_moe", llama::qwen3_moe),
    ("gemma", gemma::gemma),
    ("gemma2", gemma::gemma2),
    ("gemma3_text", gemma::gemma3),
    ("gemma3", gemma::gemma3),
    ("phi3", phi3::phi3),
    ("gpt2", gpt2::gpt2),
    ("gpt_neox", gpt_neox::gpt_neox),
    ("opt", opt::opt),
    ("bert", bert::bert),
    ("roberta", bert::roberta),
    ("distilbert", bert::distilbert),
];

/// What files put before the names of a model's tensors.
const PREFIXES: &[&str] = &["model.", "", "language_model.model.", "model.language_model."];

/// Every `model_type` that runs.
pub fn known() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

/// The network that config.json describes.
///
/// # Errors
/// [`Error::Malformed`] for settings that are missing or make no sense, [`Error::Plan`] for an architecture that is
/// not known here, [`Error::Unsupported`] for a variant of a known one.
pub fn design(config: &Config) -> Result<Design> {
    let settings = Settings::of(config);
    let name = settings.model_type()?;
    let make = ARCHITECTURES.iter().find(|(known, _)| *known == name).map(|(_, make)| make);
    let make = make.ok_or_else(|| {
        let known: Vec<&str> = known().collect();
        Error::plan(
            format!("the architecture {name:?} cannot be run here"),
            format!(
                "weights can be looked at, compressed and exported without running; {} run",
                known.join(", ")
            ),
        )
    })?;
    let design = make(&settings)?;
    check_heads(&settings, &design)?;
    Ok(design)
}

/// Heads must be whole, and those of queries a multiple of those of keys.
fn check_heads(settings: &Settings<'_>, design: &Design) -> Result<()> {
    for Attention { heads, kv_heads, head_dim, rope, .. } in
        design.blocks.iter().map(|block| &block.attention)
    {
        if !heads.is_multiple_of(*kv_heads) {
            return Err(settings.bad(format!("{heads} heads cannot share {kv_heads} of keys")));
        }
        if rope.as_ref().is_some_and(|rope| rope.dims() > *head_dim) {
            return Err(settings.bad(format!("more than the {head_dim} values of a head rotate")));
        }
    }
    Ok(())
}

/// Numbers that most decoders have.
struct Sizes {
    hidden: usize,
    vocabulary: usize,
    context: usize,
    blocks: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    epsilon: f64,
}

impl Sizes {
    fn of(settings: &Settings<'_>) -> Result<Self> {
        let hidden = settings.extent("hidden_size")?;
        let heads = settings.count("num_attention_heads")?;
        Ok(Self {
            hidden,
            vocabulary: settings.extent("vocab_size")?,
            context: settings.extent_or("max_position_embeddings", 2048)?,
            blocks: settings.count("num_hidden_layers")?,
            heads,
            kv_heads: settings.extent_or("num_key_value_heads", heads)?,
            head_dim: settings.extent_or("head_dim", (hidden / heads).max(1))?,
            ffn: settings.extent("intermediate_size")?,
            epsilon: settings.real_or("rms_norm_eps", 1e-6)?,
        })
    }

    /// Attention over the whole past, without norms and positions, of layers below `module`.
    fn attention(
        &self,
        module: &str,
        [q, k, v, o]: [&str; 4],
        [qkv_bias, o_bias]: [bool; 2],
    ) -> Attention {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let linear = |name, shape, bias| Linear::new(&format!("{module}.{name}"), shape, bias);
        Attention {
            projection: Projection::Apart(Box::new([
                linear(q, [queries, self.hidden], qkv_bias),
                linear(k, [keys, self.hidden], qkv_bias),
                linear(v, [keys, self.hidden], qkv_bias),
            ])),
            output: linear(o, [self.hidden, queries], o_bias),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            rope: None,
            norms: None,
            window: None,
            soft_cap: None,
            causal: true,
        }
    }

    /// Token embedding without anything else.
    fn embedding(&self, tokens: &str) -> Embedding {
        Embedding {
            tokens: format!("{tokens}.weight"),
            width: self.hidden,
            positions: None,
            types: None,
            norm: None,
            scale: 1.0,
            projection: None,
        }
    }

    /// A head of its own, or the embedding.
    fn head(&self, module: &str, bias: bool) -> Head {
        Head {
            projection: None,
            transform: None,
            scores: Linear::new(module, [self.vocabulary, self.hidden], bias),
            soft_cap: None,
        }
    }
}
