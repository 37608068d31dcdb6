"""GGUF exports read by gguf-py: every tensor dequantised there is what the dense export of the same plan holds.

Used by light.py, which needs `pip install gguf` for it. Of the sample, whose weights are BF16, values are compared after
rounding to BF16, as the dense export holds them; of a copy of it in F32, bit for bit. Files that gguf-py wrote itself are given
other types (retyped.py); NVFP4 and types that are only read here are in gguf_nvfp4.py and gguf_types.py.
"""

import json
import shutil

import gguf
import numpy as np
import safetensors.numpy

import gguf_nvfp4
import gguf_types
import retyped
from plans import SAMPLE, Variant, export

BLOCKS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MIXED = {
    "model.layers.*.self_attn.*_proj.weight": ("round-to-nearest", {"bits": 4, "group_size": 32}),
    "model.layers.*.mlp.gate_proj.weight": ("microscaling", {"format": "mxfp4"}),
    "model.layers.*.mlp.up_proj.weight": ("hqq", {"bits": 5, "group_size": 32}),
    "model.layers.*.mlp.down_proj.weight": ("gguf-blocks", {"type": "Q6_K"}),
    "lm_head.weight": ("round-to-nearest", {"bits": 8, "group_size": 32}),
    "model.embed_tokens.weight": ("gguf-blocks", {"type": "IQ4_NL"}),
}


def ron(value):
    return f'"{value}"' if isinstance(value, str) else str(value)


def variant(name, checkpoint, rules):
    """A plan for llama.cpp; rules as pattern to (method, parameters)."""
    lines = []
    for pattern, (method, parameters) in rules.items():
        pairs = ", ".join(f'"{key}": {ron(value)}' for key, value in parameters.items())
        lines.append(f'"{pattern}": (steps: [(method: "{method}", parameters: {{{pairs}}})]),')
    text = f'(version: 1, checkpoint: "{checkpoint}", target: "gguf", plan: {{\n' + "\n".join(lines) + "\n})\n"
    return Variant(name, "gguf", text)


def variants(work):
    """The sample as it is and under a plan of six types; a copy of it in F32, its blocks of six times two types."""
    wide = work / "sample-f32"
    if not wide.exists():
        shutil.copytree(SAMPLE, wide, copy_function=shutil.copyfile)
        found = bf16_tensors(wide / "model.safetensors")
        safetensors.numpy.save_file(found, wide / "model.safetensors", {"format": "pt"})
    found = [variant("GGUF as it is", SAMPLE, {}), variant("GGUF of six types", SAMPLE, MIXED)]
    for types in (BLOCKS[:6], BLOCKS[6:]):
        rules = {f"model.layers.{i}.*_proj.weight": ("gguf-blocks", {"type": kind}) for i, kind in enumerate(types)}
        found.append(variant(f"GGUF of {types[0]} to {types[-1]} in F32", wide, rules))
    return found


def bf16_tensors(path):
    found = {}
    for name, tensor in safetensors.deserialize(path.read_bytes()):
        patterns = np.frombuffer(bytes(tensor["data"]), "<u2").astype(np.uint32) << 16
        found[name] = patterns.view(np.float32).reshape(tensor["shape"])
    return found


def gguf_name(name):
    """What llama.cpp calls a tensor of the sample."""
    module = name.removesuffix(".weight")
    if module in NAMES:
        return f"{NAMES[module]}.weight"
    _, _, block, inside = module.split(".", 3)
    return f"blk.{block}.{NAMES[inside]}.weight"


def unwoven(values, heads):
    """Rows of q or k in the order of transformers: llama.cpp turns neighbours, transformers halves."""
    rows, cols = values.shape
    return values.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def dense_values(folder):
    """The dense export in f32, and whether it holds BF16."""
    found, rounded = {}, False
    for name, tensor in safetensors.deserialize((folder / "model.safetensors").read_bytes()):
        rounded |= tensor["dtype"] == "BF16"
        data = bytes(tensor["data"])
        if tensor["dtype"] == "BF16":
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data, "<f4")
        found[name] = values.reshape(tensor["shape"])
    return found, rounded


def to_bf16(values):
    """The nearest values BF16 has, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16
    return bits.astype(np.uint32).view(np.float32)


def check_keys(checks, variant, reader, config):
    text = lambda key: str(reader.fields[key].contents())
    number = lambda key: reader.fields[f"llama.{key}"].contents()
    found = [number(key) for key in ("embedding_length", "block_count", "attention.head_count", "vocab_size")]
    wanted = [config[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")]
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    rules = json.loads((SAMPLE / "tokenizer.json").read_text())["model"]
    same = all(tokens[index] == token for token, index in rules["vocab"].items())
    checks.check(
        text("general.architecture") == "llama" and found == wanted and same and len(tokens) == wanted[-1],
        f"{variant.name}: keys and tokens are those of config.json and tokenizer.json",
    )


def check(checks, binary, work):
    """Every variant, exported for llama.cpp and in full."""
    config = json.loads((SAMPLE / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for one in variants(work):
        (path,) = export(binary, one, work).glob("*.gguf")
        reader = gguf.GGUFReader(path)
        check_keys(checks, one, reader, config)
        dense, rounded = dense_values(export(binary, one.dense(), work))
        found, wrong = {tensor.name: tensor for tensor in reader.tensors}, []
        for name, wanted in dense.items():
            tensor = found.pop(gguf_name(name))
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
            kind = tensor.name.split(".")[-2]
            values = unwoven(values, heads[kind]) if kind in heads else values
            values = to_bf16(values) if rounded else values
            # llama.cpp's small floats have no negative zero.
            wrong += [] if np.array_equal(values, wanted) else [name]
        how = "rounded to BF16" if rounded else "to the bit"
        checks.check(
            not wrong and not found,
            f"{one.name}: gguf-py dequantises all {len(dense)} tensors to our values, {how} (not: {wrong[:3]}, left: {list(found)[:3]})",
        )
    gguf_nvfp4.check(checks, binary, work, variant, gguf_name)
    gguf_types.check(checks, binary, work)
    retyped.check(checks, binary, work)
