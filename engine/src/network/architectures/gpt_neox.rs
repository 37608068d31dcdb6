//! GPT-NeoX (Black et al. 2022) and Pythia: attention and feed-forward side by side, a share of each head rotates.

use crate::error::Result;
use crate::network::architectures::Sizes;
use crate::network::design::{Block, Design, Feed, Linear, Norm, Norms, Projection};
use crate::network::rope::RopeSettings;
use crate::network::settings::Settings;
use crate::numeric::activation::Activation;

pub(super) fn gpt_neox(settings: &Settings<'_>) -> Result<Design> {
    let mut sizes = Sizes::of(settings)?;
    sizes.epsilon = settings.real_or("layer_norm_eps", 1e-5)?;
    let rope = RopeSettings::of(settings, None, settings.real_or("rotary_emb_base", 1e4)?)?;
    let share = rope.partial(settings.real_or("rotary_pct", 0.25)?)?;
    let rope = rope.rope((sizes.head_dim as f64 * share) as usize, sizes.context)?;
    let activation = settings.activation(&["hidden_act"], Activation::Gelu)?;
    let attention_bias = settings.flag_or("attention_bias", true);
    let hidden = sizes.hidden;
    let block = |block: usize| {
        let name = format!("layers.{block}");
        let linear = |part: &str, shape, bias| Linear::new(&format!("{name}.{part}"), shape, bias);
        let norm = |part: &str| Norm::layer(&format!("{name}.{part}"), hidden, sizes.epsilon);
        let module = format!("{name}.attention");
        let names = ["q", "k", "v", "dense"];
        let mut attention = sizes.attention(&module, names, [attention_bias; 2]);
        let joined = linear("attention.query_key_value", [3 * hidden, hidden], attention_bias);
        attention.projection = Projection::PerHead(joined);
        attention.rope = Some(rope.clone());
        let before = |part: &str| Norms { before: Some(norm(part)), ..Norms::default() };
        Block {
            attention,
            feed: Feed::Plain {
                up: linear("mlp.dense_h_to_4h", [sizes.ffn, hidden], true),
                down: linear("mlp.dense_4h_to_h", [hidden, sizes.ffn], true),
                activation,
            },
            attention_norms: before("input_layernorm"),
            feed_norms: before("post_attention_layernorm"),
            parallel: settings.flag_or("use_parallel_residual", true),
        }
    };
    let tied = settings.is_tied(false);
    Ok(Design {
        architecture: settings.model_type()?.to_owned(),
        hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        embedding: sizes.embedding("embed_in"),
        blocks: (0..sizes.blocks).map(block).collect(),
        last_norm: Some(Norm::layer("final_layer_norm", hidden, sizes.epsilon)),
        head: Some(sizes.head(if tied { "embed_in" } else { "embed_out" }, false)),
        causal: true,
        prefixes: &["gpt_neox.", ""],
    })
}
