"""What both interop scripts share: the projects and plans they try, exporting them, counting checks."""

import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE = REPOSITORY / "assets" / "sample-books-6m"

EVERY = "model.layers.*_proj.weight"
HEAD = "lm_head.weight"

# Name, target, and for each pattern the parameters of its round-to-nearest step, or a method and its parameters.
PLANS = [
    (
        "asymmetric 4 bits in groups of 64, packed",
        "compressed-tensors",
        {EVERY: {"bits": 4, "group_size": 64, "symmetry": "asymmetric", "clipping": "mse"}},
    ),
    (
        "8 bits a channel with the head, packed",
        "compressed-tensors",
        {EVERY: {"bits": 8, "granularity": "channel"}, HEAD: {"bits": 8, "granularity": "channel"}},
    ),
    (
        "asymmetric 8 bits a channel, packed",
        "compressed-tensors",
        {EVERY: {"bits": 8, "granularity": "channel", "symmetry": "asymmetric"}},
    ),
    (
        "2 bits in groups of 16, packed",
        "compressed-tensors",
        {EVERY: {"bits": 2, "group_size": 16, "clipping": "mse"}},
    ),
    (
        "restricted 4 bits for the whole tensor, packed",
        "compressed-tensors",
        {EVERY: {"bits": 4, "granularity": "tensor", "symmetry": "symmetric-restricted", "clipping": "mse"}},
    ),
    (
        "asymmetric 4 bits for the whole tensor, packed",
        "compressed-tensors",
        {EVERY: {"bits": 4, "granularity": "tensor", "symmetry": "asymmetric", "clipping": "mse"}},
    ),
    ("floats of 8 bits a channel", "compressed-tensors", {EVERY: ("fp8", {"granularity": "channel"})}),
    ("floats of 8 bits in squares of 128", "compressed-tensors", {EVERY: ("fp8", {"granularity": "square"})}),
    ("nvfp4 floats", "compressed-tensors", {EVERY: ("microscaling", {"format": "nvfp4"})}),
    ("mxfp4 floats", "compressed-tensors", {EVERY: ("microscaling", {"format": "mxfp4"})}),
    ("mxfp8 floats", "compressed-tensors", {EVERY: ("microscaling", {"format": "mxfp8"})}),
    (
        "floats of 8 bits, nvfp4 floats and 4-bit integers in one model",
        "compressed-tensors",
        {
            EVERY: ("fp8", {"granularity": "channel"}),
            "*.mlp.up_proj.weight": ("microscaling", {"format": "nvfp4"}),
            "*.mlp.gate_proj.weight": ("microscaling", {"format": "nvfp4"}),
            "*.down_proj.weight": {"bits": 4, "group_size": 64},
        },
    ),
    (
        "6 bits in groups of 32, 3, 5 and 7 bits for some, packed for 0.18",
        "compressed-tensors-0.18",
        {
            EVERY: {"bits": 6, "group_size": 32},
            "*.o_proj.weight": {"bits": 7, "granularity": "channel"},
            "*.mlp.*_proj.weight": {"bits": 5, "group_size": 64},
            "*.down_proj.weight": {"bits": 3, "group_size": 32},
        },
    ),
    (
        "asymmetric 3 bits in groups of 32, packed for 0.18",
        "compressed-tensors-0.18",
        {EVERY: {"bits": 3, "group_size": 32, "symmetry": "asymmetric"}},
    ),
    (
        "asymmetric 3 bits in groups of 32, one byte each",
        "compressed-tensors-int",
        {EVERY: {"bits": 3, "group_size": 32, "symmetry": "asymmetric"}},
    ),
    (
        "8 bits for the whole tensor, one byte each",
        "compressed-tensors-int",
        {EVERY: {"bits": 8, "granularity": "tensor"}},
    ),
    (
        "4 bits in groups of 64 with 6 and 8 bits for some and the embedding, MLX",
        "mlx",
        {
            EVERY: {"bits": 4, "group_size": 64},
            "*.v_proj.weight": {"bits": 6, "group_size": 32},
            "*.down_proj.weight": {"bits": 3, "group_size": 128},
            "model.embed_tokens.weight": {"bits": 8, "group_size": 32},
            HEAD: {"bits": 5, "group_size": 64},
        },
    ),
    ("offsets of half-quadratic quantisation at 2 bits, MLX", "mlx", {EVERY: ("hqq", {"bits": 2})}),
    ("microscaling floats, MLX", "mlx", {EVERY: ("microscaling", {"format": "mxfp4"})}),
    (
        "4 bits in groups of 128, 8 bits a channel for down, GPTQ",
        "gptq",
        {EVERY: {"bits": 4, "group_size": 128}, "*.down_proj.weight": {"bits": 8, "granularity": "channel"}},
    ),
    ("3 bits in groups of 32, GPTQ", "gptq", {EVERY: {"bits": 3, "group_size": 32}}),
    (
        "asymmetric 4 bits, 2 for up and gate, GPTQ v2",
        "gptq-v2",
        {
            EVERY: {"bits": 4, "group_size": 64, "symmetry": "asymmetric"},
            "*.mlp.up_proj.weight": {"bits": 2, "group_size": 32, "symmetry": "asymmetric"},
            "*.mlp.gate_proj.weight": {"bits": 2, "group_size": 32, "symmetry": "asymmetric"},
        },
    ),
    (
        "4 bits in groups of 64, 8 and 3 bits for some, AutoRound",
        "auto-round",
        {
            EVERY: {"bits": 4, "group_size": 64},
            "*.down_proj.weight": {"bits": 8, "granularity": "channel"},
            "*.o_proj.weight": {"bits": 3, "group_size": 32},
        },
    ),
    (
        "asymmetric 4 bits in groups of 64, AWQ",
        "awq",
        {EVERY: {"bits": 4, "group_size": 64, "symmetry": "asymmetric", "clipping": "mse"}},
    ),
    (
        # Two blocks are enough of what takes minutes.
        "two codebooks of 8 bits for 8 inputs of two blocks, AQLM",
        "aqlm",
        {
            pattern: ("aqlm", {"codebooks": 2, "code_bits": 8, "run": 8, "nearest": "weights", "rounds": 1, "beam": 2})
            for pattern in ["model.layers.0.*_proj.weight", "model.layers.3.*_proj.weight"]
        },
    ),
    (
        "a codebook of 10 bits for 8 inputs of up and gate, AQLM",
        "aqlm",
        {
            pattern: ("aqlm", {"codebooks": 1, "code_bits": 10, "run": 8, "nearest": "weights", "rounds": 1, "beam": 1})
            for pattern in ["*.mlp.up_proj.weight", "*.mlp.gate_proj.weight"]
        },
    ),
]


@dataclass
class Variant:
    """A plan for a target, as the text of a project."""

    name: str
    target: str
    text: str

    def dense(self):
        """The same plan, written in full."""
        text = re.sub(r'target: "[^"]*"', 'target: "dense"', self.text)
        return replace(self, name=f"{self.name}, dense", target="dense", text=text)


def ron(value):
    return f'"{value}"' if isinstance(value, str) else str(value)


def project(target, rules):
    lines = []
    # The first pattern that matches decides; those for single roles come after the one for all.
    for pattern, step in reversed(rules.items()):
        steps = []
        for step in step if isinstance(step, list) else [step]:
            method, parameters = step if isinstance(step, tuple) else ("round-to-nearest", step)
            pairs = ", ".join(f'"{name}": {ron(value)}' for name, value in parameters.items())
            steps.append(f'(method: "{method}", parameters: {{{pairs}}})')
        lines.append(f'"{pattern}": (steps: [{", ".join(steps)}]),')
    return f'(version: 1, checkpoint: "{SAMPLE}", target: "{target}", plan: {{\n' + "\n".join(lines) + "\n})\n"


def variants():
    """The repository's projects, with the sample's path made absolute, and the plans above."""
    found = []
    for path in sorted((REPOSITORY / "projects").glob("*.ron")):
        text = path.read_text()
        (checkpoint,) = re.findall(r'checkpoint: "([^"]*)"', text)
        (target,) = re.findall(r'target: "([^"]*)"', text)
        text = text.replace(f'"{checkpoint}"', f'"{(path.parent / checkpoint).resolve()}"')
        found.append(Variant(path.stem, target, text))
    assert found, "no projects"
    return found + [Variant(name, target, project(target, rules)) for name, target, rules in PLANS]


def export(binary, variant, work, environment=None):
    """Runs the plan in a folder of its own; returns the exported folder."""
    stem = re.sub(r"[^a-z0-9]+", "-", variant.name)
    path = work / f"{stem}.ron"
    path.write_text(variant.text)
    out = work / stem
    done = subprocess.run([binary, "compress", path, "--out", out], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{variant.name}: exit {done.returncode}: {done.stderr.strip()}")
    return out


class Checks:
    """Prints each check and counts them."""

    def __init__(self):
        self.passed = self.failed = self.left = 0

    def check(self, holds, what):
        self.passed += bool(holds)
        self.failed += not holds
        print(("ok      " if holds else "FAILED  ") + what, flush=True)

    def not_checked(self, what):
        """What could not be tried here, with the reason: neither passed nor failed."""
        self.left += 1
        print("not checked: " + what, flush=True)

    def finish(self):
        """The last line, and the exit code."""
        print(f"{self.passed} passed, {self.failed} failed, {self.left} not checked")
        return 1 if self.failed or not self.passed else 0
