"""GGUF files that gguf-py wrote, given other types here and read by gguf-py again.

Used by gguf_files.py. Types that gguf-py encodes too are compared byte for byte with what it makes of the dequantised values.
"""

import subprocess

import gguf
import numpy as np

# Types that gguf-py encodes, and those that it only dequantises with the most that an error may be.
ENCODED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16", "F32"]
DECODED = {"Q2_K": 0.35, "Q3_K": 0.2, "Q4_K": 0.1, "Q5_K": 0.05, "Q6_K": 0.03, "IQ4_NL": 0.1, "IQ4_XS": 0.1}
OF_TYPES = {"general.file_type", "general.quantization_version"}


def write_source(path):
    """A file of an architecture of its own, with keys of every kind, aligned to 64 bytes."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "strange")
    writer.add_custom_alignment(64)
    writer.add_file_type(7)
    writer.add_chat_template("{% for m in messages %}{{ m }}ß{% endfor %}")
    writer.add_uint8("own.u8", 250)
    writer.add_int16("own.i16", -3)
    writer.add_uint64("own.u64", 2**64 - 1)
    writer.add_float64("own.f64", 0.1)
    writer.add_bool("own.flag", True)
    writer.add_array("own.texts", ["a", "", "ü"])
    writer.add_array("own.numbers", [1, -2, 3])
    writer.add_array("own.reals", [0.5, 0.25])
    for name, shape in [("token_embd", (40, 256)), ("blk.0.attn_q", (64, 256)), ("blk.0.ffn_up", (32, 512))]:
        values = random.standard_normal(shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("blk.0.attn_norm.weight", random.standard_normal(256).astype(np.float32))
    writer.add_tensor("own.halves", random.standard_normal(9).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def keys(reader):
    """Keys of the file in order, with the numbers of their types and their values."""
    own = (field for field in reader.fields.values() if not field.name.startswith("GGUF."))
    return [(field.name, [int(kind) for kind in field.types], field.contents()) for field in own]


def check(checks, binary, work):
    source = work / "strange.gguf"
    write_source(source)
    before = gguf.GGUFReader(source)
    wanted = [key for key in keys(before) if key[0] not in OF_TYPES]
    for name in [*ENCODED, *DECODED]:
        out = work / f"strange-{name}"
        command = [binary, "convert", source, "--target", "gguf", "--type", name, "--out", out]
        subprocess.run(command, check=True, capture_output=True)
        after = gguf.GGUFReader(out / "strange.gguf")
        found = [key for key in keys(after) if key[0] not in OF_TYPES]
        kind, wrong, worst = gguf.GGMLQuantizationType[name], [], 0.0
        for old, new in zip(before.tensors, after.tensors, strict=True):
            same = old.name == new.name and list(old.shape) == list(new.shape)
            if old.tensor_type != gguf.GGMLQuantizationType.Q8_0:
                same &= old.data.tobytes() == new.data.tobytes()
            else:
                values = gguf.quants.dequantize(old.data, old.tensor_type)
                same &= new.tensor_type == kind
                if name in ENCODED:
                    same &= gguf.quants.quantize(values, kind).tobytes() == new.data.tobytes()
                else:
                    again = gguf.quants.dequantize(new.data, new.tensor_type)
                    worst = max(worst, float(np.linalg.norm(again - values) / np.linalg.norm(values)))
            wrong += [] if same else [old.name]
        how = "its own bytes" if name in ENCODED else f"within {worst:.3f}"
        checks.check(
            found == wanted and not wrong and worst <= DECODED.get(name, 0.0) and after.alignment == 64,
            f"GGUF given {name}: gguf-py finds every key and tensor as in its own file, layers as {how} (not: {wrong[:3]})",
        )
