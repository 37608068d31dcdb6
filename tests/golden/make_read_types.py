"""Writes read_types.json: blocks of the types of GGUF that are only read, as others decode them.

By the gguf package (0.19), and by llama.cpp's own dequantize_row_*, from a shared library of ggml, which must agree to
the bit; Q1_0 and Q2_0, which gguf-py does not decode, by the latter alone:

    python3 tests/golden/make_read_types.py libggml-base.so tests/golden/read_types.json
"""

import ctypes
import json
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

# Name, bytes and values of a block, and the bytes in which an exponent of 16 bits ends: its top bit is cleared there, so
# that scales are finite.
TYPES = {
    "IQ2_XXS": (66, 256, [1]),
    "IQ2_XS": (74, 256, [1]),
    "IQ3_XXS": (98, 256, [1]),
    "IQ1_S": (50, 256, [1]),
    "IQ3_S": (110, 256, [1]),
    "IQ2_S": (82, 256, [1]),
    "IQ1_M": (56, 256, [55]),
    "TQ1_0": (54, 256, [53]),
    "TQ2_0": (66, 256, [65]),
    "MXFP4": (17, 32, []),
    "NVFP4": (36, 64, []),
    "Q1_0": (18, 128, [1]),
    "Q2_0": (18, 64, [1]),
}

def llama(library, name, raw, values):
    out = np.zeros(values, np.float32)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)
    getattr(library, f"dequantize_row_{name.lower()}")(pointer(raw), pointer(out), ctypes.c_int64(values))
    return out


def main():
    library = ctypes.CDLL(sys.argv[1])
    random = np.random.default_rng(11)
    golden = {}
    for name, (size, values, ends) in TYPES.items():
        blocks = max(2, 256 // values)
        raw = random.integers(0, 256, (blocks, size), dtype=np.uint8)
        raw[:, ends] &= 0xBF
        if name == "NVFP4":
            # Scales that are zero and no numbers, and codes of zero under a sign.
            raw[0, :4] = [0, 0x7F, 0x80, 0xFF]
            raw[1, 4:8] = 0x88
        if name == "MXFP4":
            # Values that other types hold too, but for the two smallest scales.
            raw[:, 0] = 100 + raw[:, 0] % 40
            raw[:2, 0] = [0, 1]
        theirs = llama(library, name, raw, blocks * values)
        if name not in ("Q1_0", "Q2_0"):
            decoded = dequantize(raw, Type[name]).reshape(-1)
            assert decoded.tobytes() == theirs.tobytes(), name
        assert not np.isnan(theirs).any(), name
        golden[name] = {"bytes": raw.tobytes().hex(), "f32_bits": theirs.astype("<f4").tobytes().hex()}
    with open(sys.argv[2], "w") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


main()
