"""Models of which blocks or experts were taken out: what is left is the source under new numbers, and runs like it.

`light` reads safetensors and GGUF files with the packages of those formats; `full` runs what was written in transformers, beside
the whole model with the blocks left out of its list and with routers that never choose the experts.
"""

import json
import re
import subprocess

import numpy as np

from plans import SAMPLE

NETWORKS = SAMPLE.parent.parent / "tests" / "golden" / "networks"
REMOVED = [1, 4]
KEPT = [0, 2, 3, 5]
# Mixtures, with the experts of each block that go.
MIXTURES = {"mixtral": {0: [1], 1: [2]}, "qwen3_moe": {0: [0, 3], 1: [1, 2]}}


def run(binary, *arguments):
    done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def without(binary, model, options, target, work):
    """The folder of an export of `model` without what the options name."""
    work.mkdir(parents=True, exist_ok=True)
    run(binary, "remove", model, *options, "--target", target, "--out", work / "less.ron")
    run(binary, "compress", work / "less.ron", "--out", work / "out")
    run(binary, "verify", work / "out", "--source", model)
    return work / "out"


def blocks_left(name):
    """The name of a tensor of the sample once the blocks are gone; none where it goes itself."""
    found = re.search(r"(layers|blk)\.(\d+)\.", name)
    if not found:
        return name
    block = int(found[2])
    return name.replace(found[0], f"{found[1]}.{KEPT.index(block)}.", 1) if block in KEPT else None


def renamed(tensors):
    return {new: value for name, value in tensors.items() if (new := blocks_left(name))}


def raw(path):
    """Type, shape and bytes of every tensor of a safetensors file, read by hand: it may hold BF16."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    at = lambda offsets: data[8 + length + offsets[0] : 8 + length + offsets[1]]
    return {name: (of["dtype"], of["shape"], at(of["data_offsets"])) for name, of in header.items()}


def light(checks, binary, work):
    import gguf

    options = ["--remove-blocks", ",".join(map(str, REMOVED))]
    out = without(binary, SAMPLE, options, "dense", work / "blocks")
    found, wanted = raw(out / "model.safetensors"), renamed(raw(SAMPLE / "model.safetensors"))
    checks.check(found == wanted, f"{len(found)} tensors without blocks {REMOVED} are those of the sample")
    config = json.loads((out / "config.json").read_text())
    before = json.loads((SAMPLE / "config.json").read_text())
    changed = {key for key in before if before[key] != config.get(key)}
    checks.check(changed <= {"num_hidden_layers", "layer_types"} and config["num_hidden_layers"] == 4, f"config.json says so in {sorted(changed)}")

    def tensors(folder):
        (path,) = folder.glob("*.gguf")
        reader = gguf.GGUFReader(path)
        count = next(field for name, field in reader.fields.items() if name.endswith(".block_count"))
        return {t.name: (t.tensor_type, t.data.tobytes()) for t in reader.tensors}, int(count.parts[-1][0])

    (work / "whole").mkdir()
    run(binary, "remove", SAMPLE, "--target", "gguf", "--out", work / "whole" / "p.ron")
    run(binary, "compress", work / "whole" / "p.ron", "--out", work / "whole" / "out")
    whole, _ = tensors(work / "whole" / "out")
    found, count = tensors(without(binary, SAMPLE, options, "gguf", work / "gguf"))
    checks.check(found == renamed(whole) and count == 4, f"gguf-py reads {len(found)} tensors in {count} blocks, those of the whole")
    for name, experts in MIXTURES.items():
        mixture(checks, binary, work / name, name, experts)


def options_of(experts):
    return [word for block, gone in experts.items() for word in ("--remove-experts", f"{block}:{','.join(map(str, gone))}")]


def mixture(checks, binary, work, name, experts):
    out = without(binary, NETWORKS / name, options_of(experts), "dense", work)
    before, after = raw(NETWORKS / name / "model.safetensors"), raw(out / "model.safetensors")
    count = 1 + max(int(found[1]) for tensor in before if (found := re.search(r"experts\.(\d+)\.", tensor)))
    wanted = {}
    for tensor, (dtype, shape, data) in before.items():
        block = int(found[1]) if (found := re.search(r"layers\.(\d+)\.", tensor)) else None
        kept = [expert for expert in range(count) if expert not in experts.get(block, [])]
        if found := re.search(r"experts\.(\d+)\.", tensor):
            if int(found[1]) in kept:
                wanted[tensor.replace(found[0], f"experts.{kept.index(int(found[1]))}.")] = (dtype, shape, data)
        elif tensor.endswith(".gate.weight"):
            rows = np.frombuffer(data, np.uint8).reshape(count, -1)[kept]
            wanted[tensor] = (dtype, [len(kept), *shape[1:]], rows.tobytes())
        else:
            wanted[tensor] = (dtype, shape, data)
    config = json.loads((out / "config.json").read_text())
    left = count - len(next(iter(experts.values())))
    said = {config[key] for key in ("num_local_experts", "num_experts") if key in config}
    checks.check(after == wanted and said == {left}, f"{name}: {left} of {count} experts are left, under new numbers")
    return out


def full(checks, binary, work, logits, check_own_pass, loss, ids):
    """What `full.py` runs: its functions are given, as it needs torch."""
    import torch
    from transformers import AutoModelForCausalLM

    def difference(a, b):
        return ((a - b).abs().max() / b.abs().max()).item()

    options = ["--remove-blocks", ",".join(map(str, REMOVED))]
    out = without(binary, SAMPLE, options, "dense", work / "full-blocks")
    scores, _ = logits(out, ids)
    model = AutoModelForCausalLM.from_pretrained(SAMPLE, dtype="auto").eval().float()
    model.model.layers = torch.nn.ModuleList(model.model.layers[block] for block in KEPT)
    model.config.num_hidden_layers = len(KEPT)
    for place, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = place
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
    off = difference(scores, wanted)
    checks.check(off <= 1e-5, f"without blocks {REMOVED} transformers gives the logits of the blocks left, off by {off:.1e}")
    check_own_pass(checks, "without two blocks", binary, out, loss(scores, ids))
    for name, experts in MIXTURES.items():
        folder = mixture(checks, binary, work / f"full-{name}", name, experts)
        tokens = ids[:2, :40] % 64
        less = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval().float()
        whole = AutoModelForCausalLM.from_pretrained(NETWORKS / name, dtype="auto").eval().float()
        with torch.no_grad():
            off = difference(less(tokens, use_cache=False).logits, masked(whole, experts, tokens))
            same = difference(whole(tokens, use_cache=False).logits, less(tokens, use_cache=False).logits)
        checks.check(off <= 1e-5 < same, f"{name}: routers that never choose the experts give the same logits, off by {off:.1e}")


def masked(model, experts, tokens):
    """Logits of a model whose routers score these experts at minus infinity."""
    import torch

    routers = {
        parameter.data_ptr(): experts.get(int(re.search(r"layers\.(\d+)\.", name)[1]), [])
        for name, parameter in model.named_parameters()
        if name.endswith(".gate.weight")
    }
    assert routers, "no routers were found"
    plain = torch.nn.functional.linear

    def linear(x, weight, bias=None):
        scores = plain(x, weight, bias)
        if gone := routers.get(weight.data_ptr()):
            scores[..., gone] = float("-inf")
        return scores

    torch.nn.functional.linear = linear
    try:
        return model(tokens, use_cache=False).logits
    finally:
        torch.nn.functional.linear = plain
