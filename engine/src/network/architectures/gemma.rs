//! Gemma 1, 2 and 3: norms that add one, scaled embeddings, soft caps, windows in turn.

use crate::error::Result;
use crate::network::architectures::llama::gated;
use crate::network::architectures::{PREFIXES, Sizes};
use crate::network::design::{Attention, Block, Design, Feed, Norm, Norms};
use crate::network::rope::{Rope, RopeSettings};
use crate::network::settings::Settings;
use crate::numeric::activation::Activation;

/// Which of the three it is.
#[derive(Clone, Copy, PartialEq)]
enum Generation {
    One,
    Two,
    Three,
}

/// Gemma Team 2024a.
pub(super) fn gemma(settings: &Settings<'_>) -> Result<Design> {
    build(settings, Generation::One)
}

/// Gemma Team 2024b: norms on both sides, soft caps, every other layer sees a window.
pub(super) fn gemma2(settings: &Settings<'_>) -> Result<Design> {
    build(settings, Generation::Two)
}

/// Gemma Team 2025: normalised heads instead of soft caps, windows in five of six layers.
pub(super) fn gemma3(settings: &Settings<'_>) -> Result<Design> {
    build(settings, Generation::Three)
}

impl Generation {
    /// Whether a layer sees a window only.
    fn slides(self, settings: &Settings<'_>, layer: usize) -> Result<bool> {
        if let Some(name) = settings.layer_type(layer) {
            return Ok(name == "sliding_attention");
        }
        Ok(match self {
            Self::One => false,
            Self::Two => layer.is_multiple_of(2),
            Self::Three => {
                !(layer + 1).is_multiple_of(settings.extent_or("sliding_window_pattern", 6)?)
            }
        })
    }

    fn rope(self, settings: &Settings<'_>, sizes: &Sizes, slides: bool) -> Result<Rope> {
        let is_nested = settings.get("rope_parameters").is_some();
        let rope = match (self, slides) {
            (Self::Three, true) if !is_nested => {
                RopeSettings::plain(settings, settings.real_or("rope_local_base_freq", 1e4)?)?
            }
            (Self::Three, true) => RopeSettings::of(settings, Some("sliding_attention"), 1e4)?,
            (Self::Three, false) => RopeSettings::of(settings, Some("full_attention"), 1e6)?,
            _ => RopeSettings::of(settings, None, 1e4)?,
        };
        rope.rope(sizes.head_dim, sizes.context)
    }

    fn window(self, settings: &Settings<'_>, slides: bool) -> Result<Option<usize>> {
        let default = if self == Self::Three { 1024 } else { 4096 };
        slides.then(|| settings.extent_or("sliding_window", default)).transpose()
    }
}

fn build(settings: &Settings<'_>, generation: Generation) -> Result<Design> {
    let sizes = Sizes::of(settings)?;
    let activation = match generation {
        // Files of the first generation say "gelu" and mean the one by tanh.
        Generation::One => Activation::GeluTanh,
        _ => settings.activation(&["hidden_activation", "hidden_act"], Activation::GeluTanh)?,
    };
    let block = |index: usize| {
        let name = format!("layers.{index}");
        let norm = |part: &str| norm_of(&format!("{name}.{part}"), sizes.hidden, &sizes);
        let around = |before: &str, closing: &str| Norms {
            before: Some(norm(before)),
            closing: (generation != Generation::One).then(|| norm(closing)),
            after: None,
        };
        let before_feed = match generation {
            Generation::One => "post_attention_layernorm",
            _ => "pre_feedforward_layernorm",
        };
        let names = ["gate_proj", "up_proj", "down_proj"];
        let shape = [sizes.hidden, sizes.ffn];
        Ok(Block {
            attention: attention(settings, &sizes, generation, index)?,
            feed: Feed::Gated(gated(&format!("{name}.mlp"), names, shape, (false, activation))),
            attention_norms: around("input_layernorm", "post_attention_layernorm"),
            feed_norms: around(before_feed, "post_feedforward_layernorm"),
            parallel: false,
        })
    };
    let mut embedding = sizes.embedding("embed_tokens");
    embedding.scale = (sizes.hidden as f32).sqrt();
    let module = if settings.is_tied(true) { "embed_tokens" } else { "lm_head" };
    let mut head = sizes.head(module, false);
    head.soft_cap = cap(settings, "final_logit_softcapping")?;
    Ok(Design {
        architecture: settings.model_type()?.to_owned(),
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        embedding,
        blocks: (0..sizes.blocks).map(block).collect::<Result<_>>()?,
        last_norm: Some(norm_of("norm", sizes.hidden, &sizes)),
        head: Some(head),
        causal: true,
        prefixes: PREFIXES,
    })
}

fn attention(
    settings: &Settings<'_>,
    sizes: &Sizes,
    generation: Generation,
    block: usize,
) -> Result<Attention> {
    let module = format!("layers.{block}.self_attn");
    let bias = settings.flag_or("attention_bias", false);
    let slides = generation.slides(settings, block)?;
    let names = ["q_proj", "k_proj", "v_proj", "o_proj"];
    let mut attention = sizes.attention(&module, names, [bias; 2]);
    attention.rope = Some(generation.rope(settings, sizes, slides)?);
    attention.window = generation.window(settings, slides)?;
    if generation != Generation::One {
        let queried = settings.real_or("query_pre_attn_scalar", sizes.head_dim as f64)?;
        attention.scale = 1.0 / (queried as f32).sqrt();
    }
    if generation == Generation::Two {
        attention.soft_cap = cap(settings, "attn_logit_softcapping")?;
    }
    let norm = |part: &str| norm_of(&format!("{module}.{part}"), sizes.head_dim, sizes);
    attention.norms = (generation == Generation::Three).then(|| ["q_norm", "k_norm"].map(norm));
    Ok(attention)
}

fn norm_of(module: &str, width: usize, sizes: &Sizes) -> Norm {
    Norm::rms_from_one(module, width, sizes.epsilon)
}

fn cap(settings: &Settings<'_>, key: &str) -> Result<Option<f32>> {
    Ok(settings.maybe_real(key)?.filter(|cap| *cap > 0.0).map(|cap| cap as f32))
}
