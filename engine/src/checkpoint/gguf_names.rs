//! Names of layers in Hugging Face checkpoints and in GGUF files, both ways.

use crate::checkpoint::{Checkpoint, GgufPart, Tensor, place_of};

/// A layer as GGUF names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GgufName {
    /// Name of the tensor without `.weight`, as `blk.3.attn_q`.
    pub tensor: String,
    /// Which slice of it: GGUF keeps the experts of a block in one tensor.
    pub expert: Option<u32>,
}

/// What comes before the number of a block.
const BEFORE: [&str; 9] = [
    "model.layers",
    "layers",
    "transformer.h",
    "h",
    "model.decoder.layers",
    "gpt_neox.layers",
    "model.language_model.layers",
    "language_model.model.layers",
    "transformer.blocks",
];

/// Layers outside the blocks, as `(Hugging Face, GGUF)`; of several, the first is written.
const OUTSIDE: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("lm_head", "output"),
    ("embed_tokens", "token_embd"),
    ("transformer.wte", "token_embd"),
    ("wte", "token_embd"),
    ("gpt_neox.embed_in", "token_embd"),
    ("embed_out", "output"),
    ("model.decoder.embed_tokens", "token_embd"),
    ("model.language_model.embed_tokens", "token_embd"),
    ("language_model.model.embed_tokens", "token_embd"),
    ("language_model.lm_head", "output"),
];

/// Layers of a block, as `(Hugging Face, GGUF)`; `*` is the number of an expert.
const INSIDE: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.experts.*.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.*.up_proj", "ffn_up_exps"),
    ("mlp.experts.*.down_proj", "ffn_down_exps"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    // Other names of the same.
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("block_sparse_moe.experts.*.w1", "ffn_gate_exps"),
    ("block_sparse_moe.experts.*.w2", "ffn_down_exps"),
    ("block_sparse_moe.experts.*.w3", "ffn_up_exps"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("self_attn.out_proj", "attn_output"),
    ("self_attn.dense", "attn_output"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
    ("fc1", "ffn_up"),
    ("fc2", "ffn_down"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("attention.query_key_value", "attn_qkv"),
    ("attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];

/// Layers that an architecture names its own way, as `(architecture, GGUF, Hugging Face)`.
const OWN: &[(&str, &str, &str)] = &[
    ("phi3", "ffn_up", "mlp.gate_up_proj"),
    ("phi2", "attn_output", "self_attn.dense"),
    ("phi2", "ffn_up", "mlp.fc1"),
    ("phi2", "ffn_down", "mlp.fc2"),
    ("gpt2", "attn_qkv", "attn.c_attn"),
    ("gpt2", "attn_output", "attn.c_proj"),
    ("gpt2", "ffn_up", "mlp.c_fc"),
    ("gpt2", "ffn_down", "mlp.c_proj"),
    ("gptneox", "attn_qkv", "attention.query_key_value"),
    ("gptneox", "attn_output", "attention.dense"),
    ("gptneox", "ffn_up", "mlp.dense_h_to_4h"),
    ("gptneox", "ffn_down", "mlp.dense_4h_to_h"),
    ("llama", "ffn_gate_inp", "block_sparse_moe.gate"),
    ("llama", "ffn_gate_exps", "block_sparse_moe.experts.*.w1"),
    ("llama", "ffn_down_exps", "block_sparse_moe.experts.*.w2"),
    ("llama", "ffn_up_exps", "block_sparse_moe.experts.*.w3"),
];

/// The GGUF name of a module of a Hugging Face checkpoint, where one is known.
pub fn to_gguf(module: &str) -> Option<GgufName> {
    if let Some((_, tensor)) = OUTSIDE.iter().find(|(ours, _)| *ours == module) {
        return Some(GgufName { tensor: (*tensor).to_owned(), expert: None });
    }
    let place = place_of(&format!("{module}.weight"));
    let block = place.block?;
    let (before, inside) = module.split_once(&format!(".{block}."))?;
    if !BEFORE.contains(&before) {
        return None;
    }
    let expert = place.expert;
    let inside = match expert {
        Some(expert) => inside.replace(&format!(".{expert}."), ".*."),
        None => inside.to_owned(),
    };
    let (_, tail) = INSIDE.iter().find(|(ours, _)| *ours == inside)?;
    Some(GgufName { tensor: format!("blk.{block}.{tail}"), expert })
}

/// The usual Hugging Face module of a tensor (named without `.weight`) of an architecture; `*` stands for the
/// number of an expert.
pub fn from_gguf(tensor: &str, architecture: &str) -> Option<String> {
    let (layers, embedding, head) = match architecture {
        "gpt2" => ("transformer.h", "transformer.wte", "lm_head"),
        "gptneox" => ("gpt_neox.layers", "gpt_neox.embed_in", "embed_out"),
        _ => ("model.layers", "model.embed_tokens", "lm_head"),
    };
    match tensor {
        "token_embd" => return Some(embedding.to_owned()),
        "output" => return Some(head.to_owned()),
        _ => {}
    }
    let (block, tail) = tensor.strip_prefix("blk.")?.split_once('.')?;
    let block: u32 = block.parse().ok()?;
    let own = OWN.iter().find(|(of, theirs, _)| *of == architecture && *theirs == tail);
    let usual = || INSIDE.iter().find(|(_, theirs)| *theirs == tail).map(|(ours, _)| *ours);
    let inside = own.map(|(_, _, ours)| *ours).or_else(usual)?;
    Some(format!("{layers}.{block}.{inside}"))
}

impl Checkpoint {
    /// The GGUF name of a tensor: its own where this is a GGUF file whose names are kept, else that of its module.
    pub fn gguf_name(&self, tensor: &Tensor) -> Option<GgufName> {
        let is_own = |part: &GgufPart| part.tensors.iter().any(|own| own.name == tensor.name);
        if self.gguf().is_some_and(|gguf| gguf.parts().iter().any(is_own)) {
            return Some(GgufName { tensor: tensor.module().to_owned(), expert: None });
        }
        to_gguf(tensor.module())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (module, tensor, expert) in [
            ("model.embed_tokens", "token_embd", None),
            ("lm_head", "output", None),
            ("model.layers.12.self_attn.q_proj", "blk.12.attn_q", None),
            ("model.layers.0.self_attn.o_proj", "blk.0.attn_output", None),
            ("model.layers.3.mlp.experts.17.down_proj", "blk.3.ffn_down_exps", Some(17)),
            ("model.layers.3.mlp.experts.3.down_proj", "blk.3.ffn_down_exps", Some(3)),
            ("model.layers.3.mlp.shared_expert_gate", "blk.3.ffn_gate_inp_shexp", None),
        ] {
            let name = to_gguf(module).unwrap_or_else(|| panic!("{module}"));
            assert_eq!((name.tensor.as_str(), name.expert), (tensor, expert));
            let back = from_gguf(tensor, "qwen3moe").unwrap();
            let back = expert.map_or(back.clone(), |e| back.replace('*', &e.to_string()));
            assert_eq!(back, module);
        }
        let own = |tensor: &str, architecture: &str| from_gguf(tensor, architecture).unwrap();
        assert_eq!(own("blk.1.attn_qkv", "gpt2"), "transformer.h.1.attn.c_attn");
        assert_eq!(own("blk.1.ffn_up", "phi3"), "model.layers.1.mlp.gate_up_proj");
        for (architecture, tail, inside) in OWN {
            let tensor = format!("blk.7.{tail}");
            let module = own(&tensor, architecture);
            assert!(module.ends_with(inside));
            assert_eq!(to_gguf(&module.replace('*', "2")).unwrap().tensor, tensor);
        }
    }

    #[test]
    fn what_is_not_known_has_no_name() {
        for module in [
            "model.norm",
            "vision_tower.encoder.layers.0.self_attn.q_proj",
            "transformer.wpe",
            "",
            "model.layers.0.mlp.experts.gate_up_proj",
            "model.layers.x.self_attn.q_proj",
        ] {
            assert_eq!(to_gguf(module), None, "{module}");
        }
        assert_eq!(from_gguf("blk.0.ssm_in", "mamba"), None);
        assert_eq!(from_gguf("blk.x.attn_q", "llama"), None);
        assert_eq!(from_gguf("output_norm", "llama"), None);
    }
}
