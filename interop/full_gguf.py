"""Full interop of GGUF: llama.cpp loads the files, cuts text into the same tokens, and scores it as we do.

    python interop/full_gguf.py target/release/lapidary

Needs numpy, safetensors, gguf, tokenizers and llama-cpp-python (built with CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON
-DGGML_FMA=ON -DGGML_F16C=ON"). Perplexity of the held-out text may differ by 1 %: llama.cpp rounds inputs to 8 bits
beside blocks. Tiny networks of every architecture, their weights in F32, must give the logits transformers gave them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

import gguf_files
from plans import REPOSITORY, SAMPLE, Checks, export

try:
    import llama_cpp
except ImportError:
    print("not checked: llama-cpp-python is not installed")
    sys.exit(0)

WINDOW, TOKENS = 256, 8192
NETWORKS = REPOSITORY / "tests" / "golden" / "networks"
# gemma2 and gemma3 of the golden ones are scaled as llama.cpp scales none, and are refused.
WRITTEN = (
    "llama llama_rope_linear llama_rope_llama3 llama_rope_llama3_new_keys llama_tied_biases mistral_window mixtral "
    "qwen2 qwen3 qwen3_moe gemma phi3 gpt2 gpt2_no_prefix"
).split()
# llama.cpp looks GELU up in a table of 16 bits.
LOGITS_TOLERANCE = {"gemma": 2e-3, "gpt2": 2e-3, "gpt2_no_prefix": 2e-3}


def opened(path, context):
    return llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=512, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
    )


def nats(model, ids):
    """Mean nats per token of windows, the first of each unscored."""
    total, count = 0.0, 0
    for first in range(0, len(ids), WINDOW):
        window = ids[first : first + WINDOW]
        model.reset()
        model.eval(window)
        scores = np.array(model.scores[: len(window)], np.float64)
        scores -= scores.max(1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        total -= scores[np.arange(len(window) - 1), window[1:]].sum()
        count += len(window) - 1
    return total / count


def nvfp4():
    """The sample with every layer and the head in NVFP4."""
    step = ("microscaling", {"format": "nvfp4"})
    return gguf_files.variant("GGUF of NVFP4 and head", SAMPLE, {"model.layers.*_proj.weight": step, "lm_head.weight": step})


def check_sample(checks, binary, work):
    text, there = (SAMPLE / "heldout_oz.txt").read_text(), {}
    for one in [*gguf_files.variants(work), nvfp4()]:
        (path,) = export(binary, one, work).glob("*.gguf")
        model = opened(path, WINDOW)
        ids = model.tokenize(text.encode(), add_bos=False, special=False)
        command = [binary, "evaluate", work / f"{path.parent.name}.ron", "--text", SAMPLE / "heldout_oz.txt", "--json"]
        command += ["--tokens", str(TOKENS), "--sequence-length", str(WINDOW)]
        ours = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        ours = ours["nats_per_token"]
        theirs = there[one.name] = nats(model, ids[:TOKENS])
        off = abs(np.expm1(theirs - ours))
        checks.check(
            off <= 0.01,
            f"{one.name}: perplexity {np.exp(theirs):.4f} in llama.cpp, {np.exp(ours):.4f} here ({100 * off:.2f} % off)",
        )
    check_parts(checks, binary, work, ids, there["GGUF of six types"])
    try:
        import tokenizers
    except ImportError:
        print("not checked: tokens, as tokenizers is not installed")
        return
    rules = tokenizers.Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    checks.check(rules.encode(text).ids == ids, f"llama.cpp cuts the held-out text into the same {len(ids)} tokens")


def check_parts(checks, binary, work, ids, whole):
    """The plan of six types in parts, which llama.cpp finds by the name of the first."""
    one = gguf_files.variant("GGUF of six types in parts", SAMPLE, gguf_files.MIXED)
    one.text = one.text.replace("(version: 1,", "(version: 1, shard_bytes: 900000,")
    parts = sorted(export(binary, one, work).glob("*.gguf"))
    theirs = nats(opened(parts[0], WINDOW), ids[:TOKENS])
    checks.check(
        len(parts) > 3 and theirs == whole,
        f"{one.name}: {len(parts)} parts have perplexity {np.exp(theirs):.4f} in llama.cpp, the whole file {np.exp(whole):.4f}",
    )


def bytes_tokenizer(rows):
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [256 + i for i in range(256 - len(plain))]
    vocab = {chr(code): index for index, code in enumerate([*moved, *plain][:rows])}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    cut = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return {"added_tokens": [], "normalizer": None, "pre_tokenizer": cut, "post_processor": None, "model": model}


def check_network(checks, binary, name, work):
    # llama.cpp expects certain tokens of a model whose name has phi3 in it.
    folder = work / name / "network"
    folder.mkdir(parents=True)
    config = json.loads((NETWORKS / name / "config.json").read_text())
    shutil.copyfile(NETWORKS / name / "config.json", folder / "config.json")
    (folder / "tokenizer.json").write_text(json.dumps(bytes_tokenizer(config["vocab_size"])))
    weights, _ = gguf_files.dense_values(NETWORKS / name)
    safetensors.numpy.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    golden = safetensors.numpy.load_file(NETWORKS / name / "golden.safetensors")
    (path,) = export(binary, gguf_files.variant(f"{name} as it is", folder, {}), work).glob("*.gguf")
    tokens = golden["tokens"]
    # llama.cpp's llama and phi3 have no window: their files end where it would begin to slide.
    window = config.get("sliding_window") if config["model_type"] in ("mistral", "phi3") else None
    length = min(tokens.shape[1], window or tokens.shape[1])
    model, worst = opened(path, max(length, 32)), 0.0
    for ids, wanted in zip(tokens, golden["logits"]):
        model.reset()
        model.eval(ids[:length].tolist())
        found = np.array(model.scores[:length])
        worst = max(worst, np.abs(found - wanted[:length]).max() / np.abs(wanted[:length]).max())
    allowed = LOGITS_TOLERANCE.get(name, 1e-5)
    checks.check(worst <= allowed, f"{name}: logits of llama.cpp are off by {worst:.1e} of the largest")


ATTENTION = {f"self_attn.{name}_proj.weight": (64, 64) for name in "qkvo"}
NORMS = {"input_layernorm.weight": (64,), "post_attention_layernorm.weight": (64,)}
MLP = {f"mlp.{name}_proj.weight": (64, 64) for name in ("gate", "up", "down")}
HEAD_NORMS = {"self_attn.q_norm.weight": (32,), "self_attn.k_norm.weight": (32,)}
EXPERTS = {f"mlp.experts.{i}.{name}_proj.weight": (64, 64) for i in range(4) for name in ("gate", "up", "down")}
# Architectures whose scales llama.cpp reads in other layers each: their tensors, and config.json beside what all have.
SCALED = {
    "llama": (MLP, {}),
    "qwen2": (MLP | {f"self_attn.{name}_proj.bias": (64,) for name in "qkv"}, {}),
    "qwen3": (MLP | HEAD_NORMS, {}),
    "qwen3_moe": (
        EXPERTS | HEAD_NORMS | {"mlp.gate.weight": (4, 64)},
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True},
    ),
}


def check_scales(checks, binary, name, work):
    """A random network with layers in NVFP4 has in llama.cpp the logits of the same file given F32, where scales are gone."""
    random, (inside, config) = np.random.default_rng(5), SCALED[name]
    folder = work / name
    folder.mkdir()
    weights = {"model.embed_tokens.weight": (256, 64), "lm_head.weight": (256, 64), "model.norm.weight": (64,)}
    blocks = [f"model.layers.{i}.{tensor}" for i in range(2) for tensor in ATTENTION | NORMS | inside]
    shapes = ATTENTION | NORMS | inside
    weights |= {tensor: shapes[tensor.split(".", 3)[3]] for tensor in blocks}
    # Matrices of very different size, so that a scale that were left out would be seen.
    values = lambda shape: random.standard_normal(shape) * (10 ** random.uniform(-2, -0.8) if len(shape) > 1 else 1)
    tensors = {tensor: values(shape).astype(np.float32) for tensor, shape in weights.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
    whole = sizes | heads | config | {"model_type": name, "hidden_act": "silu", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(whole))
    (folder / "tokenizer.json").write_text(json.dumps(bytes_tokenizer(256)))
    step = ("microscaling", {"format": "nvfp4"})
    rules = {"model.layers.*_proj.weight": step, "lm_head.weight": step}
    (path,) = export(binary, gguf_files.variant(f"{name} in nvfp4", folder, rules), work).glob("*.gguf")
    wide = work / f"{name}-f32"
    command = [binary, "convert", path, "--target", "gguf", "--type", "F32", "--out", wide]
    subprocess.run(command, check=True, capture_output=True)
    ids, logits = random.integers(0, 256, 32).tolist(), []
    scales = [tensor.name for tensor in gguf_files.gguf.GGUFReader(path).tensors if tensor.name.endswith(".scale")]
    left = [tensor.name for tensor in gguf_files.gguf.GGUFReader(wide / path.name).tensors if tensor.name.endswith(".scale")]
    for file in (path, wide / path.name):
        model = opened(file, 64)
        model.eval(ids)
        logits.append(np.array(model.scores[:32]))
    off = np.linalg.norm(logits[0] - logits[1]) / np.linalg.norm(logits[1])
    checks.check(
        off < 0.05 and scales and not left,
        f"{name} with {len(scales)} scales of NVFP4: logits of llama.cpp are off by {off:.1e} from those of the same values in F32",
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary", type=Path)
    binary = arguments.parse_args().binary.resolve()
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}, llama-cpp-python {llama_cpp.__version__}")
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="lapidary-interop-") as work:
        check_sample(checks, binary, Path(work))
        for name in WRITTEN:
            check_network(checks, binary, name, Path(work))
        (Path(work) / "scales").mkdir()
        for name in SCALED:
            check_scales(checks, binary, name, Path(work) / "scales")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
