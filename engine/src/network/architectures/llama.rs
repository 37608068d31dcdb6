//! Llama and those built like it: Mistral, Qwen 2 and 3, and their mixtures of experts.

use crate::error::Result;
use crate::network::architectures::{PREFIXES, Sizes};
use crate::network::design::{Block, Design, Experts, Feed, Gated, Linear, Norm, Norms};
use crate::network::rope::RopeSettings;
use crate::network::settings::Settings;
use crate::numeric::activation::Activation;

/// Where one of the family differs from another.
struct Variant {
    /// Biases of q, k and v; of o; of the feed-forward layers.
    biases: [bool; 3],
    /// Whether query and key heads are normalised.
    head_norms: bool,
    base: f64,
    window: fn(&Settings<'_>, usize) -> Result<Option<usize>>,
    feed: fn(&Settings<'_>, &Sizes, usize) -> Result<Option<Feed>>,
}

const LLAMA: Variant = Variant {
    biases: [false; 3],
    head_norms: false,
    base: 10_000.0,
    window: |_, _| Ok(None),
    feed: |_, _, _| Ok(None),
};

/// Touvron et al. 2023; Llama 3 (Grattafiori et al. 2024).
pub(super) fn llama(settings: &Settings<'_>) -> Result<Design> {
    let attention = settings.flag_or("attention_bias", false);
    let biases = [attention, attention, settings.flag_or("mlp_bias", false)];
    build(settings, &Variant { biases, ..LLAMA })
}

/// Jiang et al. 2023: all layers see a window.
pub(super) fn mistral(settings: &Settings<'_>) -> Result<Design> {
    build(settings, &Variant { window: every_layer, ..LLAMA })
}

/// Qwen 2 (Yang et al. 2024): biases of q, k and v.
pub(super) fn qwen2(settings: &Settings<'_>) -> Result<Design> {
    let biases = [true, false, false];
    build(settings, &Variant { biases, window: later_layers, ..LLAMA })
}

/// Qwen 3 (Yang et al. 2025): normalised query and key heads.
pub(super) fn qwen3(settings: &Settings<'_>) -> Result<Design> {
    let attention = settings.flag_or("attention_bias", false);
    let biases = [attention, attention, false];
    build(settings, &Variant { biases, head_norms: true, window: later_layers, ..LLAMA })
}

/// Jiang et al. 2024: of the experts of a layer the best few see a token.
pub(super) fn mixtral(settings: &Settings<'_>) -> Result<Design> {
    let feed = |settings: &Settings<'_>, sizes: &Sizes, block| {
        let module = format!("layers.{block}.block_sparse_moe");
        let names = ["w1", "w3", "w2"];
        let experts = settings.count("num_local_experts")?;
        let chosen = settings.extent_or("num_experts_per_tok", 2)?;
        let ffn = sizes.ffn;
        experts_of(
            settings,
            sizes,
            &module,
            ExpertSizes { names, experts, chosen, ffn, normalised: true },
        )
    };
    build(settings, &Variant { base: 1e6, window: every_layer, feed, ..LLAMA })
}

/// The mixtures of Qwen 3: as Qwen 3, with experts in most layers.
pub(super) fn qwen3_moe(settings: &Settings<'_>) -> Result<Design> {
    let attention = settings.flag_or("attention_bias", false);
    let biases = [attention, attention, false];
    let feed = |settings: &Settings<'_>, sizes: &Sizes, block: usize| {
        let dense = settings.get("mlp_only_layers").and_then(|layers| layers.as_array());
        let dense = dense.is_some_and(|all| all.iter().any(|l| l.as_u64() == Some(block as u64)));
        let step = settings.extent_or("decoder_sparse_step", 1)?;
        if dense || !(block + 1).is_multiple_of(step) {
            return Ok(None);
        }
        let sizes_of = ExpertSizes {
            names: ["gate_proj", "up_proj", "down_proj"],
            // Newer files write the second name.
            experts: settings
                .count("num_experts")
                .or_else(|_| settings.count("num_local_experts"))?,
            chosen: settings.extent_or("num_experts_per_tok", 8)?,
            ffn: settings.extent("moe_intermediate_size")?,
            normalised: settings.flag_or("norm_topk_prob", false),
        };
        experts_of(settings, sizes, &format!("layers.{block}.mlp"), sizes_of)
    };
    build(settings, &Variant { biases, head_norms: true, window: later_layers, feed, ..LLAMA })
}

/// What a mixture of experts is made of.
struct ExpertSizes {
    /// Modules of gate, up and down.
    names: [&'static str; 3],
    experts: usize,
    chosen: usize,
    ffn: usize,
    normalised: bool,
}

fn experts_of(
    settings: &Settings<'_>,
    sizes: &Sizes,
    module: &str,
    mixture: ExpertSizes,
) -> Result<Option<Feed>> {
    let ExpertSizes { names, experts, chosen, ffn, normalised } = mixture;
    if chosen > experts {
        return Err(settings.bad(format!("{chosen} of {experts} experts cannot be chosen")));
    }
    let activation = settings.activation(&["hidden_act"], Activation::Silu)?;
    let router = Linear::new(&format!("{module}.gate"), [experts, sizes.hidden], false);
    let expert = |i| {
        gated(&format!("{module}.experts.{i}"), names, [sizes.hidden, ffn], (false, activation))
    };
    let experts = (0..experts).map(expert).collect();
    Ok(Some(Feed::Experts(Experts { router, experts, chosen, normalised })))
}

/// Gate, up and down below `module`.
pub(super) fn gated(
    module: &str,
    [gate, up, down]: [&str; 3],
    [hidden, ffn]: [usize; 2],
    (bias, activation): (bool, Activation),
) -> Gated {
    let linear = |name, shape| Linear::new(&format!("{module}.{name}"), shape, bias);
    Gated {
        inputs: vec![linear(gate, [ffn, hidden]), linear(up, [ffn, hidden])],
        down: linear(down, [hidden, ffn]),
        activation,
    }
}

/// A window in every layer.
fn every_layer(settings: &Settings<'_>, _block: usize) -> Result<Option<usize>> {
    settings.maybe_extent("sliding_window")
}

/// A window, where it is switched on, in the layers listed or from `max_window_layers` on.
fn later_layers(settings: &Settings<'_>, block: usize) -> Result<Option<usize>> {
    if !settings.flag_or("use_sliding_window", false) {
        return Ok(None);
    }
    let slides = match settings.layer_type(block) {
        Some(name) => name == "sliding_attention",
        None => block >= settings.first_or("max_window_layers", 28)?,
    };
    if slides { settings.maybe_extent("sliding_window") } else { Ok(None) }
}

fn build(settings: &Settings<'_>, variant: &Variant) -> Result<Design> {
    let sizes = Sizes::of(settings)?;
    let rope =
        RopeSettings::of(settings, None, variant.base)?.rope(sizes.head_dim, sizes.context)?;
    let activation = settings.activation(&["hidden_act"], Activation::Silu)?;
    let [qkv_bias, o_bias, mlp_bias] = variant.biases;
    let block = |block: usize| {
        let name = format!("layers.{block}");
        let norm = |part: &str| Norm::rms(&format!("{name}.{part}"), sizes.hidden, sizes.epsilon);
        let module = format!("{name}.self_attn");
        let names = ["q_proj", "k_proj", "v_proj", "o_proj"];
        let mut attention = sizes.attention(&module, names, [qkv_bias, o_bias]);
        attention.rope = Some(rope.clone());
        attention.window = (variant.window)(settings, block)?;
        attention.norms = variant.head_norms.then(|| {
            ["q_norm", "k_norm"]
                .map(|part| Norm::rms(&format!("{module}.{part}"), sizes.head_dim, sizes.epsilon))
        });
        let mlp = || {
            let names = ["gate_proj", "up_proj", "down_proj"];
            let shape = [sizes.hidden, sizes.ffn];
            Feed::Gated(gated(&format!("{name}.mlp"), names, shape, (mlp_bias, activation)))
        };
        let before = |part: &str| Norms { before: Some(norm(part)), ..Norms::default() };
        Ok(Block {
            attention,
            feed: (variant.feed)(settings, &sizes, block)?.unwrap_or_else(mlp),
            attention_norms: before("input_layernorm"),
            feed_norms: before("post_attention_layernorm"),
            parallel: false,
        })
    };
    Ok(Design {
        architecture: settings.model_type()?.to_owned(),
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        embedding: sizes.embedding("embed_tokens"),
        blocks: (0..sizes.blocks).map(block).collect::<Result<_>>()?,
        last_norm: Some(Norm::rms("norm", sizes.hidden, sizes.epsilon)),
        head: Some(
            sizes.head(if settings.is_tied(false) { "embed_tokens" } else { "lm_head" }, false),
        ),
        causal: true,
        prefixes: PREFIXES,
    })
}
