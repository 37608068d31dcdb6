"""Writes the tiny random networks of this folder, with the logits transformers computes of them.

Every network has a few thousand weights, drawn from a generator seeded by its name, exact in bf16 and stored in bf16. They are
drawn large (gain about 1.2 per matrix, norms around 1, every bias non-zero), so that attention is far from uniform
and a wrong detail (a rope base, a window, an eps, the order of fused rows) shows in the logits.

Each folder holds config.json, model.safetensors and golden.safetensors:
    tokens  I64 [2, 40]           the first sequence and another
    logits  F32 [2, 40, vocab]    by transformers in f32, eager attention, no padding, no cache; of encoders the masked-word logits

"old" below means that config.json is rewritten to the keys that most checkpoints on the Hub carry (rope_theta and
rope_scaling instead of rope_parameters, torch_dtype, no layer_types). Experts are written one by one, as on the Hub. Every
folder is opened again by transformers from what stands on disk and must give the same logits.

Run from anywhere with torch, transformers and safetensors installed: python3 tests/golden/networks/make_networks.py [name ...]
"""

import json
import math
import re
import shutil
import sys
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

HERE = Path(__file__).resolve().parent
VOCAB = 64
LENGTH = 40

LLAMA = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
)
PHI3 = dict(LLAMA, hidden_size=48, pad_token_id=0)
MOE = dict(LLAMA, intermediate_size=40)
BERT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=48, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)
OPT = dict(
    vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=48,
    dropout=0.0, attention_dropout=0.0, activation_function="relu",
)
NEOX = dict(
    vocab_size=VOCAB, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
    hidden_act="gelu", attention_bias=True, layer_norm_eps=1e-5, tie_word_embeddings=False,
)
GPT2 = dict(
    vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=48, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    bos_token_id=0, eos_token_id=0,
)


def rope(theta, **scaling):
    return dict(rope_type=scaling.pop("rope_type", "default"), rope_theta=theta, **scaling)


LLAMA3 = rope(500.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = rope(500.0, rope_type="yarn", factor=4.0, beta_fast=4.0, beta_slow=1.0, original_max_position_embeddings=16)
SHORT = [1.0, 1.1, 1.3, 1.8]
LONG = [1.2, 2.0, 3.0, 5.0]


def longrope(original):
    return dict(rope_type="longrope", rope_theta=10000.0, short_factor=SHORT, long_factor=LONG, partial_rotary_factor=2 / 3, original_max_position_embeddings=original)


# name: (model_type, configuration, "old" or "new" keys in config.json)
NETWORKS = {
    "llama": ("llama", dict(LLAMA, rope_parameters=rope(10000.0)), "old"),
    "llama_rope_llama3": ("llama", dict(LLAMA, head_dim=16, max_position_embeddings=256, rope_parameters=LLAMA3), "old"),
    "llama_rope_llama3_new_keys": ("llama", dict(LLAMA, head_dim=16, max_position_embeddings=256, rope_parameters=LLAMA3), "new"),
    "llama_rope_linear": ("llama", dict(LLAMA, rope_parameters=rope(10000.0, rope_type="linear", factor=4.0)), "old"),
    "llama_rope_yarn": ("llama", dict(LLAMA, head_dim=16, rope_parameters=YARN), "old"),
    "llama_rope_yarn_mscale": ("llama", dict(LLAMA, head_dim=16, rope_parameters=dict(YARN, mscale=1.4, mscale_all_dim=0.7, truncate=False)), "new"),
    "llama_rope_yarn_attention_factor": ("llama", dict(LLAMA, head_dim=16, rope_parameters=dict(YARN, attention_factor=1.3)), "old"),
    "llama_tied_biases": (
        "llama",
        dict(LLAMA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=rope(1000.0)),
        "new",
    ),
    "mistral_window": ("mistral", dict(LLAMA, sliding_window=7, rope_parameters=rope(10000.0)), "old"),
    "qwen2": ("qwen2", dict(LLAMA, tie_word_embeddings=True, use_sliding_window=False, sliding_window=8, rope_parameters=rope(1e6)), "old"),
    "qwen2_window": (
        "qwen2",
        dict(LLAMA, num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=1, rope_parameters=rope(1e4)),
        "old",
    ),
    "qwen3": ("qwen3", dict(LLAMA, head_dim=16, rms_norm_eps=1e-6, rope_parameters=rope(1e6)), "old"),
    "qwen3_tied_new_keys": ("qwen3", dict(LLAMA, head_dim=16, attention_bias=True, tie_word_embeddings=True, rope_parameters=rope(1e6)), "new"),
    "gemma": (
        "gemma",
        dict(LLAMA, head_dim=16, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh", rope_parameters=rope(1e4)),
        "old",
    ),
    "gemma2": (
        "gemma2",
        dict(
            LLAMA, head_dim=16, num_hidden_layers=3, tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=5.0, sliding_window=8, rope_parameters=rope(1e4),
        ),
        "old",
    ),
    "gemma3_text": (
        "gemma3_text",
        dict(
            LLAMA, head_dim=16, num_hidden_layers=4, tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=24, sliding_window=8, layer_types=["sliding_attention", "sliding_attention", "full_attention"] + ["sliding_attention"],
            rope_parameters={"full_attention": rope(1e6, rope_type="linear", factor=8.0), "sliding_attention": rope(1e4)},
        ),
        "old",
    ),
    "gemma3_text_new_keys": (
        "gemma3_text",
        dict(
            LLAMA, head_dim=16, num_hidden_layers=3, tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=16, sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"full_attention": rope(1e6), "sliding_attention": rope(1e4)},
        ),
        "new",
    ),
    "phi3": ("phi3", dict(PHI3, num_key_value_heads=4, sliding_window=11, rope_parameters=rope(1e4)), "old"),
    "phi3_longrope_long": ("phi3", dict(PHI3, original_max_position_embeddings=16, rope_parameters=longrope(16)), "old"),
    "phi3_longrope_short": ("phi3", dict(PHI3, original_max_position_embeddings=48, rope_parameters=longrope(48)), "new"),
    "gpt2": ("gpt2", GPT2, "new"),
    "gpt2_no_prefix": ("gpt2", GPT2, "old"),
    "gpt_neox": ("gpt_neox", dict(NEOX, use_parallel_residual=True, rope_parameters=rope(1e4, partial_rotary_factor=0.25)), "old"),
    "gpt_neox_serial": ("gpt_neox", dict(NEOX, use_parallel_residual=False, rope_parameters=rope(1e4, partial_rotary_factor=0.5)), "new"),
    "opt": ("opt", dict(OPT, word_embed_proj_dim=32, do_layer_norm_before=True), "old"),
    "opt_post_norm": ("opt", dict(OPT, word_embed_proj_dim=16, do_layer_norm_before=False), "old"),
    "mixtral": ("mixtral", dict(MOE, num_local_experts=4, num_experts_per_tok=2, sliding_window=None, rope_parameters=rope(1e6)), "old"),
    "qwen3_moe": (
        "qwen3_moe",
        dict(MOE, head_dim=16, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True, rope_parameters=rope(1e6)),
        "old",
    ),
    "qwen3_moe_some_dense": (
        "qwen3_moe",
        dict(
            MOE, head_dim=16, num_hidden_layers=4, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, norm_topk_prob=False,
            decoder_sparse_step=2, mlp_only_layers=[3], rope_parameters=rope(1e6),
        ),
        "new",
    ),
    "bert": ("bert", BERT, "old"),
    "bert_old_names": ("bert", BERT, "old"),
    "roberta": ("roberta", dict(BERT, type_vocab_size=1, pad_token_id=1), "old"),
    "distilbert": (
        "distilbert",
        dict(vocab_size=VOCAB, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=48, dropout=0.0, attention_dropout=0.0),
        "old",
    ),
}
ENCODERS = ("bert", "roberta", "distilbert")
TIED_UNSAID = ("gemma", "gemma2", "gemma3_text", "gpt2", "opt", *ENCODERS)  # tied by default: the Hub's files do not say so


def draw(name, parameter, model_type, generator):
    """Values of one parameter: matrices with gain 1.2, norms around 1 (gemma's stored offset: around 0), biases around 0."""
    shape = parameter.shape
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.2 * noise
    if len(shape) == 1:
        return 0.2 * noise + (0.0 if model_type.startswith("gemma") else 1.0)
    if re.search(r"embed_tokens|wte|wpe|embed_in|embeddings|embed_positions", name):
        scale = 1 / math.sqrt(shape[-1]) if model_type.startswith("gemma") else 0.5
        return scale * noise
    fan_in = shape[0] if re.search(r"c_attn|c_proj|c_fc", name) else shape[-1]
    return 1.2 / math.sqrt(fan_in) * noise


def build(name, model_type, settings):
    config = transformers.AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = "eager"
    loader = AutoModelForMaskedLM if model_type in ENCODERS else AutoModelForCausalLM
    model = loader.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(draw(key, parameter, model_type, generator).to(torch.bfloat16).float())
    return model, generator, loader


def old_keys(config, model_type):
    """config.json as checkpoints of before transformers 5 carry it."""
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.44.0"
    if config.get("tie_word_embeddings") and model_type in TIED_UNSAID:
        del config["tie_word_embeddings"]
    if config.get("head_dim") == config.get("hidden_size", 0) // config.get("num_attention_heads", 1):
        del config["head_dim"]
    if model_type == "gemma":
        config["hidden_act"] = "gelu"  # the first gemma says gelu and means the tanh form
    kinds = config.pop("layer_types", None)
    parameters = config.pop("rope_parameters", None)
    if parameters is None:
        return config
    if model_type == "gemma3_text":
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = kinds.index("full_attention") + 1
        config.pop("_sliding_window_pattern", None)
        parameters = parameters["full_attention"]
    theta, part = parameters.pop("rope_theta"), parameters.pop("partial_rotary_factor", None)
    if model_type == "gpt_neox":
        config["rotary_emb_base"], config["rotary_pct"] = theta, part
    else:
        config["rope_theta"] = theta
        if part is not None:
            config["partial_rotary_factor"] = part
    scaled = parameters["rope_type"] != "default"
    if model_type == "phi3" and scaled:
        parameters = {key: parameters[key] for key in ("short_factor", "long_factor")} | {"type": parameters["rope_type"]}
    if parameters.get("rope_type") == "linear" and model_type == "llama":
        parameters = {"type": "linear", "factor": parameters["factor"]}
    config["rope_scaling"] = parameters if scaled else None
    return config


def old_names(tensors, name):
    """Names as on the Hub where the checkpoint is older than the library's present names."""
    if name == "gpt2_no_prefix":
        tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
        ones = torch.tril(torch.ones(GPT2["n_positions"], GPT2["n_positions"], dtype=torch.bfloat16))
        return tensors | {f"h.{block}.attn.bias": ones[None, None].clone() for block in range(GPT2["n_layer"])}
    if name == "bert_old_names":
        swap = lambda key: key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return {swap(key): value for key, value in tensors.items()}
    return tensors


def compute(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens, **({} if model.config.model_type in ENCODERS else {"use_cache": False})).logits.float().contiguous()


def make(name):
    model_type, settings, keys = NETWORKS[name]
    model, generator, loader = build(name, model_type, settings)
    tokens = torch.randint(4, VOCAB, (2, LENGTH), generator=generator)
    logits = compute(model, tokens)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if keys == "old":
        config = old_keys(config, model_type)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    stored = load_file(folder / "model.safetensors")
    save_file(old_names(stored, name), folder / "model.safetensors", metadata={"format": "pt"})
    save_file({"tokens": tokens, "logits": logits}, folder / "golden.safetensors")
    check(name, folder, loader, tokens, logits)


def check(name, folder, loader, tokens, logits):
    """What stands on disk gives the same logits, and attention and positions matter to them."""
    again = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    gap = (compute(again, tokens) - logits).abs().max().item()
    # the same tokens with the first one changed: how much the last place of each sequence feels it
    size = sum(path.stat().st_size for path in folder.iterdir())
    moved = tokens.clone()
    moved[:, LENGTH - 5] = (moved[:, LENGTH - 5] - 4 + 1) % (VOCAB - 4) + 4
    reach = (compute(again, moved) - logits)[:, -1].abs().max().item()
    print(f"{name:34} {size:7} bytes, logits std {logits.std():.3f}, reopened gap {gap:.1e}, five tokens back moves the last by {reach:.2f}")
    assert gap < 1e-5 and reach > 1e-2 and logits.std() > 0.3, name


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for wanted in sys.argv[1:] or NETWORKS:
        make(wanted)
