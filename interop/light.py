"""Light interop: what Lapidary writes, read by the Python safetensors package and unpacked by numpy.

    python interop/light.py target/debug/lapidary

Needs numpy, safetensors and gguf. Each plan is exported for its target and once more dense; the codes, scales and zero
points of the first, put together as config.json says, must be the weights of the second to the bit.
GGUF files are read by gguf-py (`gguf_files.py`).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors

import adapters
import archives
import gguf_files
import packed
import removing
import small_groups
from plans import SAMPLE, Checks, export, variants

DTYPES = {"F8_E4M3": "u1", "BF16": "<u2", "F16": "<f2", "F32": "<f4", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1", "U32": "<u4"}


def tensors(folder):
    """Every tensor of a folder as (dtype, array); BF16 as its 16-bit patterns."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "np") as opened:
            assert opened.metadata()["format"] == "pt", path
            names = set(opened.keys())
        for name, tensor in safetensors.deserialize(path.read_bytes()):
            assert name in names and name not in found, name
            array = np.frombuffer(bytes(tensor["data"]), DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            found[name] = (tensor["dtype"], array)
    assert found, f"{folder} holds no tensors"
    return found


def floats(tensor):
    dtype, array = tensor
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def bf16(values):
    """The nearest BF16 patterns, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def unpack(words, bits, count):
    """Signed integers of rows of a little-endian bit stream: `count` of `bits` bits, stored with 2^(bits-1) added."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    codes = stream[:, : count * bits].reshape(len(words), count, bits)
    weights = 1 << np.arange(bits)
    return (codes * weights).sum(-1).astype(np.int64) - (1 << (bits - 1))


def decode(found, module, group):
    """The f32 weights of a quantised module, from its tensors and its group of config.json."""
    args = group["weights"]
    bits = args["num_bits"]
    if args["type"] == "float":
        return decode_floats(found, module, args)
    scale = floats(found[f"{module}.weight_scale"])
    if group["format"] == "pack-quantized":
        rows, cols = found[f"{module}.weight_shape"][1]
        codes = unpack(found[f"{module}.weight_packed"][1], bits, cols)
    else:
        codes = found[f"{module}.weight"][1].astype(np.int64)
        rows, cols = codes.shape
    assert codes.shape == (rows, cols) and np.abs(codes).max() <= 1 << (bits - 1), module
    width = args["group_size"] if args["strategy"] == "group" else cols
    assert scale.shape == (rows, -(-cols // width)), module
    zero = np.zeros(scale.shape, np.int64)
    if not args["symmetric"]:
        stored = found[f"{module}.weight_zero_point"][1]
        zero = unpack(stored.T, bits, rows).T if group["format"] == "pack-quantized" else stored.astype(np.int64)
    spread = [np.repeat(array, width, axis=1)[:, :cols] for array in (scale, zero)]
    return spread[0] * (codes - spread[1]).astype(np.float32)


def decode_floats(found, module, args):
    """The f32 weights of a module of small floats: level · (scale / global)."""
    if args["num_bits"] == 4:
        kind, pairs = found[f"{module}.weight_packed"]
        assert kind == "U8", module
        codes = np.stack([pairs & 15, pairs >> 4], -1).reshape(len(pairs), -1)
        levels = archives.LEVELS["e2m1"][codes]
    else:
        kind, codes = found[f"{module}.weight"]
        assert kind == "F8_E4M3", module
        levels = archives.LEVELS["e4m3"][codes]
    kind, scale = found[f"{module}.weight_scale"]
    scale = archives.numbers(("F8_E8M0" if kind == "U8" else kind, scale))
    if args["strategy"] == "tensor_group":
        kind, divisor = found[f"{module}.weight_global_scale"]
        assert kind == "F32" and divisor.shape == (1,), module
        scale = scale / divisor
    if args["strategy"] == "block":
        assert args["block_structure"] == [128, 128], module
        scale = np.repeat(scale, 128, axis=0)[: len(levels)]
    width = {"channel": levels.shape[1], "block": 128}.get(args["strategy"], args["group_size"])
    assert scale.shape == (len(levels), -(-levels.shape[1] // width)), module
    return levels * np.repeat(scale, width, axis=1)[:, : levels.shape[1]]


def parts(module, group):
    if group["weights"]["type"] == "float":
        codes = {"weight_packed"} if group["weights"]["num_bits"] == 4 else {"weight"}
        divisor = {"weight_global_scale"} if group["weights"]["strategy"] == "tensor_group" else set()
        return {f"{module}.{suffix}" for suffix in {"weight_scale"} | codes | divisor}
    suffixes = {"weight_scale"} | ({"weight_packed", "weight_shape"} if group["format"] == "pack-quantized" else {"weight"})
    suffixes |= set() if group["weights"]["symmetric"] else {"weight_zero_point"}
    return {f"{module}.{suffix}" for suffix in suffixes}


def check_quantised(checks, variant, out, twin):
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    found, dense = tensors(out), tensors(twin)
    wrong, modules, expected = [], set(), set()
    for group in config["config_groups"].values():
        for module in group["targets"]:
            modules.add(f"{module}.weight")
            expected |= parts(module, group)
            dtype, patterns = dense[f"{module}.weight"]
            if dtype != "BF16" or not np.array_equal(bf16(decode(found, module, group)), patterns):
                wrong.append(module)
    checks.check(modules and not wrong, f"{variant.name}: {len(modules)} layers unpack to our decoded values (not: {wrong[:3]})")
    copied = [name for name in dense if name not in modules]
    same = all(found[name][0] == dense[name][0] and np.array_equal(found[name][1], dense[name][1]) for name in copied)
    checks.check(same, f"{variant.name}: the other {len(copied)} tensors are the same in both exports")
    checks.check(set(found) == expected | set(copied), f"{variant.name}: no tensor is missing, none too many")
    linear = {name for name, (_, array) in dense.items() if array.ndim == 2 and "embed" not in name}
    ignored = {f"{module}.weight" for module in config["ignore"]}
    checks.check(
        ignored == linear - modules, f"{variant.name}: the linear layers left alone are ignored ({sorted(config['ignore'])})"
    )


def check_packed(checks, variant, out, twin):
    """MLX, GPTQ and AWQ."""
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    modules_of, unpack_one, suffixes = packed.PARTS[config.get("quant_method", "mlx")]
    found, dense = tensors(out), tensors(twin)
    modules = modules_of(found, config)
    wrong = []
    for module in modules:
        dtype, patterns = dense[f"{module}.weight"]
        if dtype != "BF16" or not np.array_equal(bf16(unpack_one(found, module, config, floats)), patterns):
            wrong.append(module)
    checks.check(modules and not wrong, f"{variant.name}: {len(modules)} layers unpack to our decoded values (not: {wrong[:3]})")
    held = {f"{module}.{suffix}" for module in modules for suffix in suffixes}
    copied = [name for name in dense if name.removesuffix(".weight") not in modules]
    same = all(found[name][0] == dense[name][0] and np.array_equal(found[name][1], dense[name][1]) for name in copied)
    checks.check(same, f"{variant.name}: the other {len(copied)} tensors are the same in both exports")
    extra = set(found) - held - set(copied)
    missing = {name for name in held - set(found) if not name.endswith(".biases")}
    checks.check(not extra and not missing, f"{variant.name}: no tensor is missing, none too many")
    doubles = {"quantize_config.json": config} if config.get("quant_method") == "gptq" else {}
    doubles = {name: json.loads((out / name).read_text()) == value for name, value in doubles.items()}
    if "quant_method" not in config:
        doubles["quantization"] = json.loads((out / "config.json").read_text())["quantization"] == config
    checks.check(all(doubles.values()), f"{variant.name}: what is said twice is said alike ({', '.join(doubles)})")


def quantised(folder):
    """Every quantised module of a folder with its f32 weights."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    found = tensors(folder)
    if "config_groups" in config:
        for group in config["config_groups"].values():
            for module in group["targets"]:
                yield module, decode(found, module, group)
        return
    modules_of, unpack_one, _ = packed.PARTS[config["quant_method"]]
    for module in modules_of(found, config):
        yield module, unpack_one(found, module, config, floats)


def check_sparse(checks, variant, out):
    """The sparse project: 2 of 4 in the feed-forward layers, 30 % of the attention weights."""
    source, found = tensors(SAMPLE), tensors(out)
    pairs, shares, unlike = True, [], []
    for name, tensor in found.items():
        values, before = floats(tensor), floats(source[name])
        if ".mlp." in name:
            runs = values.reshape(len(values), -1, 4)
            pairs &= bool(((runs != 0).sum(-1) <= 2).all())
            kept = np.sort(np.argsort(-np.abs(before.reshape(runs.shape)), axis=-1, kind="stable")[..., :2], -1)
            mask = np.zeros(runs.shape, bool)
            np.put_along_axis(mask, kept, True, -1)
            pairs &= bool((runs[~mask] == 0).all())
        elif "self_attn" in name:
            dropped = values == 0
            shares.append(np.mean(dropped) - np.mean(before == 0))
            unlike += [] if np.array_equal(values[~dropped], before[~dropped]) else [name]
        elif not np.array_equal(values, before):
            unlike.append(name)
    checks.check(pairs, f"{variant.name}: of every 4 feed-forward inputs the 2 largest stay")
    checks.check(max(abs(s - 0.3) for s in shares) < 1e-3, f"{variant.name}: 30 % of each attention layer are dropped")
    checks.check(not unlike, f"{variant.name}: what stays is as it was (not: {unlike[:3]})")


def check_report(checks, variant, out):
    report = json.loads((out / "lapidary-report.json").read_text())
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith("lapidary-report.")]
    on_disk = {path.relative_to(out).as_posix(): path.stat().st_size for path in files}
    listed = {file["name"]: file["bytes"] for file in report["files"]}
    total = report["totals"]["total_bytes"]
    checks.check(
        listed == on_disk and total == sum(on_disk.values()), f"{variant.name}: the report's {total} bytes are those on disk"
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary", type=Path)
    binary = arguments.parse_args().binary.resolve()
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}, safetensors {safetensors.__version__}")
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="lapidary-interop-") as work:
        for variant in variants():
            out = export(binary, variant, Path(work))
            check_report(checks, variant, out)
            if variant.target == "dense":
                check_sparse(checks, variant, out)
            else:
                check = check_quantised if variant.target.startswith("compressed-tensors") else check_packed
                check(checks, variant, out, export(binary, variant.dense(), Path(work)))
        gguf_files.check(checks, binary, Path(work))
        small_groups.check(checks, binary, Path(work), tensors, floats, bf16)
        archives.check(checks, binary, Path(work), bf16)
        adapters.check(checks, binary, Path(work), sys.modules[__name__])
        removing.light(checks, binary, Path(work) / "removing")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
