"""Writes blocks.json: block codecs of GGUF as others compute them.

Decoding and the plain encoders by the gguf package (0.19); the errors of the encoders of K-quants and IQ4 by
llama.cpp's own ggml_quantize_chunk, without an importance matrix, from a shared library of ggml:

    python3 tests/golden/make_blocks.py libggml-base.so tests/golden/blocks.json

Inputs are made of a linear congruential generator and a sum of twelve of its numbers, so that any language can make
them again to the bit: s = (1664525 s + 1013904223) mod 2^32, u = s >> 8, value = (sum of 12 u) / 2^24 - 6.
"""

import ctypes
import json
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

PLAIN = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
SEARCHED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
ROWS, COLS = 64, 1024


def values(seed, n):
    """Sums of twelve numbers: nearly normal, and exact in f32 arithmetic of any order."""
    state, out = seed, np.empty(n, np.float64)
    for i in range(n):
        total = 0
        for _ in range(12):
            state = (1664525 * state + 1013904223) % 2**32
            total += state >> 8
        out[i] = total / 2**24 - 6.0
    return out.astype(np.float32)


def contents():
    normal = values(1, ROWS * COLS).reshape(ROWS, COLS)
    heavy = normal**3
    leaning = np.abs(normal) * np.float32(0.5) - np.float32(0.25)
    scaled = normal * (np.arange(COLS) % 7 + 1).astype(np.float32) / np.float32(64)
    return {"normal": normal, "heavy": heavy, "leaning": leaning, "scaled": scaled}


def error(weights, decoded):
    away = weights.astype(np.float64) - decoded.astype(np.float64)
    return float((away**2).sum())


def llama(library, kind, weights):
    out = np.zeros(weights.size * 2, np.uint8)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer = lambda a, t: a.ctypes.data_as(ctypes.POINTER(t))
    size = library.ggml_quantize_chunk(
        ctypes.c_int(int(kind)), pointer(weights, ctypes.c_float), pointer(out, ctypes.c_uint8),
        ctypes.c_int64(0), ctypes.c_int64(weights.shape[0]), ctypes.c_int64(weights.shape[1]), None,
    )
    return dequantize(out[:size].reshape(weights.shape[0], -1), kind)


def main():
    library = ctypes.CDLL(sys.argv[1])
    random = np.random.default_rng(7)
    golden = {"decode": {}, "encode": {}, "errors": {}}
    for name in PLAIN + SEARCHED:
        kind = Type[name]
        block = quantize(np.zeros((1, 256), np.float32), kind).size if name in PLAIN else None
        size = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "IQ4_NL": 144, "IQ4_XS": 136}
        raw = random.integers(0, 256, (1, block or size[name]), dtype=np.uint8)
        # Scales of 16 bits that are finite: clear the top exponent bit wherever one may stand.
        ends = {"Q2_K": [81, 83], "Q3_K": [109], "Q4_K": [1, 3], "Q5_K": [1, 3], "Q6_K": [209], "IQ4_XS": [1]}
        width = raw.size // 8
        for at in ends.get(name) or [w * width + e for w in range(8) for e in ([1, 3] if name.endswith("_1") else [1])]:
            raw[0, at] &= 0xBF
        decoded = dequantize(raw, kind).reshape(-1)
        golden["decode"][name] = {
            "bytes": raw.tobytes().hex(),
            "f32_bits": decoded.astype("<f4").tobytes().hex(),
        }
    for what, weights in contents().items():
        golden["encode"][what] = {n: quantize(weights[:2], Type[n]).tobytes().hex() for n in PLAIN}
        golden["errors"][what] = {n: error(weights, llama(library, Type[n], weights)) for n in SEARCHED}
    with open(sys.argv[2], "w") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


main()
