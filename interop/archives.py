"""Lapidary's own archives in the hands of numpy, as docs/archive.md describes them: every layer decoded and compared with
the dense export of the same plan, to the bit (turned ones within the rounding of their sums)."""

import json
import os
import subprocess

import numpy as np
import safetensors

import coded
import turned
from plans import EVERY, SAMPLE, Variant, export, project

SIZES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "U8": "u1", "U16": "<u2", "U32": "<u4", "F8_E4M3": "u1", "F8_E8M0": "u1", "F8_E5M2": "u1"}

SPARSE = ("magnitude", {"fraction": 0.5})

# Every encoding, alone and in another.
RULES = {
    EVERY: {"bits": 5, "group_size": 48, "symmetry": "asymmetric"},
    "*.0.self_attn.q_proj.weight": ("low-rank", {"rank": 16}),
    "*.0.self_attn.k_proj.weight": ("optimal-palette", {"bits": 3}),
    "*.0.self_attn.v_proj.weight": [SPARSE, ("round-to-nearest", {"bits": 3})],
    "*.0.self_attn.o_proj.weight": [SPARSE],
    "*.0.mlp.gate_proj.weight": ("microscaling", {"format": "nvfp4"}),
    "*.0.mlp.up_proj.weight": ("microscaling", {"format": "mxfp8"}),
    "*.0.mlp.down_proj.weight": ("fp8", {"granularity": "square"}),
    "*.1.self_attn.q_proj.weight": ("hqq", {"bits": 2}),
    "*.1.self_attn.k_proj.weight": ("nf4", {}),
    "*.1.self_attn.v_proj.weight": [SPARSE, ("nf4", {"levels": "fp4"})],
    "*.1.self_attn.o_proj.weight": [SPARSE, ("optimal-palette", {"bits": 4})],
    "*.1.mlp.up_proj.weight": ("gguf-blocks", {"type": "Q8_0"}),
    "*.1.mlp.down_proj.weight": ("fp8", {"levels": "e5m2", "granularity": "channel"}),
    "*.3.self_attn.q_proj.weight": ("higgs", {"bits": 3, "group_size": 128}),
    "*.3.mlp.down_proj.weight": ("higgs", {"bits": 2, "grid": "scalars", "group_size": 512}),
    "*.3.self_attn.o_proj.weight": ("quip-sharp", {"bits": 2, "rounding": "nearest", "outputs": "kept"}),
    "*.5.self_attn.q_proj.weight": ("ccq", {}),
    "*.3.mlp.gate_proj.weight": ("ccq", {"form": "wint2"}),
    "*.4.mlp.gate_proj.weight": ("ccq", {"form": "wint2.286"}),
    "*.4.self_attn.o_proj.weight": ("low-rank", {"rank": 90, "factors": "remapped"}),
    "*.4.self_attn.k_proj.weight": ("low-rank", {"rank": 40, "factors": "remapped"}),
    "*.5.mlp.down_proj.weight": ("low-rank", {"rank": 100, "factors": "remapped"}),
    "*.5.self_attn.k_proj.weight": ("entropy-coded", {"rate": 2.5}),
    "*.5.self_attn.v_proj.weight": ("tensor-train", {"rank": 24}),
    "*.5.mlp.gate_proj.weight": ("seedlm", {"block": 7, "coefficients": 2, "seed_bits": 10}),
    "*.5.mlp.up_proj.weight": ("tensor-train", {"rank": 16, "cores": "three", "factors": "integers"}),
    "*.5.self_attn.o_proj.weight": ("sparse-dictionary", {"atoms": 32}),
    "*.2.self_attn.o_proj.weight": [SPARSE, ("entropy-coded", {"rate": 6.0})],
    "*.2.self_attn.q_proj.weight": ("quip-sharp", {"bits": 2, "rounding": "nearest"}),
    "*.2.self_attn.v_proj.weight": ("quip-sharp", {"bits": 3, "rounding": "nearest"}),
    "*.2.mlp.down_proj.weight": ("quip-sharp", {"bits": 4, "rounding": "nearest"}),
    "*.1.mlp.gate_proj.weight": ("bitstack", {"levels": 3, "rank": 8}),
    "*.2.self_attn.k_proj.weight": ("onebit", {}),
    "*.2.mlp.gate_proj.weight": ("ternary", {"group_size": 48}),
    "*.3.self_attn.k_proj.weight": ("bcq", {"bits": 3}),
    "*.3.self_attn.v_proj.weight": ("db-llm", {"group_size": 32}),
    "*.3.mlp.up_proj.weight": [SPARSE, ("ternary", {"granularity": "channel"})],
    "*.4.self_attn.q_proj.weight": ("aqlm", {"nearest": "weights", "codebooks": 3, "code_bits": 5, "rounds": 2}),
    "*.4.mlp.down_proj.weight": ("vector-quantisation", {"code_bits": 9, "run": 5}),
    "*.4.self_attn.v_proj.weight": ("vector-quantisation", {"code_bits": 6, "run": 8, "books": "factored", "dims": 3}),
    "*.4.mlp.up_proj.weight": ("vector-quantisation", {"stages": 2, "code_bits": 4, "books": "own"}),
    "*.2.mlp.up_proj.weight": [("round-to-nearest", {"bits": 3}), ("sparse-outliers", {"share": 0.01, "nearest": "weights"})],
    "lm_head.weight": {"bits": 8, "granularity": "tensor"},
}

# Those that take a calibration: small groups whose scales are codes, scales of inputs kept with the layer, and biases for the mean of the inputs.
CALIBRATED = {
    "*.self_attn.q_proj.weight": ("awq", {"bits": 4, "group_size": 64}),
    "*.self_attn.k_proj.weight": ("spqr", {}),
    "*.mlp.gate_proj.weight": ("gqsa", {"group_size": 24}),
    "*.mlp.up_proj.weight": ("mixllm", {"share": 0.1}),
    "*.self_attn.v_proj.weight": [("magnitude", {"fraction": 0.3}), ("spqr", {"bits": 2, "share": 0, "statistic_rows": 7})],
    "*.self_attn.o_proj.weight": ("low-rank", {"rank": 16, "nearest": "outputs", "centre": "bias"}),
    "*.mlp.down_proj.weight": ("low-rank", {"rank": 8, "nearest": "outputs", "centre": "bias", "factors": "integers"}),
    "*.0.self_attn.k_proj.weight": ("ptq161", {}),
    "*.0.mlp.up_proj.weight": ("entropy-coded", {"rate": 2.0, "nearest": "outputs"}),
}

NF4 = "-1 -0.6961928 -0.52507305 -0.3949175 -0.28444138 -0.18477343 -0.091050036 0 0.0795803 0.1609302 0.2461123 0.33791524 0.44070983 0.562617 0.72295684 1"
FP4 = "0 0.0052083335 0.6666667 1 0.33333334 0.5 0.16666667 0.25 -0 -0.0052083335 -0.6666667 -1 -0.33333334 -0.5 -0.16666667 -0.25"
E2M1 = "0 0.5 1 1.5 2 3 4 6 -0 -0.5 -1 -1.5 -2 -3 -4 -6"


def small_floats(bits_of_mantissa, bias, largest):
    """The values of all bytes of a float of 8 bits; 0 beyond the largest."""
    codes = np.arange(256)
    exponent, fraction = (codes & 127) >> bits_of_mantissa, codes & ((1 << bits_of_mantissa) - 1)
    one = 1 << bits_of_mantissa
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (one + fraction) * 2.0 ** (exponent - bias)) / one
    values = np.where((codes & 127) > largest, 0, values)
    return np.where(codes < 128, values, -values).astype(np.float32)


LEVELS = {
    **{name: np.array(text.split(), np.float32) for name, text in [("nf4", NF4), ("fp4", FP4), ("e2m1", E2M1)]},
    "e4m3": small_floats(3, 7, 0x7E),
    "e5m2": small_floats(2, 15, 0x7B),
}


def numbers(part):
    """The values of a part in f32."""
    kind, array = part
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if kind == "F8_E8M0":
        return (2.0 ** (array.astype(np.float64) - 127)).astype(np.float32)
    return LEVELS["e4m3"][array] if kind == "F8_E4M3" else array.astype(np.float32)


def stream(part, bits, count):
    """Codes of a little-endian stream."""
    assert part[0] == "U8" and len(part[1]) == -(-count * bits // 8)
    places = np.unpackbits(part[1], bitorder="little")[: count * bits].reshape(count, bits)
    return (places << np.arange(bits)).sum(-1)


def tile(grouping, rows, cols):
    """For every weight, the index of its scale."""
    if grouping == "tensor":
        return np.zeros((rows, cols), np.int64)
    width = cols if grouping == "channel" else grouping["group"]
    return np.arange(rows)[:, None] * -(-cols // width) + np.arange(cols) // width


def spread(values, mask):
    """Stored values in their places, zeros where the mask drops."""
    if mask is None:
        return values
    out = np.zeros(mask.shape, values.dtype)
    out[mask] = values
    return out


def decode(layout, rows, cols, part, mask=None):
    """The weights `[rows, cols]` in f32; `part(name)` is (type, array)."""
    (kind, of), = layout.items()
    count = rows * cols if mask is None else int(mask.sum())
    matrix = lambda values: spread(values, mask).reshape(rows, cols)
    if kind == "dense":
        return matrix(numbers(part("values")))
    if kind == "affine":
        codes = matrix(stream(part("codes"), of["bits"], count)).astype(np.float32)
        at = tile(of["grouping"], rows, cols)
        scales = numbers(part("scales"))
        if of.get("has_offsets"):
            return scales[at] * codes + numbers(part("offsets"))[at]
        zeros = np.full(len(scales), 1 << (of["bits"] - 1)) if of["symmetric"] else stream(part("zeros"), of["bits"], len(scales))
        return scales[at] * (codes - zeros[at].astype(np.float32))
    if kind == "bilevel":
        per_row = -(-cols // of["group"])
        shared = np.arange(rows)[:, None] // of["rows"] * per_row + np.arange(per_row)
        numbers_of = numbers(part("statistics")).reshape(-1, 4)[shared]
        statistic = lambda name: stream(part(name), of["statistic_bits"], rows * per_row).reshape(rows, per_row).astype(np.float32)
        scales = numbers_of[..., 0] * statistic("scale_codes") + numbers_of[..., 1]
        zeros = numbers_of[..., 2] * statistic("zero_codes") + numbers_of[..., 3]
        at = np.arange(cols) // of["group"]
        codes = matrix(stream(part("codes"), of["bits"], count)).astype(np.float32)
        return scales[:, at] * (codes - zeros[:, at])
    if kind == "windows":
        blocks = -(-cols // 64)
        supers = numbers(part("super_scales"))[:, None]
        if of["form"] == "wint2.5":
            words = part("words")[1].astype(np.int64).reshape(rows, blocks, 10)
            windows = words[..., None] >> np.array([13, 11, 9, 6, 4, 2, 0]) & 7
            levels = windows.reshape(rows, blocks, 70)[..., :64].reshape(rows, -1)[:, :cols] - 4
            local = words[..., 9] & 0x1FFF
        elif of["form"] == "wint2.286":
            words = part("words")[1].astype(np.int64).reshape(rows, -1)
            levels = (words[..., None] >> np.array([13, 11, 9, 6, 4, 2, 0]) & 7).reshape(rows, -1)[:, :cols] - 4
            return levels.astype(np.float32) * supers
        else:
            codes = part("codes")[1].reshape(rows, -1).astype(np.float32)
            scale, zero = numbers(part("code_scales"))[:, None], numbers(part("code_zeros"))[:, None]
            mapped = np.floor(codes * scale + zero + np.float32(0.5)).astype(np.int64)
            levels = (mapped[..., None] >> np.array([9, 6, 3, 0]) & 63).reshape(rows, -1)[:, :cols] - 32
            pairs = part("local_scales")[1].reshape(rows, -1)
            local = np.stack([pairs >> 4, pairs & 15], -1).reshape(rows, -1)[:, :blocks]
        scales = local.astype(np.float32) * supers
        return levels.astype(np.float32) * scales[:, np.arange(cols) // 64]
    if kind == "runs":
        per_row = -(-cols // of["run"])
        keep = np.unpackbits(part("run_mask")[1], bitorder="little")[: rows * per_row].astype(bool)
        assert keep.sum() == of["kept"]
        out = np.zeros((rows * per_row, of["run"]), np.float32)
        out[keep] = decode(of["inner"], of["kept"], of["run"], part)
        return out.reshape(rows, -1)[:, :cols]
    if kind == "mixed":
        is_high = np.unpackbits(part("row_mask")[1], bitorder="little")[:rows].astype(bool)
        assert is_high.sum() == of["rows"]
        out = np.zeros((rows, cols), np.float32)
        out[is_high] = decode(of["high"], of["rows"], cols, lambda name: part(f"high.{name}"))
        out[~is_high] = decode(of["low"], rows - of["rows"], cols, lambda name: part(f"low.{name}"))
        return out
    if kind == "palette":
        tables = numbers(part("palette")).reshape(-1, 1 << of["bits"])
        run = of["rows"] or rows
        return tables[np.arange(rows)[:, None] // run, matrix(stream(part("codes"), of["bits"], count))]
    if kind == "float":
        levels = LEVELS[of["levels"]]
        (how, tiling), = of["tiling"].items()
        if how == "rows":
            at = tile(tiling, rows, cols)
        else:
            at = (np.arange(rows) // tiling)[:, None] * -(-cols // tiling) + np.arange(cols) // tiling
        scales = numbers(part("scales"))
        if of["scale_dtype"] == "F8_E4M3":
            scales = scales / numbers(part("global"))
        codes = matrix(stream(part("codes"), len(levels).bit_length() - 1, count))
        return levels[codes] * scales[at]
    if kind == "blocks":
        assert of == "Q8_0", "the one type of blocks that is tried here"
        blocks = part("blocks")[1].reshape(rows, -1, 34)
        scale = blocks[..., :2].copy().view("<f2").astype(np.float32)
        return (blocks[..., 2:].view(np.int8).astype(np.float32) * scale).reshape(rows, -1)[:, :cols]
    if kind == "vectors":
        codes, scales = part("codes"), numbers(part("scales"))
        if isinstance(of["codebook"], str) and of["codebook"] in turned.DIGITS:
            return turned.digits(of, rows, cols, codes[1], scales, tile(of["grouping"], rows, cols))
        if isinstance(of["codebook"], dict):
            read = lambda bits, count: stream(codes, bits, count)
            return turned.grid(of, rows, cols, read, scales, tile(of["grouping"], rows, cols))
        return turned.vectors(of, rows, cols, codes[1], scales)
    if kind == "coded":
        ends, levels = part("ends")[1].astype(np.int64), numbers(part("levels"))
        return coded.weights(of, rows, cols, part("codes")[1], ends, levels)
    if kind == "signed":
        minus = turned.bits(part("signs")[1], rows * cols).reshape(rows, cols)
        sizes = decode(of["inner"], rows, cols, part)
        return np.where(minus, -sizes, sizes)
    if kind == "stack":
        within = lambda level: lambda suffix: part(f"{level}.{suffix}")
        levels = [decode(layout, rows, cols, within(level)) for level, layout in enumerate(of["levels"])]
        out = levels[0]
        for level in levels[1:]:
            out = out + level
        return out
    if kind == "split":
        half = lambda name: lambda suffix: part(f"{name}.{suffix}")
        columns = turned.bits(part("columns")[1], cols)
        assert columns.sum() == of["kept"]
        out = np.empty((rows, cols), np.float32)
        out[:, columns] = decode(of["apart"], rows, of["kept"], half("apart"))
        out[:, ~columns] = decode(of["rest"], rows, cols - of["kept"], half("rest"))
        return out
    if kind == "additive":
        scales = numbers(part("scales")) if of["scale_dtype"] else None
        read = lambda bits, count: stream(part("codes"), bits, count)
        return turned.additive(of, rows, cols, read, numbers(part("codebooks")), scales)
    if kind == "seeded":
        read = lambda name, bits, count: stream(part(name), bits, count)
        return turned.seeded(of, rows, cols, read, numbers(part("scale"))[0])
    if kind == "folded":
        r, c = of["rows"], of["cols"]
        m, n = rows // r, cols // c
        inner = decode(of["inner"], r * c, m * n, part)
        return inner.reshape(r, c, m, n).transpose(0, 2, 1, 3).reshape(rows, cols)
    if kind == "rotated":
        signs, row_signs = part("signs")[1], of["rows"] and part("row_signs")[1]
        return turned.rotated(of, decode(of["inner"], rows, cols, part), signs, row_signs)
    if kind == "low-rank":
        side = lambda name: lambda suffix: part(f"{name}.{suffix}")
        left = decode(of["left"], rows, of["rank"], side("left")).astype(np.float64)
        right = decode(of["right"], of["rank"], cols, side("right")).astype(np.float64)
        out = np.zeros((rows, cols))
        for k in range(of["rank"]):
            out += left[:, k : k + 1] * right[k]
        return out.astype(np.float32)
    if kind == "outliers":
        ends, columns = (part(f"outliers.{name}")[1].astype(np.int64) for name in ("ends", "columns"))
        out = np.zeros((rows, cols), np.float32)
        counts = np.diff(np.concatenate([[0], ends]))
        out[np.repeat(np.arange(rows), counts), columns] = numbers(part("outliers.values"))
        return out
    if kind == "sum":
        return decode(of["base"], rows, cols, part) + decode(of["correction"], rows, cols, part)
    if kind == "shifted":
        # `shift` is added to the outputs of the layer, beside its own bias, and plays no part in the weights.
        return decode(of["inner"], rows, cols, part, mask)
    if kind == "scaled":
        return decode(of["inner"], rows, cols, part, mask) / numbers(part("input_scales"))
    assert kind == "sparse", kind
    kept = np.unpackbits(part("mask")[1], bitorder="little")[: rows * cols].astype(bool)
    assert kept.sum() == of["kept"]
    return np.where(kept.reshape(rows, cols), decode(of["inner"], rows, cols, part, kept), np.float32(0))


def read(path):
    """The metadata and the tensors of a file."""
    with safetensors.safe_open(path, "np") as opened:
        metadata = opened.metadata()
    array = lambda tensor: np.frombuffer(bytes(tensor["data"]), SIZES[tensor["dtype"]])
    return metadata, {name: (t["dtype"], array(t)) for name, t in safetensors.deserialize(path.read_bytes())}


def layers(checks, variant, work, binary, bf16, environment=None):
    """Decodes every layer of an archive and holds it against its dense twin; gives the kinds of encodings, what outputs are
    shifted by, and what is left of both."""
    out, twin = export(binary, variant, work, environment), export(binary, variant.dense(), work, environment)
    (metadata, found), (_, dense) = read(out / "model.safetensors"), read(twin / "model.safetensors")
    index = json.loads(metadata["lapidary_archive"])
    wrong, kinds, shifts = [], set(), {}
    for name, layer in index["layers"].items():
        kinds |= set(layer["layout"])
        matrix, prefix = layer["matrix"], name + "."
        part = lambda suffix: found.pop(prefix + suffix)
        values = decode(layer["layout"], matrix["rows"], matrix["cols"], part)
        if "shifted" in layer["layout"]:
            shifts[name.removesuffix("weight") + "bias"] = part("shift")
            kinds |= set(layer["layout"]["shifted"]["inner"])
        stored = dense.pop(name)
        if "rotated" in layer["layout"]:
            # Sums in another order: half a step of BF16 more, at most.
            off = np.abs(values.ravel() - numbers(stored))
            is_same = bool((off <= np.abs(values.ravel()) * 2**-8 + 1e-6).all())
        else:
            is_same = np.array_equal(bf16(values).ravel(), stored[1])
        if not is_same or layer["dtype"] != "BF16":
            wrong.append(name)
    checks.check(index["version"] == 1 and not wrong, f"{variant.name}: {len(index['layers'])} layers decode to our values (not: {wrong[:3]})")
    return kinds, shifts, found, dense


def check_rest(checks, variant, found, dense):
    same = all(found[name][0] == dense[name][0] and np.array_equal(found[name][1], dense[name][1]) for name in dense)
    checks.check(same and set(found) == set(dense), f"{variant.name}: the other {len(dense)} tensors are the same, none is left over")


def check(checks, binary, work, bf16):
    variant = Variant("archive of every encoding", "archive", project("archive", RULES))
    kinds, _, found, dense = layers(checks, variant, work, binary, bf16)
    want = {"affine", "palette", "float", "blocks", "low-rank", "sparse", "sum", "rotated", "windows", "coded", "signed", "stack", "vectors", "additive", "folded", "seeded"}
    checks.check(kinds >= want, f"{variant.name}: the encodings are {', '.join(sorted(kinds))}")
    check_rest(checks, variant, found, dense)
    check_calibrated(checks, binary, work, bf16)


def check_calibrated(checks, binary, work, bf16):
    home = {**os.environ, "LAPIDARY_HOME": str(work / "archives")}
    command = [binary, "calibrate", SAMPLE, "--text", SAMPLE / "heldout_oz.txt", "--tokens", "1024"]
    subprocess.run(command, capture_output=True, check=True, env=home)
    variant = Variant("archive of what takes a calibration", "archive", project("archive", CALIBRATED))
    kinds, shifts, found, dense = layers(checks, variant, work, binary, bf16, home)
    checks.check(kinds == {"scaled", "shifted", "low-rank", "sum", "sparse", "runs", "mixed", "split"}, f"{variant.name}: the encodings are {', '.join(sorted(kinds))}")
    biases = {name: dense.pop(name) for name in list(dense) if name.endswith("_proj.bias")}
    same = all(biases[name][0] == kind and np.array_equal(biases[name][1], values) for name, (kind, values) in shifts.items())
    # config.json gives all layers of a kind biases; those that need none have zeros.
    zeros = [name for name, (_, values) in biases.items() if not values.any()]
    is_told_apart = len(shifts) == 12 and set(zeros) == set(biases) - set(shifts)
    checks.check(same and is_told_apart, f"{variant.name}: what {len(shifts)} outputs are shifted by are the biases of the dense twin")
    check_rest(checks, variant, found, dense)
