//! OPT (Zhang et al. 2022): learned positions from row 2 on, norms before or after, perhaps a narrower embedding.

use crate::error::Result;
use crate::network::architectures::Sizes;
use crate::network::design::{Block, Design, Feed, Linear, Norm, Norms, Positions};
use crate::network::settings::Settings;
use crate::numeric::activation::Activation;

/// Rows of the table of positions that stand before that of position 0.
const OFFSET: usize = 2;

pub(super) fn opt(settings: &Settings<'_>) -> Result<Design> {
    let sizes = sizes(settings)?;
    let hidden = sizes.hidden;
    let width = settings.extent_or("word_embed_proj_dim", hidden)?;
    let project = |name: &str, shape| (width != hidden).then(|| Linear::new(name, shape, false));
    let mut embedding = sizes.embedding("embed_tokens");
    embedding.width = width;
    embedding.projection = project("project_in", [hidden, width]);
    let table = "embed_positions.weight".to_owned();
    embedding.positions = Some(Positions { table, offset: OFFSET, rows: sizes.context + OFFSET });
    let tied = settings.is_tied(true);
    let mut head = sizes.head(if tied { "embed_tokens" } else { "lm_head" }, false);
    head.scores.shape.cols = width;
    head.projection = project("project_out", [width, hidden]);
    let has_last = settings.flag_or("do_layer_norm_before", true)
        && !settings.flag_or("_remove_final_layer_norm", false);
    Ok(Design {
        architecture: settings.model_type()?.to_owned(),
        hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        embedding,
        blocks: blocks(settings, &sizes)?,
        last_norm: has_last.then(|| Norm::layer("final_layer_norm", hidden, sizes.epsilon)),
        head: Some(head),
        causal: true,
        prefixes: &["model.decoder.", "decoder.", ""],
    })
}

fn sizes(settings: &Settings<'_>) -> Result<Sizes> {
    let hidden = settings.extent("hidden_size")?;
    let heads = settings.count("num_attention_heads")?;
    Ok(Sizes {
        hidden,
        vocabulary: settings.extent("vocab_size")?,
        context: settings.extent_or("max_position_embeddings", 2048)?,
        blocks: settings.count("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim: (hidden / heads).max(1),
        ffn: settings.extent("ffn_dim")?,
        epsilon: 1e-5,
    })
}

fn blocks(settings: &Settings<'_>, sizes: &Sizes) -> Result<Vec<Block>> {
    let hidden = sizes.hidden;
    let activation = settings.activation(&["activation_function"], Activation::Relu)?;
    let before = settings.flag_or("do_layer_norm_before", true);
    let bias = settings.flag_or("enable_bias", true);
    let block = |block: usize| {
        let name = format!("layers.{block}");
        let linear = |part: &str, shape| Linear::new(&format!("{name}.{part}"), shape, bias);
        let norms = |part: &str| {
            let norm = Some(Norm::layer(&format!("{name}.{part}"), hidden, sizes.epsilon));
            if before {
                Norms { before: norm, ..Norms::default() }
            } else {
                Norms { after: norm, ..Norms::default() }
            }
        };
        let names = ["q_proj", "k_proj", "v_proj", "out_proj"];
        Block {
            attention: sizes.attention(&format!("{name}.self_attn"), names, [bias; 2]),
            feed: Feed::Plain {
                up: linear("fc1", [sizes.ffn, hidden]),
                down: linear("fc2", [hidden, sizes.ffn]),
                activation,
            },
            attention_norms: norms("self_attn_layer_norm"),
            feed_norms: norms("final_layer_norm"),
            parallel: false,
        }
    };
    Ok((0..sizes.blocks).map(block).collect())
}
