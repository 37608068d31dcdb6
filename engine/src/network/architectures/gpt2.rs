//! GPT-2 (Radford et al. 2019): learned positions, one layer for q, k and v.

use crate::error::Result;
use crate::network::architectures::Sizes;
use crate::network::design::{Block, Design, Feed, Linear, Norm, Norms, Positions, Projection};
use crate::network::settings::Settings;
use crate::numeric::activation::Activation;

pub(super) fn gpt2(settings: &Settings<'_>) -> Result<Design> {
    let sizes = sizes(settings)?;
    let mut embedding = sizes.embedding("wte");
    embedding.positions =
        Some(Positions { table: "wpe.weight".to_owned(), offset: 0, rows: sizes.context });
    Ok(Design {
        architecture: settings.model_type()?.to_owned(),
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        embedding,
        blocks: blocks(settings, &sizes)?,
        last_norm: Some(Norm::layer("ln_f", sizes.hidden, sizes.epsilon)),
        head: Some(sizes.head(if settings.is_tied(true) { "wte" } else { "lm_head" }, false)),
        causal: true,
        prefixes: &["transformer.", ""],
    })
}

fn sizes(settings: &Settings<'_>) -> Result<Sizes> {
    let hidden = settings.extent("n_embd")?;
    let heads = settings.count("n_head")?;
    Ok(Sizes {
        hidden,
        vocabulary: settings.extent("vocab_size")?,
        context: settings.extent_or("n_positions", 1024)?,
        blocks: settings.count("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: (hidden / heads).max(1),
        ffn: settings.extent_or("n_inner", 4 * hidden)?,
        epsilon: settings.real_or("layer_norm_epsilon", 1e-5)?,
    })
}

fn blocks(settings: &Settings<'_>, sizes: &Sizes) -> Result<Vec<Block>> {
    let hidden = sizes.hidden;
    let activation = settings.activation(&["activation_function"], Activation::GeluTanh)?;
    let by_layer = settings.flag_or("scale_attn_by_inverse_layer_idx", false);
    let scaled = settings.flag_or("scale_attn_weights", true);
    let block = |block: usize| {
        let name = format!("h.{block}");
        let linear = |part: &str, shape| Linear::new(&format!("{name}.{part}"), shape, true);
        let norm = |part: &str| Norm::layer(&format!("{name}.{part}"), hidden, sizes.epsilon);
        let names = ["q", "k", "v", "c_proj"];
        let mut attention = sizes.attention(&format!("{name}.attn"), names, [true; 2]);
        attention.projection = Projection::Joined(linear("attn.c_attn", [3 * hidden, hidden]));
        if !scaled {
            attention.scale = 1.0;
        }
        if by_layer {
            attention.scale /= (block + 1) as f32;
        }
        let before = |part: &str| Norms { before: Some(norm(part)), ..Norms::default() };
        Block {
            attention,
            feed: Feed::Plain {
                up: linear("mlp.c_fc", [sizes.ffn, hidden]),
                down: linear("mlp.c_proj", [hidden, sizes.ffn]),
                activation,
            },
            attention_norms: before("ln_1"),
            feed_norms: before("ln_2"),
            parallel: false,
        }
    };
    Ok((0..sizes.blocks).map(block).collect())
}
