"""Full interop of MLX: models of many families in mixed bits give, in mlx-lm, the logits of their dense twins there.

    python interop/full_mlx.py target/release/lapidary

Needs torch, transformers and mlx-lm (`pip install 'mlx[cpu]' mlx-lm` on Linux). Each model is made here, small and random, in f32; attention takes 8
bits in groups of 32, feed-forward layers and experts 4 in groups of 64, the embedding 6, so that config.json names modules one by one. Both folders
are loaded by mlx-lm and run in f32 on a processor. Logits may differ by at most 1e-3 of the largest.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core
import numpy
import torch
import transformers
from mlx_lm import utils
from safetensors import safe_open

from plans import Checks

TOLERANCE = 1e-3
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "max_position_embeddings": 64}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "intermediate_size": 128}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
# What mlx-lm asks for and transformers 5 calls otherwise.
OLD_KEYS = {"rope_theta": 10000.0, "rope_local_base_freq": 10000.0, "rotary_emb_base": 10000, "rotary_pct": 0.25, "sliding_window_pattern": 1}
MODELS = {
    "llama, tied, with biases": ("Llama", {**GROUPED, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", GROUPED),
    "qwen2, with biases": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 16}),
    "gemma": ("Gemma", {**GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2", {**GROUPED, "head_dim": 16}),
    "gemma3": ("Gemma3Text", {**GROUPED, "head_dim": 16}),
    "phi3": ("Phi3", {**GROUPED, "pad_token_id": 0}),
    "gpt-neox": ("GPTNeoX", {**SHAPE, "intermediate_size": 256}),
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4}),
    "qwen2-moe": ("Qwen2Moe", {**GROUPED, **EXPERTS, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 128}),
    "olmoe": ("Olmoe", {**GROUPED, **EXPERTS, "intermediate_size": 64}),
}


def make(family, settings, folder):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**settings)).float()
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim == 1:
                values.add_(0.1 * torch.randn_like(values))
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**OLD_KEYS, **json.loads(path.read_text())}))


def settings_of(name):
    """Bits and group size of a tensor of this name, or None where it is kept."""
    if not name.endswith(".weight") or "norm" in name or name.endswith(("gate.weight", "lm_head.weight", "embed_out.weight")):
        return None
    if "embed" in name:
        return 6, 32
    return (4, 64) if "mlp" in name or "experts" in name else (8, 32)


def export(binary, source, target, out):
    steps = "(steps: [(method: \"round-to-nearest\", parameters: {\"bits\": %d, \"group_size\": %d})])"
    with safe_open(source / "model.safetensors", "numpy") as file:
        found = {name: settings_of(name) for name in file.keys()}
    rules = ", ".join(f'"{name}": {steps % settings}' for name, settings in found.items() if settings)
    project = out.with_suffix(".ron")
    project.write_text(f'(version: 2, checkpoint: "{source}", target: "{target}", plan: {{{rules}}})')
    subprocess.run([binary, "compress", project, "--out", out, "--shard-size", "100KB"], capture_output=True, check=True)


def logits(folder):
    model = utils.load_model(folder)[0]
    model.set_dtype(mlx.core.float32)
    quantised = sum(type(module).__name__.startswith("Quantized") for _, module in model.named_modules())
    ids = mlx.core.array([[(at * 7 + 3) % SHAPE["vocab_size"] for at in range(24)]])
    return numpy.array(model(ids)), quantised


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary", type=Path)
    binary = arguments.parse_args().binary.resolve()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ["mlx", "mlx-lm", "transformers", "torch", "numpy"])
    print(f"python {sys.version.split()[0]}, {versions}")
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="lapidary-mlx-") as work:
        for name, (family, settings) in MODELS.items():
            source = Path(work) / family
            make(family, settings, source)
            outs = [Path(work) / f"{family}-{target}" for target in ("mlx", "dense")]
            for out, target in zip(outs, ("mlx", "dense")):
                export(binary, source, target, out)
            parts = len(list(outs[0].glob("model*.safetensors")))
            (ours, quantised), (wanted, _) = map(logits, outs)
            off = numpy.abs(ours - wanted).max() / numpy.abs(wanted).max()
            checks.check(
                off <= TOLERANCE and quantised > 8,
                f"{name}: {parts} parts, {quantised} quantised modules, logits of mlx-lm differ by {off:.1e} of the largest from those of the dense twin",
            )
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
