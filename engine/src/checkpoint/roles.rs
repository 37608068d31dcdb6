//! Tensor names to places in the network: block, role, expert.
//!
//! Covers the names of the llama/mistral, qwen2/3, gemma, phi, gpt2, gpt-neox, opt, bert and vit families, of
//! mixtures of experts, and of convolutional nets in the style of `ResNet`. Anything else has the role `other`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What a tensor does in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Token or patch embedding.
    Embedding,
    /// Position embedding.
    Position,
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Query, key and value projections stored as one.
    Qkv,
    /// Attention output projection.
    O,
    /// Gate projection of a gated feed-forward layer.
    Gate,
    /// Up projection, the first layer of a feed-forward.
    Up,
    /// Gate and up projections stored as one.
    GateUp,
    /// Down projection, the last layer of a feed-forward.
    Down,
    /// Router of a mixture of experts.
    Router,
    /// First convolution of a block, or the stem.
    Conv1,
    /// Second convolution of a block.
    Conv2,
    /// Third convolution of a block.
    Conv3,
    /// Convolution on the residual path.
    Shortcut,
    /// Language-model head or classifier.
    Head,
    /// Weight of a normalisation layer, and its running statistics.
    Norm,
    /// Bias of any layer.
    Bias,
    /// Anything else.
    Other,
}

impl Role {
    /// Every role, in the order of a block's columns.
    pub const ALL: [Self; 20] = [
        Self::Embedding,
        Self::Position,
        Self::Q,
        Self::K,
        Self::V,
        Self::Qkv,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::GateUp,
        Self::Down,
        Self::Router,
        Self::Conv1,
        Self::Conv2,
        Self::Conv3,
        Self::Shortcut,
        Self::Head,
        Self::Norm,
        Self::Bias,
        Self::Other,
    ];

    /// The role called so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Its name on screen and in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Position => "position",
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::Qkv => "qkv",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Router => "router",
            Self::Conv1 => "conv1",
            Self::Conv2 => "conv2",
            Self::Conv3 => "conv3",
            Self::Shortcut => "shortcut",
            Self::Head => "head",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Other => "other",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a tensor stands in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of its block; `None` outside the blocks.
    pub block: Option<u32>,
    /// What it does there.
    pub role: Role,
    /// Index of its expert in a mixture.
    pub expert: Option<u32>,
}

/// Components after which a number is the index of a block.
const BLOCK_WORDS: [&str; 7] = ["layers", "layer", "h", "blocks", "block", "blk", "resblocks"];

/// Module names by their last components, as `(ending, role)`: the first ending that matches counts.
const MODULES: &[(&str, Role)] = &[
    // Attention of BERT and ViT, before the plain "output.dense" of their feed-forward.
    ("attention.output.dense", Role::O),
    ("attention.self.query", Role::Q),
    ("attention.self.key", Role::K),
    ("attention.self.value", Role::V),
    ("attention.attention.query", Role::Q),
    ("attention.attention.key", Role::K),
    ("attention.attention.value", Role::V),
    ("intermediate.dense", Role::Up),
    ("output.dense", Role::Down),
    // Attention of everything else.
    ("q_proj", Role::Q),
    ("k_proj", Role::K),
    ("v_proj", Role::V),
    ("qkv_proj", Role::Qkv),
    ("o_proj", Role::O),
    ("out_proj", Role::O),
    ("attn.c_attn", Role::Qkv),
    ("attn.c_proj", Role::O),
    ("attn.qkv", Role::Qkv),
    ("attn.proj", Role::O),
    ("query_key_value", Role::Qkv),
    ("attention.dense", Role::O),
    ("self_attn.dense", Role::O),
    ("mixer.Wqkv", Role::Qkv),
    ("mixer.out_proj", Role::O),
    // Routers, before the gates of experts.
    ("block_sparse_moe.gate", Role::Router),
    ("mlp.gate", Role::Router),
    ("mlp.router", Role::Router),
    ("shared_expert_gate", Role::Router),
    // Feed-forward layers.
    ("gate_proj", Role::Gate),
    ("up_proj", Role::Up),
    ("down_proj", Role::Down),
    ("gate_up_proj", Role::GateUp),
    ("feed_forward.w1", Role::Gate),
    ("feed_forward.w2", Role::Down),
    ("feed_forward.w3", Role::Up),
    ("mlp.c_fc", Role::Up),
    ("mlp.c_proj", Role::Down),
    ("dense_h_to_4h", Role::Up),
    ("dense_4h_to_h", Role::Down),
    ("fc1", Role::Up),
    ("fc2", Role::Down),
    // Outside the blocks.
    ("embed_positions", Role::Position),
    ("position_embeddings", Role::Position),
    ("wpe", Role::Position),
    ("pos_embed", Role::Position),
    ("embed_tokens", Role::Embedding),
    ("word_embeddings", Role::Embedding),
    ("patch_embeddings.projection", Role::Embedding),
    ("patch_embed.proj", Role::Embedding),
    ("wte", Role::Embedding),
    ("embed_in", Role::Embedding),
    ("emb", Role::Embedding),
    ("lm_head", Role::Head),
    ("embed_out", Role::Head),
    ("classifier", Role::Head),
    ("score", Role::Head),
    ("predictions.decoder", Role::Head),
    // Convolutional nets.
    ("conv1", Role::Conv1),
    ("conv2", Role::Conv2),
    ("conv3", Role::Conv3),
    ("downsample.0", Role::Shortcut),
    ("shortcut.0", Role::Shortcut),
    ("shortcut.convolution", Role::Shortcut),
];

/// Modules of an expert, below `experts.N`.
const EXPERT_MODULES: [(&str, Role); 3] =
    [("w1", Role::Gate), ("w2", Role::Down), ("w3", Role::Up)];

/// Modules that are heads only when nothing comes before them.
const BARE_HEADS: [&str; 4] = ["head", "fc", "linear", "output"];

/// Parameters that hold one module's weight.
const WEIGHTS: [&str; 2] = ["weight", "kernel"];

/// Reads the place off a tensor's name.
pub fn place_of(name: &str) -> Place {
    let parts: Vec<&str> = name.split('.').collect();
    let block = block_of(&parts);
    let expert =
        parts.iter().position(|&part| part == "experts").and_then(|at| number(parts.get(at + 1)));
    Place { block, role: role_of(&parts), expert }
}

fn number(part: Option<&&str>) -> Option<u32> {
    part?.parse().ok()
}

fn block_of(parts: &[&str]) -> Option<u32> {
    let after_word =
        |at: usize| BLOCK_WORDS.contains(&parts[at]).then(|| number(parts.get(at + 1))).flatten();
    (0..parts.len()).find_map(after_word)
}

/// Where in a name the number of its block stands.
pub(super) fn block_number(name: &str) -> Option<Range<usize>> {
    let mut at = 0;
    let mut is_behind_word = false;
    for part in name.split('.') {
        if is_behind_word && part.parse::<u32>().is_ok() {
            return Some(at..at + part.len());
        }
        is_behind_word = BLOCK_WORDS.contains(&part);
        at += part.len() + 1;
    }
    None
}

/// The stage and index of a residual block, as in `layer2.1.conv1`: numbered across stages by
/// [`crate::checkpoint`] once every name is known.
pub(super) fn residual_block(name: &str) -> Option<(u32, u32)> {
    let parts: Vec<&str> = name.split('.').collect();
    parts.windows(2).find_map(|pair| {
        let stage = pair[0].strip_prefix("layer")?.parse().ok()?;
        Some((stage, pair[1].parse().ok()?))
    })
}

fn role_of(parts: &[&str]) -> Role {
    let (parameter, module) = match parts.split_last() {
        Some((&last, module)) if WEIGHTS.contains(&last) || last == "bias" => (last, module),
        _ => ("", parts),
    };
    let path = module.join(".");
    let last = module.last().copied().unwrap_or("");
    if parameter == "bias" {
        return if is_norm(module) { Role::Norm } else { Role::Bias };
    }
    if let ["running_mean" | "running_var" | "num_batches_tracked"] =
        module.get(module.len().saturating_sub(1)..).unwrap_or(&[])
    {
        return Role::Norm;
    }
    if is_norm(module) {
        return Role::Norm;
    }
    let ends = |ending: &str| {
        path == ending || path.ends_with(ending) && path[..path.len() - ending.len()].ends_with('.')
    };
    if let Some((_, role)) = MODULES.iter().find(|(ending, _)| ends(ending)) {
        return *role;
    }
    if module.contains(&"experts")
        && let Some((_, role)) = EXPERT_MODULES.iter().find(|(name, _)| *name == last)
    {
        return *role;
    }
    if module.len() == 1 && BARE_HEADS.contains(&last) {
        return Role::Head;
    }
    Role::Other
}

/// Whether the module normalises: its name says norm, or is one of the short names in use.
fn is_norm(module: &[&str]) -> bool {
    let last = module.last().copied().unwrap_or("");
    let lower = last.to_ascii_lowercase();
    lower.contains("norm")
        || lower.starts_with("ln_")
        || matches!(
            lower.as_str(),
            "ln" | "ln0"
                | "ln1"
                | "ln2"
                | "ln_f"
                | "bn1"
                | "bn2"
                | "bn3"
                | "bn"
                | "ln_out"
                | "ln_x"
        )
        || (matches!(lower.as_str(), "1")
            && module.iter().any(|part| matches!(*part, "downsample" | "shortcut")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line of `cases` is a name, its block, its role and its expert; `-` for none.
    #[track_caller]
    fn check(cases: &str) {
        for case in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = case.split_whitespace().collect();
            let [name @ .., block, role, expert] = words.as_slice() else {
                panic!("{case}: a name, a block, a role and an expert are needed");
            };
            let name = name.first().copied().unwrap_or("");
            let found = place_of(name);
            let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
            assert_eq!(
                (number(found.block), found.role.name(), number(found.expert)),
                ((*block).to_owned(), *role, (*expert).to_owned()),
                "{name}"
            );
        }
    }

    #[test]
    fn llama_mistral_qwen_gemma_phi() {
        check(
            "
            model.embed_tokens.weight - embedding -
            model.layers.3.self_attn.q_proj.weight 3 q -
            model.layers.3.self_attn.k_proj.bias 3 bias -
            model.layers.11.self_attn.v_proj.weight 11 v -
            model.layers.0.self_attn.o_proj.weight 0 o -
            model.layers.0.self_attn.q_norm.weight 0 norm -
            model.layers.0.mlp.gate_proj.weight 0 gate -
            model.layers.0.mlp.up_proj.weight 0 up -
            model.layers.0.mlp.down_proj.weight 0 down -
            model.layers.0.pre_feedforward_layernorm.weight 0 norm -
            language_model.model.layers.7.mlp.down_proj.weight 7 down -
            model.layers.5.self_attn.qkv_proj.weight 5 qkv -
            model.layers.5.mlp.gate_up_proj.weight 5 gate_up -
            model.layers.5.self_attn.dense.weight 5 o -
            model.layers.5.mlp.fc1.weight 5 up -
            model.final_layernorm.weight - norm -
            model.norm.weight - norm -
            lm_head.weight - head -
            ",
        );
    }

    #[test]
    fn gpt2_neox_opt() {
        check(
            "
            h.11.attn.c_attn.weight 11 qkv -
            transformer.h.11.attn.c_proj.weight 11 o -
            transformer.h.2.mlp.c_fc.weight 2 up -
            transformer.h.2.mlp.c_proj.weight 2 down -
            wpe.weight - position -
            transformer.wte.weight - embedding -
            ln_f.bias - norm -
            h.0.ln_1.weight 0 norm -
            gpt_neox.layers.4.attention.query_key_value.weight 4 qkv -
            gpt_neox.layers.4.attention.dense.weight 4 o -
            gpt_neox.layers.4.mlp.dense_4h_to_h.weight 4 down -
            gpt_neox.embed_in.weight - embedding -
            embed_out.weight - head -
            model.decoder.layers.1.self_attn.out_proj.weight 1 o -
            model.decoder.layers.1.fc2.weight 1 down -
            model.decoder.embed_positions.weight - position -
            ",
        );
    }

    #[test]
    fn bert_and_vit() {
        check(
            "
            bert.embeddings.word_embeddings.weight - embedding -
            bert.embeddings.position_embeddings.weight - position -
            bert.embeddings.LayerNorm.weight - norm -
            bert.encoder.layer.9.attention.self.query.weight 9 q -
            bert.encoder.layer.9.attention.output.dense.weight 9 o -
            bert.encoder.layer.9.intermediate.dense.weight 9 up -
            bert.encoder.layer.9.output.dense.weight 9 down -
            vit.encoder.layer.2.attention.attention.value.weight 2 v -
            vit.embeddings.patch_embeddings.projection.weight - embedding -
            vit.embeddings.position_embeddings - position -
            classifier.weight - head -
            blocks.3.attn.qkv.weight 3 qkv -
            blocks.3.attn.proj.weight 3 o -
            ",
        );
    }

    #[test]
    fn experts() {
        check(
            "
            model.layers.2.block_sparse_moe.experts.7.w2.weight 2 down 7
            model.layers.2.block_sparse_moe.gate.weight 2 router -
            model.layers.2.mlp.experts.127.up_proj.weight 2 up 127
            model.layers.2.mlp.gate.weight 2 router -
            model.layers.2.mlp.shared_expert.gate_proj.weight 2 gate -
            ",
        );
    }

    #[test]
    fn convolutional_nets() {
        check(
            "
            conv1.weight - conv1 -
            layer2.0.conv2.weight - conv2 -
            layer2.0.downsample.0.weight - shortcut -
            layer2.0.downsample.1.weight - norm -
            layer2.0.bn1.running_mean - norm -
            layer2.0.bn1.num_batches_tracked - norm -
            linear.weight - head -
            ",
        );
        assert_eq!(residual_block("module.layer3.12.conv1.weight"), Some((3, 12)));
        assert_eq!(residual_block("layers.3.mlp.down_proj.weight"), None);
    }

    #[test]
    fn unknown_names_are_other() {
        check(
            "
            blocks.0.att.receptance.weight 0 other -
            blocks.0.att.w1 0 other -
             - other -
            a..b - other -
            x1.head.y - other -
            model.layers.99999999999999999999.mlp.up_proj.weight - up -
            ",
        );
    }
}
