"""Types of GGUF that are only read here: a file that gguf-py wrote, given F32 here, holds what gguf-py dequantises.

Used by gguf_files.py. Blocks are random bytes, with a number of 16 bits that is finite as their scale.
"""

import subprocess

import gguf
import numpy as np

# The byte in which the exponent of a block's scale ends.
TYPES = {
    "IQ1_S": 1,
    "IQ1_M": 55,
    "IQ2_XXS": 1,
    "IQ2_XS": 1,
    "IQ2_S": 1,
    "IQ3_XXS": 1,
    "IQ3_S": 1,
    "TQ1_0": 53,
    "TQ2_0": 65,
    "MXFP4": None,
    "NVFP4": None,
}
ROWS, COLS = 96, 1024


def check(checks, binary, work):
    random = np.random.default_rng(23)
    source = work / "types.gguf"
    writer = gguf.GGUFWriter(source, "strange")
    wanted = {}
    for at, (name, end) in enumerate(TYPES.items()):
        kind = gguf.GGMLQuantizationType[name]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ROWS * COLS // values, size), dtype=np.uint8)
        if end is not None:
            blocks[:, end] &= 0xBF
        if name == "MXFP4":
            # Powers of two whose multiples F32 holds.
            blocks[:, 0] %= 252
        data = blocks.reshape(ROWS, -1)
        writer.add_tensor(f"blk.{at}.ffn_up.weight", data, raw_dtype=kind)
        wanted[f"blk.{at}.ffn_up.weight"] = (name, gguf.quants.dequantize(data, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    out = work / "types-f32"
    command = [binary, "convert", source, "--target", "gguf", "--type", "F32", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    wrong = []
    for tensor in gguf.GGUFReader(out / "types.gguf").tensors:
        name, values = wanted.pop(tensor.name)
        same = tensor.tensor_type == gguf.GGMLQuantizationType.F32
        same &= np.array_equal(np.asarray(tensor.data, np.float32).view(np.uint32), values.view(np.uint32))
        wrong += [] if same else [name]
    checks.check(
        not wrong and not wanted,
        f"random blocks of {', '.join(TYPES)}: {ROWS * COLS} values each, to the bit what gguf-py dequantises (not: {wrong})",
    )
