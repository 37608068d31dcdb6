//! The architectures that are written: what llama.cpp calls them, which tensors they have, and what it must be told.
//! An architecture is an entry of [`ARCHITECTURES`]; what its reader in llama.cpp takes for granted is checked here.
//!
//! Source: conversion/{base,llama,qwen,gemma,phi,gpt2}.py and src/models/*.cpp of llama.cpp, 2026-08.

use serde_json::{Value, json};

use crate::error::Result;
use crate::target::gguf::rope::Extras;
use crate::target::gguf::settings::{Keys, Settings, refused};

/// An architecture that is written.
pub(super) struct Architecture {
    /// `model_type` of config.json.
    pub(super) model_type: &'static str,
    /// What llama.cpp calls it.
    pub(super) name: &'static str,
    /// Tensors of a block, without `.weight`.
    pub(super) block: &'static [&'static str],
    /// Which of them may have a bias, or must have none.
    pub(super) biases: &'static [&'static str],
    /// Norms by their names in the source, where those are not [`NORMS`].
    pub(super) norms: &'static [(&'static str, &'static str)],
    /// Whether the two halves of each head's rows are woven in q and k.
    pub(super) weaves: bool,
    /// Whether the layers behind the attention are multiplied by scales that lie beside them: `ffn_up.scale`. Those of the
    /// attention are in every architecture.
    pub(super) scales_behind: bool,
    /// Whether norms are stored less one.
    pub(super) norms_from_one: bool,
    /// The table that positions are looked up in, if they are.
    pub(super) positions: Option<&'static str>,
    /// Whether the embedding is the head where config.json does not say.
    pub(super) tied: bool,
    /// Writes its keys; returns the tensors that the source has not.
    pub(super) keys: fn(&Settings<'_>, &mut Keys) -> Result<Extras>,
}

/// Norms of most blocks: names in the source and in GGUF.
pub(super) const NORMS: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("ln_1", "attn_norm"),
    ("ln_2", "ffn_norm"),
];
/// Norms on both sides, as in Gemma 2 and 3.
const NORMS_AROUND: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const LLAMA: Architecture = Architecture {
    model_type: "llama",
    name: "llama",
    block: &[
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ],
    biases: &["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"],
    norms: &[],
    weaves: true,
    scales_behind: true,
    norms_from_one: false,
    positions: None,
    tied: false,
    keys: llama,
};

const QWEN_2: Architecture = Architecture {
    model_type: "qwen2",
    name: "qwen2",
    biases: &["attn_q", "attn_k", "attn_v"],
    weaves: false,
    scales_behind: false,
    keys: qwen2,
    ..LLAMA
};

const QWEN_3: Architecture = Architecture {
    model_type: "qwen3",
    name: "qwen3",
    block: &[
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "attn_q_norm",
        "attn_k_norm",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ],
    biases: &[],
    scales_behind: true,
    keys: qwen3,
    ..QWEN_2
};

const GEMMA: Architecture = Architecture {
    model_type: "gemma",
    name: "gemma",
    biases: &[],
    weaves: false,
    scales_behind: false,
    norms_from_one: true,
    tied: true,
    keys: gemma,
    ..LLAMA
};

/// Every architecture that is written.
pub(super) static ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture { model_type: "mistral", biases: &[], ..LLAMA },
    Architecture {
        model_type: "mixtral",
        block: &[
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_norm",
            "ffn_gate_inp",
            "ffn_gate_exps",
            "ffn_up_exps",
            "ffn_down_exps",
        ],
        biases: &[],
        keys: mixtral,
        ..LLAMA
    },
    QWEN_2,
    QWEN_3,
    Architecture {
        model_type: "qwen3_moe",
        name: "qwen3moe",
        block: &[
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "attn_q_norm",
            "attn_k_norm",
            "ffn_norm",
            "ffn_gate_inp",
            "ffn_gate_exps",
            "ffn_up_exps",
            "ffn_down_exps",
        ],
        keys: qwen3_moe,
        ..QWEN_3
    },
    GEMMA,
    Architecture {
        model_type: "gemma2",
        name: "gemma2",
        block: &[
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "post_attention_norm",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
            "post_ffw_norm",
        ],
        norms: NORMS_AROUND,
        keys: gemma2,
        ..GEMMA
    },
    Architecture {
        model_type: "gemma3_text",
        name: "gemma3",
        block: &[
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "attn_q_norm",
            "attn_k_norm",
            "post_attention_norm",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
            "post_ffw_norm",
        ],
        norms: NORMS_AROUND,
        keys: gemma3,
        ..GEMMA
    },
    Architecture {
        model_type: "phi3",
        name: "phi3",
        block: &["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"],
        biases: &[],
        weaves: false,
        scales_behind: false,
        keys: phi3,
        ..LLAMA
    },
    Architecture {
        model_type: "gpt2",
        name: "gpt2",
        block: &["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"],
        biases: &["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"],
        weaves: false,
        scales_behind: false,
        positions: Some("wpe"),
        tied: true,
        keys: gpt2,
        ..LLAMA
    },
];

/// The entry of a model.
///
/// # Errors
/// [`crate::Error::Plan`] naming those that are written.
pub(super) fn of(settings: &Settings<'_>) -> Result<&'static Architecture> {
    let name = settings.text("model_type").unwrap_or("unnamed");
    ARCHITECTURES.iter().find(|known| known.model_type == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.model_type).collect();
        refused(format!("its architecture is {name}, and those written are {}", known.join(", ")))
    })
}

/// Sizes that most decoders have.
struct Sizes {
    hidden: u32,
    heads: u32,
    head: u32,
}

/// Keys of a decoder with rotary positions and RMS norms.
fn decoder(settings: &Settings<'_>, keys: &mut Keys, head: Option<u32>) -> Result<Sizes> {
    let (hidden, heads) =
        (settings.number("hidden_size")?, settings.number("num_attention_heads")?);
    let head = settings.maybe("head_dim")?.or(head).unwrap_or(hidden / heads);
    keys.number("block_count", settings.number("num_hidden_layers")?);
    let context = settings.maybe("max_position_embeddings")?.unwrap_or(2048);
    // Up to its window, attention that slides is attention over the whole past: all that this runtime has.
    let slides = ["llama", "mistral", "mixtral", "phi3"];
    let slides = settings.text("model_type").is_some_and(|name| slides.contains(&name));
    let window = if slides { settings.maybe("sliding_window")? } else { None };
    keys.number("context_length", window.map_or(context, |window| window.min(context)));
    keys.number("embedding_length", hidden);
    keys.number("feed_forward_length", settings.number("intermediate_size")?);
    keys.number("attention.head_count", heads);
    keys.number("attention.head_count_kv", settings.maybe("num_key_value_heads")?.unwrap_or(heads));
    keys.number("attention.key_length", head);
    keys.number("attention.value_length", head);
    let phi = settings.text("model_type") == Some("phi3");
    let epsilon = if phi { 1e-5 } else { 1e-6 };
    keys.real(
        "attention.layer_norm_rms_epsilon",
        settings.real("rms_norm_eps")?.unwrap_or(epsilon),
    );
    keys.number("rope.dimension_count", head);
    keys.number("vocab_size", settings.number("vocab_size")?);
    if let Some(share) = settings.real("partial_rotary_factor")?.filter(|share| *share < 1.0) {
        return Err(refused(format!("its partial_rotary_factor is {share}")));
    }
    Ok(Sizes { hidden, heads, head })
}

/// Keys of rotary positions that are plain or scaled by a rule without tensors.
fn rotary(settings: &Settings<'_>, keys: &mut Keys) -> Result<()> {
    let rope = settings.rope(None, 1e4)?;
    rope.whole()?;
    rope.scaled(keys)
}

fn llama(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    settings.activation("hidden_act", &["silu"])?;
    let sizes = decoder(settings, keys, None)?;
    let rope = settings.rope(None, 1e4)?;
    if rope.kind() != "llama3" {
        rotary(settings, keys)?;
        return Ok(Vec::new());
    }
    rope.whole()?;
    keys.real("rope.freq_base", rope.base);
    Ok(vec![("rope_freqs.weight", rope.llama_3(sizes.head)?)])
}

fn mixtral(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    keys.number("expert_count", settings.number("num_local_experts")?);
    keys.number("expert_used_count", settings.number("num_experts_per_tok")?);
    let extras = llama(settings, keys)?;
    if settings.get("rope_theta").is_none() && settings.get("rope_parameters").is_none() {
        return Err(refused("its config.json has no rope_theta"));
    }
    Ok(extras)
}

fn qwen2(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    settings.activation("hidden_act", &["silu"])?;
    settings.only(&[("use_sliding_window", json!(false))])?;
    let sizes = decoder(settings, keys, None)?;
    if settings.text("model_type") == Some("qwen2") && sizes.heads * sizes.head != sizes.hidden {
        return Err(refused("its heads together are not as wide as its hidden states"));
    }
    rotary(settings, keys)?;
    Ok(Vec::new())
}

fn qwen3(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    settings.only(&[("attention_bias", json!(false))])?;
    if settings.get("head_dim").is_none() {
        return Err(refused("its config.json has no head_dim"));
    }
    qwen2(settings, keys)
}

fn qwen3_moe(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    settings.only(&[("decoder_sparse_step", json!(1)), ("mlp_only_layers", json!([]))])?;
    if !settings.flag("norm_topk_prob", false) {
        return Err(refused("its norm_topk_prob is false, and llama.cpp runs true"));
    }
    let experts = settings.maybe("num_experts")?.or(settings.maybe("num_local_experts")?);
    let experts = experts.ok_or_else(|| refused("its config.json has no num_experts"))?;
    keys.number("expert_count", experts);
    keys.number("expert_used_count", settings.number("num_experts_per_tok")?);
    keys.number("expert_feed_forward_length", settings.number("moe_intermediate_size")?);
    qwen3(settings, keys)
}

fn gelu(settings: &Settings<'_>) -> Result<()> {
    // Gemma's first files say gelu in hidden_act and mean the other, as transformers knows.
    let known = ["gelu_pytorch_tanh", "gelu_new"];
    match settings.text("hidden_activation") {
        Some(_) => settings.activation("hidden_activation", &known),
        None => settings.activation("hidden_act", &["gelu", known[0], known[1]]),
    }
}

fn gemma(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    gelu(settings)?;
    settings.only(&[("attention_bias", json!(false))])?;
    decoder(settings, keys, Some(256))?;
    rotary(settings, keys)?;
    Ok(Vec::new())
}

/// Queries are scaled by the square root of a head's width, but in the largest model by that of hidden states a head.
fn queries(settings: &Settings<'_>, sizes: &Sizes, largest: u32) -> Result<()> {
    let scaled = settings.real("query_pre_attn_scalar")?.unwrap_or(256.0);
    let blocks = settings.number("num_hidden_layers")?;
    let wanted = if blocks == largest { sizes.hidden / sizes.heads } else { sizes.head };
    if (scaled - f64::from(wanted)).abs() < 1e-6 {
        return Ok(());
    }
    Err(refused(format!(
        "its query_pre_attn_scalar is {scaled}, and llama.cpp runs {wanted} in {blocks} blocks"
    )))
}

/// Every `period`th block looks at the whole past, the others at a window.
fn sliding(settings: &Settings<'_>, keys: &mut Keys, period: u32) -> Result<()> {
    let types = settings.get("layer_types").and_then(Value::as_array);
    let is_full = |block: usize| (block + 1).is_multiple_of(period as usize);
    let named = |full| if full { "full_attention" } else { "sliding_attention" };
    if let Some(types) = types {
        if types.iter().enumerate().any(|(block, found)| *found != named(is_full(block))) {
            return Err(refused("its layer_types are not those that llama.cpp runs"));
        }
    } else {
        settings.only(&[("sliding_window_pattern", json!(period))])?;
    }
    keys.number("attention.sliding_window", settings.number("sliding_window")?);
    Ok(())
}

fn gemma2(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    gelu(settings)?;
    settings.only(&[("attention_bias", json!(false))])?;
    let sizes = decoder(settings, keys, Some(256))?;
    queries(settings, &sizes, 46)?;
    sliding(settings, keys, 2)?;
    for (key, known) in [
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ] {
        let cap = settings.real(known)?.filter(|cap| *cap > 0.0);
        keys.real(key, cap.ok_or_else(|| refused(format!("it has no {known}")))?);
    }
    rotary(settings, keys)?;
    Ok(Vec::new())
}

fn gemma3(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    gelu(settings)?;
    settings.only(&[("attention_bias", json!(false))])?;
    if settings.real("attn_logit_softcapping")?.is_some_and(|cap| cap > 0.0) {
        return Err(refused("its attention has a soft cap, and llama.cpp runs none"));
    }
    let sizes = decoder(settings, keys, Some(256))?;
    queries(settings, &sizes, 62)?;
    sliding(settings, keys, 6)?;
    if let Some(cap) = settings.real("final_logit_softcapping")?.filter(|cap| *cap > 0.0) {
        keys.real("final_logit_softcapping", cap);
    }
    let wide = settings.rope(Some("full_attention"), 1e6)?;
    wide.only(&["default", "linear"])?;
    wide.scaled(keys)?;
    let local = settings.real("rope_local_base_freq")?.unwrap_or(1e4);
    let nested = settings.get("rope_parameters").and_then(|p| p.get("sliding_attention"));
    let local = match nested {
        Some(_) => settings.rope(Some("sliding_attention"), local)?.base,
        None => local,
    };
    keys.real("rope.freq_base_swa", local);
    Ok(Vec::new())
}

fn phi3(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    settings.activation("hidden_act", &["silu"])?;
    let sizes = decoder(settings, keys, None)?;
    if sizes.heads * sizes.head != sizes.hidden {
        return Err(refused("its heads together are not as wide as its hidden states"));
    }
    let rope = settings.rope(None, 1e4)?;
    rope.only(&["default", "longrope", "su"])?;
    rope.whole()?;
    keys.real("rope.freq_base", rope.base);
    rope.original_context(keys);
    if rope.kind() == "default" { Ok(Vec::new()) } else { rope.long(sizes.head, keys) }
}

fn gpt2(settings: &Settings<'_>, keys: &mut Keys) -> Result<Extras> {
    settings.activation("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    settings.only(&[
        ("scale_attn_weights", json!(true)),
        ("scale_attn_by_inverse_layer_idx", json!(false)),
    ])?;
    let hidden = settings.number("n_embd")?;
    keys.number("block_count", settings.number("n_layer")?);
    keys.number("context_length", settings.maybe("n_positions")?.unwrap_or(1024));
    keys.number("embedding_length", hidden);
    keys.number("feed_forward_length", settings.maybe("n_inner")?.unwrap_or(4 * hidden));
    keys.number("attention.head_count", settings.number("n_head")?);
    let epsilon = settings.real("layer_norm_epsilon")?.unwrap_or(1e-5);
    keys.real("attention.layer_norm_epsilon", epsilon);
    keys.number("vocab_size", settings.number("vocab_size")?);
    Ok(Vec::new())
}
