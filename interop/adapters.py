"""Corrections in an adapter beside a checkpoint: safetensors and numpy read base and factors, and multiply as PEFT is told to."""

import json
import os
import re
import subprocess

import numpy as np

from plans import SAMPLE, Variant, export, project

FOUR = {"bits": 4, "group_size": 64}
ASYMMETRIC = {**FOUR, "symmetry": "asymmetric"}


def rules(base):
    """Two ranks over one base."""
    return {
        "*.o_proj.weight": [("round-to-nearest", base), ("eora", {"rank": 8})],
        "*.down_proj.weight": [("round-to-nearest", base), ("eora", {"rank": 3})],
    }


VARIANTS = [
    Variant(f"corrections in an adapter, {target}", target, project(target, rules(base)))
    for target, base in [("compressed-tensors", FOUR), ("compressed-tensors-int", ASYMMETRIC), ("gptq", FOUR), ("awq", ASYMMETRIC)]
]


def calibrated(binary, work):
    """The environment of a home with a calibration of the sample."""
    home = {**os.environ, "LAPIDARY_HOME": str(work / "adapters")}
    command = [binary, "calibrate", SAMPLE, "--text", SAMPLE / "heldout_oz.txt", "--tokens", "1024"]
    subprocess.run(command, capture_output=True, check=True, env=home)
    return home


def scaling(config, module):
    """Rank and factor as PEFT finds them: the first key of a pattern that matches an end of the name, else the plain setting."""

    def of(pattern, plain):
        for key, value in config[pattern].items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return config[plain]

    rank = of("rank_pattern", "r")
    return rank, of("alpha_pattern", "lora_alpha") / rank


def corrected(base, factors, module, config, floats):
    """base + B·A, in the order of the rank."""
    down, up = (floats(factors.pop(f"base_model.model.{module}.lora_{side}.weight")).astype(np.float64) for side in "AB")
    rank, scale = scaling(config, module)
    assert down.shape == (rank, base.shape[1]) and up.shape == (base.shape[0], rank) and scale == 1, module
    product = np.zeros(base.shape)
    for left, right in zip(up.T, down):
        product += np.outer(left, right)
    return base.astype(np.float32) + product.astype(np.float32)


def check(checks, binary, work, reader):
    home = calibrated(binary, work)
    for variant in VARIANTS:
        out = export(binary, variant, work, home)
        twin = export(binary, variant.dense(), work, home)
        reader.check_report(checks, variant, out)
        factors, dense = reader.tensors(out / "adapter"), reader.tensors(twin)
        config = json.loads((out / "adapter" / "adapter_config.json").read_text())
        wrong, modules = [], 0
        for module, base in reader.quantised(out):
            dtype, patterns = dense[f"{module}.weight"]
            weights = corrected(base, factors, module, config, reader.floats)
            modules += 1
            if dtype != "BF16" or not np.array_equal(reader.bf16(weights), patterns):
                wrong.append(module)
        checks.check(
            modules == 12 and not wrong and not factors,
            f"{variant.name}: base and factors of {modules} layers add up to our decoded values (not: {wrong[:3]})",
        )
        proved = subprocess.run([binary, "verify", out, "--source", SAMPLE], capture_output=True, text=True, env=home)
        checks.check(proved.returncode == 0, f"{variant.name}: the output is proved again")
