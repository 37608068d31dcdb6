//! Phi 3 (Abdin et al. 2024): q, k and v in one layer, gate and up in another.

use crate::error::Result;
use crate::network::architectures::{PREFIXES, Sizes};
use crate::network::design::{Block, Design, Feed, Gated, Linear, Norm, Norms, Projection};
use crate::network::rope::RopeSettings;
use crate::network::settings::Settings;
use crate::numeric::activation::Activation;

pub(super) fn phi3(settings: &Settings<'_>) -> Result<Design> {
    let mut sizes = Sizes::of(settings)?;
    sizes.epsilon = settings.real_or("rms_norm_eps", 1e-5)?;
    let rope = RopeSettings::of(settings, None, 1e4)?;
    // Rounded down to whole values first, as transformers does.
    let rotated = (sizes.head_dim as f64 * rope.partial(1.0)?) as usize;
    let rope = rope.rope(rotated, sizes.context)?;
    let activation = settings.activation(&["hidden_act"], Activation::Silu)?;
    let window = settings.maybe_extent("sliding_window")?;
    let rows = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim;
    let block = |block: usize| {
        let name = format!("layers.{block}");
        let linear = |part: &str, shape| Linear::new(&format!("{name}.{part}"), shape, false);
        let norm = |part: &str| Norm::rms(&format!("{name}.{part}"), sizes.hidden, sizes.epsilon);
        let module = format!("{name}.self_attn");
        let mut attention = sizes.attention(&module, ["q", "k", "v", "o_proj"], [false; 2]);
        attention.projection =
            Projection::Joined(linear("self_attn.qkv_proj", [rows, sizes.hidden]));
        attention.rope = Some(rope.clone());
        attention.window = window;
        let before = |part: &str| Norms { before: Some(norm(part)), ..Norms::default() };
        Block {
            attention,
            feed: Feed::Gated(Gated {
                inputs: vec![linear("mlp.gate_up_proj", [2 * sizes.ffn, sizes.hidden])],
                down: linear("mlp.down_proj", [sizes.hidden, sizes.ffn]),
                activation,
            }),
            attention_norms: before("input_layernorm"),
            feed_norms: before("post_attention_layernorm"),
            parallel: false,
        }
    };
    Ok(Design {
        architecture: settings.model_type()?.to_owned(),
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        embedding: sizes.embedding("embed_tokens"),
        blocks: (0..sizes.blocks).map(block).collect(),
        last_norm: Some(Norm::rms("norm", sizes.hidden, sizes.epsilon)),
        head: Some(
            sizes.head(if settings.is_tied(false) { "embed_tokens" } else { "lm_head" }, false),
        ),
        causal: true,
        prefixes: PREFIXES,
    })
}
