"""Full interop: exports of the sample load in transformers and give the logits of their dense twin.

    python interop/full.py target/release/lapidary

Needs torch, transformers, compressed-tensors, safetensors and tokenizers; peft for corrections in an adapter. Each plan is exported twice, once for a
compressed-tensors target and once dense; both are loaded by AutoModelForCausalLM in f32 and run on the held-out
text. Logits may differ by at most 1e-3 of the largest. Our own forward pass of each export must score the same text alike. The compressed one is loaded in both ways transformers has,
where its version can (see `ways`). GPTQ, AutoRound, AWQ and MLX folders are loaded by their own packages where those are installed, and
reported as not checked where not. SpQR folders are held against the host code of spqr_quant (`spqr_reference.py`).
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

# AQLM's kernel for processors adds to one output from several threads at once, and then gives now this and now that.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import compressed_tensors
import numpy
import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import CompressedTensorsConfig

if importlib.util.find_spec("peft") is not None:
    from peft import PeftModel

import packed
import removing
import small_groups
import spqr_reference
from light import floats, tensors
from plans import EVERY, SAMPLE, Checks, Variant, export, project, variants

TOLERANCE = 1e-3
UNROUNDED = 3e-3
# Of nats per token, ours against transformers': of weights in f32, and where it rounds them to bf16 on loading.
NATS_TOLERANCE = {False: 1e-5, True: 5e-4}
WINDOWS, WINDOW = 4, 256


def logits(folder, ids, dequantize=False, dtype="auto"):
    """The model's logits in f32, and its weights.

    Loaded in its own type, as users load it, so that decompressed weights are rounded to it as those of the dense
    export are; a first pass decompresses them, the second computes in f32.
    """
    options = {"dtype": dtype}
    if dequantize:
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        model(ids[:1])
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        return model(ids).logits, dict(model.named_parameters())


def loss(scores, ids):
    """Mean nats per token, the first of each window unscored."""
    flat = scores[:, :-1].reshape(-1, scores.shape[-1])
    return torch.nn.functional.cross_entropy(flat, ids[:, 1:].reshape(-1)).item()


def check_own_pass(checks, name, binary, folder, wanted, rounded=False):
    """`lapidary evaluate` gives the nats per token that transformers gives on the same windows."""
    command = [binary, "evaluate", folder, "--text", SAMPLE / "heldout_oz.txt", "--json"]
    command += ["--tokens", str(WINDOWS * WINDOW), "--sequence-length", str(WINDOW)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    nats, tokens = found["nats_per_token"], found["tokens"]
    checks.check(
        abs(nats - wanted) <= NATS_TOLERANCE[rounded] and tokens == WINDOWS * (WINDOW - 1),
        f"{name}: our own forward pass has {nats:.6f} nats per token on {tokens} tokens, transformers {wanted:.6f}",
    )


def config_groups(folder):
    config = json.loads((folder / "config.json").read_text())
    return list(config["quantization_config"]["config_groups"].values())


def ways(groups):
    """Whether to load with dequantize=True, for each way that can work.

    As it is, modules are decompressed by their own scheme in the first pass; compressed-tensors 0.20 then expects
    zero points of packed layers unpacked, so that no asymmetric packed checkpoint loads, whoever wrote it. With
    dequantize=True all layers are decompressed on loading; transformers 5.23 then knows the first scheme only.
    """
    packed_zeros = any(g["format"] == "pack-quantized" and not g["weights"]["symmetric"] for g in groups)
    found = ([] if packed_zeros else [False]) + ([True] if len(groups) == 1 else [])
    assert found, "no way to load it"
    return found


def check_weights(checks, variant, modules, weights, original):
    """Quantised modules differ from the source, everything else is the source's."""
    same = [m for m in modules if torch.equal(weights[f"{m}.weight"].float(), original[f"{m}.weight"])]
    checks.check(
        bool(modules) and not same,
        f"{variant.name}: all {len(modules)} quantised layers changed (unchanged: {same[:3]})",
    )
    others = [
        name
        for name, weight in original.items()
        if name.removesuffix(".weight") not in modules and not torch.equal(weights[name].float(), weight)
    ]
    checks.check(not others, f"{variant.name}: every other tensor is the source's (changed: {others[:3]})")


# What transformers itself needs to load a format, beside what this script needs.
NEEDED = {"gptq": ["optimum", "gptqmodel"], "gptq-v2": ["optimum", "gptqmodel"], "auto-round": ["auto_round"], "awq": ["gptqmodel"], "mlx": ["mlx_lm"], "aqlm": ["aqlm", "accelerate", "numba"]}


def check_other(checks, variant, binary, work, ids):
    """A format that compressed-tensors does not know: our own forward pass of it gives what transformers gives for the
    dense twin; its own loader is tried where it is installed."""
    out = export(binary, variant, work)
    twin = export(binary, variant.dense(), work)
    wanted, _ = logits(twin, ids)
    # The dense twin is rounded to bf16, what is packed is not.
    check_own_pass(checks, f"{variant.name}, against its dense twin", binary, out, loss(wanted, ids), True)
    missing = [name for name in NEEDED[variant.target] if importlib.util.find_spec(name) is None]
    if missing:
        checks.not_checked(f"{variant.name}: loading in its own runtime, as {', '.join(missing)} is not installed")
    elif variant.target == "mlx":
        mlx_logits(checks, variant, binary, out, ids)
    elif variant.target == "aqlm":
        aqlm_logits(checks, variant, binary, out, ids)
    else:
        ours, _ = logits(out, ids)
        off = ((ours - wanted).abs().max() / wanted.abs().max()).item()
        # Codes times scales are not rounded to bf16, as the weights of the dense twin are.
        checks.check(off <= UNROUNDED, f"{variant.name}: logits differ by {off:.2e} of the largest")


def with_unpacked(out, method):
    """The sample in f32 with the layers that numpy unpacks of a folder, and the modules they are in."""
    found = tensors(out)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    modules_of, unpack_one, _ = packed.PARTS[method]
    modules = modules_of(found, config)
    model = AutoModelForCausalLM.from_pretrained(SAMPLE, dtype=torch.float32).eval()
    for module in modules:
        weights = torch.from_numpy(numpy.array(unpack_one(found, module, config, floats)))
        model.get_submodule(module).weight.data = weights
    return model, modules


def aqlm_logits(checks, variant, binary, out, ids):
    """transformers runs AQLM's layers with the kernels of the package `aqlm`, in f32 on a processor."""
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    twin, modules = with_unpacked(out, "aqlm")
    kinds = {type(model.get_submodule(module)).__module__ for module in modules}
    checks.check(kinds == {"aqlm.inference"}, f"{variant.name}: {len(modules)} layers are loaded as AQLM's own ({sorted(kinds)})")
    with torch.no_grad():
        ours, wanted = model(ids).logits, twin(ids).logits
    off = ((ours - wanted).abs().max() / wanted.abs().max()).item()
    checks.check(off <= TOLERANCE, f"{variant.name}: logits differ by {off:.2e} of the largest from those of the weights that numpy unpacks")
    check_own_pass(checks, f"{variant.name}, run by aqlm", binary, out, loss(ours, ids))


def check_small_groups(checks, binary, work, ids):
    """SpQR: its kernels need a graphics card, its packing and dequantising do not."""
    for name, out, _, _ in small_groups.exports(binary, work):
        model, modules = with_unpacked(out, "spqr")
        with torch.no_grad():
            scores = model(ids).logits
        check_own_pass(checks, f"{name}, against the weights that numpy unpacks", binary, out, loss(scores, ids))
        spqr_reference.check(checks, name, work / f"{out.name}-reference", tensors(out), modules, packed)
        checks.not_checked(f"{name}: running in transformers, as spqr_quant has kernels for graphics cards alone")


def mlx_logits(checks, variant, binary, out, ids):
    """mlx-lm runs its layers on a processor; scales and offsets in f32, as bf16 rounds every step."""
    import mlx.core
    import mlx_lm

    model, _ = mlx_lm.load(str(out))
    model.set_dtype(mlx.core.float32)
    ours = torch.tensor(numpy.array(model(mlx.core.array(ids.numpy()))))
    twin, modules = with_unpacked(out, "mlx")
    with torch.no_grad():
        wanted = twin(ids).logits
    off = ((ours - wanted).abs().max() / wanted.abs().max()).item()
    checks.check(
        off <= TOLERANCE,
        f"{variant.name}: mlx-lm's logits differ by {off:.2e} of the largest from those of the weights that numpy unpacks of {len(modules)} layers",
    )
    check_own_pass(checks, f"{variant.name}, run by mlx-lm", binary, out, loss(ours, ids))


def check_variant(checks, variant, binary, work, ids, original):
    out = export(binary, variant, work)
    wanted, _ = logits(export(binary, variant.dense(), work), ids)
    groups = config_groups(out)
    modules = [module for group in groups for module in group["targets"]]
    for dequantize in ways(groups):
        ours, weights = logits(out, ids, dequantize)
        off = ((ours - wanted).abs().max() / wanted.abs().max()).item()
        way = "dequantised on loading" if dequantize else "loaded as it is"
        checks.check(
            off <= TOLERANCE,
            f"{variant.name}, {way}: logits differ by {off:.2e} of the largest; "
            f"{loss(ours, ids):.6f}, dense {loss(wanted, ids):.6f} nats per token",
        )
        check_weights(checks, variant, modules, weights, original)
        if any(group["weights"]["type"] == "float" for group in groups):
            # Small floats are decompressed to bf16 whatever is asked for, so that the model does not run in f32.
            check_own_pass(checks, f"{variant.name}, {way}", binary, out, loss(ours, ids), True)
            continue
        # Loaded as it is in f32, decompressed weights are not rounded to bf16; dequantised on loading, they are.
        unrounded, _ = logits(out, ids, dequantize, torch.float32)
        check_own_pass(checks, f"{variant.name}, {way}", binary, out, loss(unrounded, ids), dequantize)


def check_beside(checks, binary, work, ids, original):
    """What a plan does beside matrices: norms and rows that take AWQ's scales, and biases that low rank about the mean needs."""
    home = {**os.environ, "LAPIDARY_HOME": str(work / "home")}
    command = [binary, "calibrate", SAMPLE, "--text", SAMPLE / "heldout_oz.txt", "--tokens", "4096"]
    subprocess.run(command, capture_output=True, check=True, env=home)
    awq = ("awq", {"bits": 4, "group_size": 64, "scales": "folded"})
    folded = Variant("AWQ folded into norms and rows", "compressed-tensors", project("compressed-tensors", {EVERY: awq}))
    out = export(binary, folded, work, home)
    wanted, _ = logits(export(binary, folded.dense(), work, home), ids)
    ours, weights = logits(out, ids)
    off = ((ours - wanted).abs().max() / wanted.abs().max()).item()
    checks.check(off <= TOLERANCE, f"{folded.name}: logits differ by {off:.2e} of the largest from those of the dense twin")
    norms = [name for name in original if "layernorm" in name and not torch.equal(weights[name], original[name].float())]
    checks.check(len(norms) == 12, f"{folded.name}: {len(norms)} norms changed")
    layers = [name for name in original if "_proj.weight" in name]
    carried = scaled_weights(out, original, weights)
    unscaled = max(relative(weights[n], original[n].float()) for n in layers)
    scaled = max(relative(weights[n], carried(n)) for n in layers)
    checks.check(scaled < 0.15, f"{folded.name}: layers over what norms and rows were divided by are within {scaled:.3f} ({unscaled:.3f} without)")
    unrounded, _ = logits(out, ids, False, torch.float32)
    check_own_pass(checks, folded.name, binary, out, loss(unrounded, ids))
    low_rank = ("low-rank", {"rank": 96, "nearest": "outputs", "centre": "bias"})
    centred = Variant("low rank about the mean", "dense", project("dense", {"*.o_proj.weight": low_rank, "*.down_proj.weight": low_rank}))
    out = export(binary, centred, work, home)
    scores, weights = logits(out, ids)
    biases = [name for name in weights if name.endswith("_proj.bias")]
    filled = [name for name in biases if weights[name].abs().max() > 0]
    checks.check(len(biases) == 42 and len(filled) == 12, f"{centred.name}: {len(biases)} biases are loaded, {len(filled)} of them not zero")
    check_own_pass(checks, centred.name, binary, out, loss(scores, ids))


def in_f32(work):
    """The sample with its weights in f32, so that nothing is rounded when layers are written in full."""
    folder = work / "sample-f32"
    shutil.copytree(SAMPLE, folder)
    for path in folder.glob("*.safetensors"):
        tensors = {name: tensor.float().contiguous() for name, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    return folder


def corrected_logits(folder, ids):
    """The logits in f32 of a base with the adapter that lies within it, and the factor and rank of each of its layers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        model(ids[:1])
        base = model(ids).logits.float()
        model = PeftModel.from_pretrained(model, folder / "adapter").eval()
        layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A") and hasattr(layer, "scaling")}
        found = {name: (layer.scaling["default"], layer.r["default"]) for name, layer in layers.items()}
        return base, model(ids).logits.float(), found


def check_adapter(checks, binary, work, ids):
    """Corrections of low rank: transformers loads the base, PEFT the adapter beside it; together they give the logits of the
    dense twin, whose layers are written in full, in f32, and our own pass of the folder the same nats per token."""
    if importlib.util.find_spec("peft") is None:
        checks.not_checked("corrections in an adapter, as peft is not installed")
        return
    home = {**os.environ, "LAPIDARY_HOME": str(work / "home")}
    source = in_f32(work)
    command = [binary, "calibrate", source, "--text", SAMPLE / "heldout_oz.txt", "--tokens", "4096"]
    subprocess.run(command, capture_output=True, check=True, env=home)
    for target, base in [
        ("compressed-tensors", ("gptq", {"bits": 4, "group_size": 64})),
        ("compressed-tensors-int", ("round-to-nearest", {"bits": 3, "group_size": 32, "symmetry": "asymmetric"})),
    ]:
        rules = {EVERY: [base, ("eora", {"rank": 16})], "*.mlp.*_proj.weight": [base, ("eora", {"rank": 5})]}
        text = project(target, rules).replace(str(SAMPLE), str(source))
        variant = Variant(f"{base[0]} with corrections, {target}", target, text)
        out = export(binary, variant, work, home)
        wanted, _ = logits(export(binary, variant.dense(), work, home), ids)
        alone, ours, layers = corrected_logits(out, ids)
        off, without = (((found - wanted).abs().max() / wanted.abs().max()).item() for found in (ours, alone))
        checks.check(
            off <= TOLERANCE,
            f"{variant.name}: logits with PEFT's adapter differ by {off:.2e} of the largest ({without:.2e} without it); "
            f"{loss(ours, ids):.6f}, dense {loss(wanted, ids):.6f} nats per token",
        )
        ranks = sorted({rank for _, rank in layers.values()})
        is_one = all(scale == 1.0 for scale, _ in layers.values())
        checks.check(len(layers) == 42 and is_one and ranks == [5, 16], f"{variant.name}: {len(layers)} layers of ranks {ranks}, each added as it is")
        check_own_pass(checks, variant.name, binary, out, loss(ours, ids))


def scaled_weights(out, original, weights):
    """What each layer stands for: the source times what its inputs are divided by, over what its rows are. Of a norm the
    output itself says that, of rows the report."""
    said = {tensor["name"]: tensor for tensor in json.loads((out / "lapidary-report.json").read_text())["tensors"]}
    config = json.loads((out / "config.json").read_text())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    divided = {name: torch.tensor([float(by) for by in of["rows_divided"].split()]) for name, of in said.items() if "rows_divided" in of}

    def carried(name):
        values, source = original[name].float(), said[name]["scaled_with"]
        by = divided.get(source)
        if by is None:
            by = original[source].float() / weights[source].float()
        elif "v_proj" in source:
            # Heads that share a head of values lie one after another.
            by = by.reshape(-1, head).repeat_interleave(values.shape[1] // len(by), 0).reshape(-1)
        return values * by / (divided[name][:, None] if name in divided else 1)

    return carried


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary", type=Path)
    binary = arguments.parse_args().binary.resolve()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*already has a `quantization_config` attribute.*")
    print(
        f"python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"compressed-tensors {compressed_tensors.__version__}, safetensors {safetensors.__version__}, "
        f"numpy {numpy.__version__}"
    )
    print(subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip())
    tokenizer = AutoTokenizer.from_pretrained(SAMPLE)
    text = (SAMPLE / "heldout_oz.txt").read_text()
    ids = tokenizer(text[: 20 * WINDOWS * WINDOW], return_tensors="pt").input_ids[0]
    ids = ids[: WINDOWS * WINDOW].reshape(WINDOWS, WINDOW)
    scores, original = logits(SAMPLE, ids)
    original = {name: weight.detach().clone() for name, weight in original.items()}
    print(f"{ids.numel()} tokens of the held-out text; loss of the original {loss(scores, ids):.6f} nats per token")
    checks = Checks()
    check_own_pass(checks, "the sample", binary, SAMPLE, loss(scores, ids))
    with tempfile.TemporaryDirectory(prefix="lapidary-interop-") as work:
        for variant in variants():
            if variant.target in NEEDED:
                check_other(checks, variant, binary, Path(work), ids)
            elif variant.target != "dense":
                check_variant(checks, variant, binary, Path(work), ids, original)
        check_small_groups(checks, binary, Path(work), ids)
        check_beside(checks, binary, Path(work), ids, original)
        check_adapter(checks, binary, Path(work), ids)
        removing.full(checks, binary, Path(work) / "removing", logits, check_own_pass, loss, ids)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
