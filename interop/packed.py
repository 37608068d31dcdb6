"""The layers of MLX, GPTQ, AutoRound, AWQ, AQLM and SpQR folders, unpacked by numpy as their config.json says."""

import re

import numpy as np


def streams(words, bits, count):
    """Unsigned codes of rows of little-endian bit streams: `count` of `bits` bits in each row of 32-bit words."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    codes = stream[:, : count * bits].reshape(len(words), count, bits)
    return (codes.astype(np.int64) << np.arange(bits)).sum(-1)


def mlx_modules(found, config):
    kept = {name for name, value in config.items() if value is False}
    modules = [name.removesuffix(".scales") for name in found if name.endswith(".scales")]
    assert not kept & set(modules), kept & set(modules)
    return modules


def mlx(found, module, config, floats):
    """w = s·q + o, or a small float times a power of two."""
    settings = config.get(module, config)
    bits, size, mode = settings["bits"], settings["group_size"], settings.get("mode", "affine")
    words, scales = found[f"{module}.weight"], found[f"{module}.scales"]
    assert words[0] == "U32", module
    cols = scales[1].shape[1] * size
    assert words[1].shape[1] * 32 == cols * bits, module
    codes = streams(words[1], bits, cols)
    spread = lambda values: np.repeat(values, size, axis=1)
    if mode == "affine":
        biases = found[f"{module}.biases"]
        assert biases[0] == scales[0], module
        return spread(floats(scales)) * codes.astype(np.float32) + spread(floats(biases))
    assert scales[0] == "U8" and size == 32, module
    if mode == "mxfp4":
        levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
        levels = np.concatenate([levels, -levels])
    else:
        byte = np.arange(256)
        exponent, mantissa = byte >> 3 & 15, byte & 7
        levels = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
        levels = np.where(byte & 128, -levels, levels).astype(np.float32)
    return levels[codes] * spread(np.exp2(scales[1].astype(np.float64) - 127)).astype(np.float32)


def gptq_settings(module, config):
    """The first rule of `dynamic` whose pattern matches from the beginning, over what is said for all; None if kept."""
    for rule, values in config.get("dynamic", {}).items():
        if re.match(rule[2:], module):
            return {**config, **values} if rule.startswith("+:") else None
    return config


def gptq_modules(found, config):
    linear = [n.removesuffix(".weight") for n, (_, a) in found.items() if n.endswith(".weight") and a.ndim == 2]
    plain = [m for m in linear if ".layers." in m and gptq_settings(m, config)]
    assert not plain, f"said to be quantised, and not: {plain}"
    return [name.removesuffix(".qweight") for name in found if name.endswith(".qweight")]


def gptq(found, module, config, floats):
    """w = s·(q − z); v1 stores z − 1."""
    settings = gptq_settings(module, config)
    part = lambda suffix: found[f"{module}.{suffix}"]
    return gptq_layer(part, module, (settings, config["checkpoint_format"] == "gptq"), part("g_idx")[1], floats)


def gptq_layer(part, module, stated, order, floats):
    """A layer in GPTQ's layout, of settings and how much less its zero points are stored."""
    settings, less = stated
    bits, size = settings["bits"], settings["group_size"]
    (kind, weight), (_, zeros) = part("qweight"), part("qzeros")
    assert (kind, part("scales")[0]) == ("I32", "F16"), module
    scales = floats(part("scales"))
    cols, rows = weight.shape[0] * 32 // bits, weight.shape[1]
    order = np.arange(cols) // (cols // len(scales)) if order is None else order
    assert len(order) == cols, module
    assert weight.shape[0] * 32 == cols * bits and len(scales) == (1 if size == -1 else cols // size), module
    codes = streams(weight.T, bits, cols)
    zeros = streams(zeros, bits, rows) + less
    assert not settings["sym"] or (zeros == 1 << (bits - 1)).all(), module
    return scales[order].T * (codes - zeros[order].T).astype(np.float32)


def auto_round_modules(found, config):
    linear = [n.removesuffix(".weight") for n, (_, a) in found.items() if n.endswith(".weight") and a.ndim == 2]
    extra, begin = config.get("extra_config", {}), config["block_name_to_quantize"] + "."
    plain = [m for m in linear if m.startswith(begin) and extra.get(m, config)["bits"] < 16]
    assert not plain, f"said to be quantised, and not: {plain}"
    return [name.removesuffix(".qweight") for name in found if name.endswith(".qweight")]


def auto_round(found, module, config, floats):
    """GPTQ's layout with zero points stored less one, inputs in order."""
    assert config["packing_format"] == "auto_round:auto_gptq"
    settings = {**config, **config.get("extra_config", {}).get(module, {})}
    return gptq_layer(lambda suffix: found[f"{module}.{suffix}"], module, (settings, 1), None, floats)


def awq_modules(found, config):
    modules = [name.removesuffix(".qweight") for name in found if name.endswith(".qweight")]
    linear = [n.removesuffix(".weight") for n, (_, a) in found.items() if n.endswith(".weight") and a.ndim == 2]
    skipped = lambda module: any(kept in module for kept in config["modules_to_not_convert"])
    assert not any(map(skipped, modules)), [m for m in modules if skipped(m)]
    assert all(skipped(m) for m in linear if "embed" not in m), [m for m in linear if not skipped(m)]
    return modules


def awq(found, module, config, floats):
    """w = s·(q − z), eight outputs in a word, in AWQ's order."""
    assert (config["bits"], config["version"], config["zero_point"]) == (4, "gemm", True)
    places = 4 * np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)

    def nibbles(name):
        kind, words = found[f"{module}.{name}"]
        assert kind == "I32", module
        return (words.view(np.uint32)[:, :, None] >> places & 15).reshape(len(words), -1).astype(np.int64)

    assert found[f"{module}.scales"][0] == "F16", module
    spread = lambda values: np.repeat(values, config["group_size"], axis=0)
    codes = nibbles("qweight") - spread(nibbles("qzeros"))
    return (spread(floats(found[f"{module}.scales"])) * codes.astype(np.float32)).T


def kept_in(module, names):
    """Whether transformers 5 keeps a module: `should_convert_module` of its quantizers."""
    boundary = r"(?:(?<=\.)|(?=\.|$))"
    return any(re.match(rf"(?:{name}){boundary}", module) or module.endswith(name) for name in names)


def listed_modules(found, kept, suffix):
    """Modules with a part of this suffix, none of which is listed as kept, and every other linear one is."""
    modules = [name.removesuffix(suffix) for name in found if name.endswith(suffix)]
    linear = [n.removesuffix(".weight") for n, (_, a) in found.items() if n.endswith(".weight") and a.ndim == 2]
    wrong = [m for m in modules if kept_in(m, kept)] + [m for m in linear if "embed" not in m and not kept_in(m, kept)]
    assert not wrong, wrong
    return modules


def aqlm_modules(found, config):
    names = config["linear_weights_not_to_quantize"]
    modules = [name for name in names if not name.endswith(".weight")]
    assert sorted(names) == sorted(modules + [f"{module}.weight" for module in modules]), "for transformers before 5"
    return listed_modules(found, names, ".codes")


def aqlm(found, module, config, floats):
    """w = s·Σ C[c][code], in f32, codebook by codebook."""
    bits, count, run = config["nbits_per_codebook"], config["num_codebooks"], config["in_group_size"]
    assert config["out_group_size"] == 1
    (kind, codes), books, scales = (found[f"{module}.{suffix}"] for suffix in ["codes", "codebooks", "scales"])
    assert kind == ("I8" if bits <= 8 else "I16") and codes.min() >= -(1 << bits - 1) and codes.max() < 1 << bits - 1, module
    assert books[1].shape == (count, 1 << bits, 1, run) and scales[1].shape == (len(codes), 1, 1, 1), module
    books, scales = floats(books), floats(scales)
    total = np.zeros((*codes.shape[:2], run), np.float32)
    for codebook in range(count):
        total += books[codebook, codes[:, :, codebook].astype(np.int64) % (1 << bits), 0]
    return (total * scales[:, :, 0]).reshape(len(codes), -1)


def spqr_modules(found, config):
    assert (config["bits"], config["beta1"], config["beta2"]) == (3, 16, 16)
    modules = listed_modules(found, config["modules_to_not_convert"], ".dense_weights")
    shapes = {f"{m}.{s}.shape": found[f"{m}.{s}"][1].size for m in modules for s in PARTS["spqr"][2]}
    assert shapes == config["shapes"], "elements of every tensor"
    return modules


def spqr_fields(found, module):
    """Codes [tile, output, 18], the four F16 numbers of each tile, and the matrix's extents."""
    part = {suffix: found[f"{module}.{suffix}"] for suffix in PARTS["spqr"][2]}
    assert [part[suffix][0] for suffix in PARTS["spqr"][2]] == ["I64", "I32", "I32", "I32"], module
    assert part["in_perm"][1].size == 0, module
    rows = part["row_offsets"][1].size - 1
    words = part["dense_weights"][1].view(np.uint64).reshape(-1, 16)
    codes = (words[:, :, None] >> (3 * np.arange(18, dtype=np.uint64)) & np.uint64(7)).astype(np.float32)
    pieces = (words >> np.uint64(54)).astype(np.uint8)
    assert (pieces[:, 0::2] == pieces[:, 1::2]).all() and not (words >> np.uint64(62)).any(), module
    numbers = np.ascontiguousarray(pieces[:, 0::2]).view("<f2")
    return codes, numbers, (rows, words.size * 16 // rows)


def spqr_add(found, module, weights):
    """The single weights, added in f32."""
    offsets = found[f"{module}.row_offsets"][1]
    pairs = found[f"{module}.col_vals"][1].view(np.uint32)
    values = (pairs >> 16).astype(np.uint16).view("<f2").astype(np.float32)
    rows = np.repeat(np.arange(len(weights)), np.diff(offsets))
    assert offsets[0] == 0 and offsets[-1] == pairs.size, module
    places = rows * weights.shape[1] + (pairs & 0xFFFF)
    assert (np.diff(places) > 0).all(), f"{module}: single weights in order, each once"
    weights.reshape(-1)[places] += values
    return weights


def untiled(tiles, extents):
    """[tile, output, input] to rows and columns."""
    rows, cols = extents
    return tiles.reshape(rows // 16, cols // 16, 16, 16).transpose(0, 2, 1, 3).reshape(rows, cols)


def spqr(found, module, config, floats):
    """s = u·(q − v), z = u'·(q' − v'), w = s·(q − z), each product of two numbers of F16 exact, then single weights."""
    codes, numbers, extents = spqr_fields(found, module)
    unit, zero_unit, zero, zero_zero = numbers.astype(np.float32).T[:, :, None]
    scale = unit * codes[:, :, 0] - unit * zero
    zero = zero_unit * codes[:, :, 1] - zero_unit * zero_zero
    tiles = scale[:, :, None] * (codes[:, :, 2:] - zero[:, :, None])
    return spqr_add(found, module, np.ascontiguousarray(untiled(tiles, extents)))


def spqr_in_halves(found, module):
    """The same as `dequantize_compressed` of spqr_quant 0.2.0 computes it: every step in F16, then F16 at the end."""
    codes, numbers, extents = spqr_fields(found, module)
    unit, zero_unit, zero, zero_zero = numbers.T[:, :, None]
    codes = codes.astype(np.float16)
    scale = unit * (codes[:, :, 0] - zero)
    zero = zero_unit * (codes[:, :, 1] - zero_zero)
    tiles = scale[:, :, None] * (codes[:, :, 2:] - zero[:, :, None])
    weights = np.ascontiguousarray(untiled(tiles, extents)).astype(np.float32)
    return spqr_add(found, module, weights).astype(np.float16)


PARTS = {
    "mlx": (mlx_modules, mlx, ["weight", "scales", "biases"]),
    "gptq": (gptq_modules, gptq, ["qweight", "qzeros", "scales", "g_idx"]),
    "auto-round": (auto_round_modules, auto_round, ["qweight", "qzeros", "scales"]),
    "awq": (awq_modules, awq, ["qweight", "qzeros", "scales"]),
    "aqlm": (aqlm_modules, aqlm, ["codes", "codebooks", "scales"]),
    "spqr": (spqr_modules, spqr, ["dense_weights", "row_offsets", "col_vals", "in_perm"]),
}
