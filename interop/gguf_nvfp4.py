"""NVFP4 in GGUF: the bytes that llama.cpp's own converter makes of the same codes and scales, and what gguf-py reads.

Used by gguf_files.py. The codes come from the compressed-tensors export of the same plan, which is packed by other code.
"""

import json

import gguf
import numpy as np
import safetensors

from plans import SAMPLE, export

LAYERS = "model.layers.*_proj.weight"
LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def packed_as_there(packed, scales):
    """`_nvfp4_pack` of llama.cpp's conversion/base.py: four scales, then 32 bytes of codes, for 64 inputs."""
    rows, runs = scales.shape
    codes = packed.reshape(rows, runs, 8)
    codes = np.stack([codes & 15, codes >> 4], -1).reshape(rows, runs, 16)
    halves = codes[..., :8] | codes[..., 8:] << 4
    blocks = [(scales & 0x7F).reshape(rows, runs // 4, 4), halves.reshape(rows, runs // 4, 32)]
    return np.concatenate(blocks, -1).reshape(rows, -1)


def woven(rows, heads):
    """Rows of q and k as llama.cpp turns them: neighbours in place of halves."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(shape)


def exact(packed, scales):
    """level · scale, which has few enough bits to be exact."""
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    levels = np.where(codes < 8, 1, -1) * LEVELS[codes & 7]
    exponents, mantissas = (scales >> 3).astype(np.int32) & 15, scales & 7
    values = np.where(exponents == 0, mantissas * 2.0**-9, (1 + mantissas / 8) * 2.0 ** (exponents - 7.0))
    return levels * np.repeat(values.astype(np.float32), 16, -1)


def check(checks, binary, work, variant, gguf_name):
    config = json.loads((SAMPLE / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    one = variant("GGUF of NVFP4", SAMPLE, {LAYERS: ("microscaling", {"format": "nvfp4"})})
    (path,) = export(binary, one, work).glob("*.gguf")
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    there = one.text.replace('target: "gguf"', 'target: "compressed-tensors"')
    there = export(binary, type(one)("NVFP4, packed", "compressed-tensors", there), work)
    parts = {name: tensor for name, tensor in safetensors.deserialize((there / "model.safetensors").read_bytes())}
    part = lambda name, dtype: np.frombuffer(bytes(parts[name]["data"]), dtype).reshape(parts[name]["shape"])
    layers, wrong = 0, []
    for name in [name for name in parts if name.endswith(".weight_packed")]:
        module = name.removesuffix(".weight_packed")
        packed, scales = part(name, np.uint8), part(f"{module}.weight_scale", np.uint8)
        scale = np.float32(1) / part(f"{module}.weight_global_scale", np.float32).reshape(1)
        own = gguf_name(f"{module}.weight")
        order = (lambda rows: woven(rows, heads[own.split(".")[-2]])) if own.split(".")[-2] in heads else (lambda rows: rows)
        tensor, beside = found[own], found[own.replace(".weight", ".scale")]
        same = tensor.tensor_type == gguf.GGMLQuantizationType.NVFP4
        same &= np.array_equal(tensor.data, order(packed_as_there(packed, scales)))
        same &= beside.data.tobytes() == scale.tobytes() and list(beside.shape) == [1]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        same &= np.array_equal(values, order(exact(packed, scales)))
        layers += 1
        wrong += [] if same else [own]
    file_type = reader.fields["general.file_type"].contents()
    checks.check(
        layers == 42 and not wrong and file_type == gguf.LlamaFileType.MOSTLY_NVFP4,
        f"{one.name}: {layers} layers are the bytes of llama.cpp's converter, and gguf-py has their values (not: {wrong[:3]})",
    )
