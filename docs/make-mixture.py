#!/usr/bin/env python3
"""Writes a small mixture of experts with the names of Qwen3-MoE, for the gallery: make-mixture.py FOLDER.

Random weights in BF16, some layers with planted outliers. Needs nothing but Python.
"""
import json
import os
import random
import struct
import sys

BLOCKS, EXPERTS, HIDDEN, INNER = 6, 128, 32, 16


def tensors():
    yield "model.embed_tokens.weight", (256, HIDDEN)
    for block in range(BLOCKS):
        layer = f"model.layers.{block}"
        for name in "qkvo":
            yield f"{layer}.self_attn.{name}_proj.weight", (HIDDEN, HIDDEN)
        yield f"{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"{layer}.post_attention_layernorm.weight", (HIDDEN,)
        yield f"{layer}.mlp.gate.weight", (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name, shape in (("gate", (INNER, HIDDEN)), ("up", (INNER, HIDDEN)), ("down", (HIDDEN, INNER))):
                yield f"{layer}.mlp.experts.{expert}.{name}_proj.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (256, HIDDEN)


def main(folder):
    random.seed(1)
    header, data = {}, bytearray()
    for name, shape in tensors():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        heavy = random.random() ** 4
        begin = len(data)
        for _ in range(count):
            value = random.gauss(0, 0.03) * (8 if random.random() < 0.02 * heavy else 1)
            data += struct.pack("<f", value)[2:]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}, file)


main(sys.argv[1])
