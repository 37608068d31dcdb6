"""SpQR folders: unpacked by numpy, after a calibration of its own."""

import json
import os
import subprocess

import numpy as np

import packed
from plans import EVERY, SAMPLE, Variant, export, project

PLANS = {
    "SpQR": {},
    "SpQR without single weights": {"share": 0.0},
}


def exports(binary, work):
    """The folders of the plans above, each with the same written by `convert` as a dense checkpoint."""
    home = {**os.environ, "LAPIDARY_HOME": str(work / "small-groups")}
    command = [binary, "calibrate", SAMPLE, "--text", SAMPLE / "heldout_oz.txt", "--tokens", "1024"]
    subprocess.run(command, capture_output=True, check=True, env=home)
    for name, parameters in PLANS.items():
        variant = Variant(name, "spqr", project("spqr", {EVERY: ("spqr", parameters)}))
        out = export(binary, variant, work, home)
        planned = export(binary, variant.dense(), work, home)
        held = work / f"{out.name}-held"
        subprocess.run([binary, "convert", out, "--target", "dense", "--out", held], capture_output=True, check=True)
        yield name, out, held, planned


def check(checks, binary, work, tensors, floats, bf16):
    """What numpy unpacks is what is converted, to the bit, and what was planned, within F16 of the numbers of tiles."""
    for name, out, held, planned in exports(binary, work):
        config = json.loads((out / "config.json").read_text())["quantization_config"]
        found, dense, wanted = tensors(out), tensors(held), tensors(planned)
        modules = packed.spqr_modules(found, config)
        wrong, off, halves = [], 0.0, 0.0
        for module in modules:
            weights = packed.spqr(found, module, config, floats)
            if not np.array_equal(bf16(weights), dense[f"{module}.weight"][1]):
                wrong.append(module)
            norm = np.linalg.norm(weights)
            off = max(off, np.linalg.norm(weights - floats(wanted[f"{module}.weight"])) / norm)
            half = packed.spqr_in_halves(found, module).astype(np.float32)
            halves = max(halves, np.linalg.norm(weights - half) / norm)
        checks.check(modules and not wrong, f"{name}: {len(modules)} layers unpack to our decoded values (not: {wrong[:3]})")
        checks.check(off < 2e-3, f"{name}: they are within {off:.1e} of what was planned, both rounded")
        checks.check(halves < 2e-3, f"{name}: in half precision, as the kernels compute, they are within {halves:.1e}")
        names = {f"{module}.{suffix}" for module in modules for suffix in packed.PARTS["spqr"][2]}
        others = {tensor for tensor in dense if tensor.removesuffix(".weight") not in modules}
        same = all(np.array_equal(found[other][1], dense[other][1]) for other in others)
        checks.check(set(found) == names | others and same, f"{name}: all {len(others)} other tensors are the source's, none too many")
