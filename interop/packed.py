"""The layers of MLX, GPTQ, AutoRound and AWQ folders, unpacked by numpy as their config.json says."""

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


PARTS = {
    "mlx": (mlx_modules, mlx, ["weight", "scales", "biases"]),
    "gptq": (gptq_modules, gptq, ["qweight", "qzeros", "scales", "g_idx"]),
    "auto-round": (auto_round_modules, auto_round, ["qweight", "qzeros", "scales"]),
    "awq": (awq_modules, awq, ["qweight", "qzeros", "scales"]),
}
