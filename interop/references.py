"""How long methods take for one layer beside reference implementations on the same cores; optional, by hand.

    cargo build --release -p lapidary-benches --bin layer-seconds
    python interop/references.py target/release/layer-seconds [--shape 1024x1024] [--only WORD] [--runs 1]

One seeded layer with heavy tails, and inputs that depend on each other. Ours and theirs run one after the other on as many
threads; H = sum x xT is given to both and not timed. Errors are those of what each decodes to, in weights and in outputs, so that
a time that was bought with error shows. References are packages of the index where there is one for a processor (hqq, llmcompressor,
bitsandbytes, tensorly, scikit-learn, zipnn, nncodec); else a loop in torch after the equations of the authors' scripts, and the table
says so. What cannot be imported is "not checked".
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from plans import Checks

try:
    import torch
    from safetensors.torch import save_file
except ImportError:
    sys.exit("references.py needs torch and safetensors")

# Ours may take this much of theirs before it counts as slower: clocks differ from run to run.
MARGIN = 1.05


class Layer:
    """Weights of Student's t with 5 degrees of freedom in BF16, inputs that run into each other, a few of them large."""

    def __init__(self, rows, cols):
        torch.manual_seed(7)
        normal = torch.randn(rows, cols)
        chi = torch.randn(5, rows, cols).square().mean(0).sqrt()
        self.weight = (0.02 * normal / chi).bfloat16().float()
        x = torch.randn(2 * cols, cols)
        for _ in range(3):
            x[:, 1:] += 0.6 * x[:, :-1]
        x[:, :: max(cols // 16, 1)] *= 6
        self.inputs = x.contiguous()
        self.gram = x.T @ x / len(x)

    def errors(self, decoded):
        """What is left of the power of weights and of outputs."""
        w, away = self.weight.double(), (decoded.float() - self.weight).double()
        h = self.gram.double()
        outputs = ((away @ h) * away).sum() / ((w @ h) * w).sum()
        return (away.square().sum() / w.square().sum()).item(), outputs.item()


def damped(gram, share=0.01):
    return gram + share * gram.diagonal().mean() * torch.eye(len(gram))


# Packages.


def hqq(layer):
    from hqq.core.quantize import Quantizer

    def run():
        return Quantizer.quantize(layer.weight, nbits=4, group_size=64, axis=1, device="cpu", compute_dtype=torch.float32)

    return run, lambda found: Quantizer.dequantize(found[0], {**found[1], "compute_dtype": torch.float32})


def nf4(layer):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    return lambda: quantize_4bit(layer.weight, blocksize=64, quant_type="nf4"), lambda found: dequantize_4bit(*found)


def linear(layer):
    module = torch.nn.Linear(*reversed(layer.weight.shape), bias=False)
    module.weight.data = layer.weight.clone()
    return module


def sparsegpt(layer, n=0, m=0):
    from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import sparsify_weight

    module = linear(layer)

    def run():
        return sparsify_weight(module, {module: layer.gram.clone()}, 0.5, n, m, 128, 0.01, False)[1]

    return run, lambda found: found


def wanda(layer, n=0, m=0):
    from llmcompressor.modifiers.pruning.wanda.wanda_sparsify import sparsify_weight

    module = linear(layer)
    return lambda: sparsify_weight(module, {module: layer.gram.diagonal()}, 0.5, n, m), lambda found: found


def gptq(layer):
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=128, actorder="weight")
    rows, cols = layer.weight.shape

    def run():
        scale = layer.weight.reshape(rows, cols // 128, 128).abs().amax(-1)[None] / 7.5
        return quantize_weight(layer.weight[None].clone(), layer.gram[None].clone(), scale, torch.zeros_like(scale), None, args)[0]

    return run, lambda found: found[0]


def tensor_train(layer):
    import tensorly
    from tensorly.decomposition import tensor_train as decompose

    tensorly.set_backend("numpy")
    rows, cols = layer.weight.shape
    (m1, m2), (n1, n2) = (digits(rows), digits(cols))
    folded = layer.weight.reshape(m1, m2, n1, n2).permute(0, 2, 1, 3).reshape(m1 * n1, m2 * n2).numpy()

    def decode(found):
        whole = torch.from_numpy(tensorly.tt_to_tensor(found))
        return whole.reshape(m1, n1, m2, n2).permute(0, 2, 1, 3).reshape(rows, cols)

    return lambda: decompose(folded, rank=[1, 64, 1]), decode


def digits(n):
    """The largest divisor up to the root, and the rest."""
    first = max(d for d in range(1, int(n**0.5) + 1) if n % d == 0)
    return first, n // first


def palette(layer):
    from sklearn.cluster import KMeans

    runs = layer.weight.reshape(-1, 16 * layer.weight.shape[1], 1).numpy()

    def run():
        return [KMeans(16, n_init=1, random_state=0).fit(part) for part in runs]

    def decode(found):
        return torch.from_numpy(np.stack([one.cluster_centers_[one.labels_] for one in found])).reshape(layer.weight.shape)

    return run, decode


def vectors(layer):
    from sklearn.cluster import KMeans

    points = layer.weight.reshape(-1, 4).numpy()

    def decode(found):
        return torch.from_numpy(found.cluster_centers_[found.labels_]).reshape(layer.weight.shape)

    return lambda: KMeans(256, n_init=1, random_state=0).fit(points), decode


def onebit(layer):
    from sklearn.decomposition import NMF

    def run():
        model = NMF(1)
        return model.fit_transform(layer.weight.abs().numpy()), model.components_

    return run, lambda found: torch.from_numpy(found[0] @ found[1]) * layer.weight.sign()


def zipnn(layer):
    from zipnn import ZipNN

    halves = layer.weight.bfloat16().view(torch.int16).numpy().tobytes()
    try:
        packer = ZipNN(bytearray_dtype="bfloat16", threads=torch.get_num_threads())
    except TypeError:
        packer = ZipNN(torch_dtype="torch.bfloat16", zstd_threads=torch.get_num_threads())
    # It writes over what it is given.
    return lambda: packer.compress(bytearray(halves)), len


def deepcabac(layer):
    import nncodec.nn as codec

    tensors = {"weight": layer.weight.numpy()}

    def run():
        return codec.encode(tensors, {"qp": -24}, use_dq=False, return_bitstream=True)

    return run, lambda found: torch.from_numpy(codec.decode(found)["weight"])


# Loops after the authors' equations.


def gram_root(layer):
    values, vectors = torch.linalg.eigh(layer.gram.double())
    roots = values.clamp_min(1e-9 * values.max()).sqrt()
    return (vectors * roots).float(), (vectors / roots).float()


def low_rank(layer):
    """SVD-LLM (Wang et al. 2024): the singular vectors of W·S, S·Sᵀ = H, with S taken off again."""

    def run():
        root = torch.linalg.cholesky(damped(layer.gram, 1e-6))
        u, s, v = torch.linalg.svd(layer.weight @ root, full_matrices=False)
        right = torch.linalg.solve_triangular(root, v[:128], upper=False, left=False)
        return u[:, :128] * s[:128], right

    return run, lambda found: found[0] @ found[1]


def eora(layer):
    """EoRA (Liu et al. 2024): the singular vectors of ΔW·Q, Q·Qᵀ = H by eigenvectors, over round to nearest of 4 bits."""

    def run():
        rows, cols = layer.weight.shape
        groups = layer.weight.reshape(rows, cols // 128, 128)
        scale = groups.abs().amax(-1, keepdim=True) / 7.5
        base = ((groups / scale).round().clamp(-8, 7) * scale).reshape(rows, cols)
        root, back = gram_root(layer)
        u, s, v = torch.linalg.svd((layer.weight - base) @ root, full_matrices=False)
        return base, u[:, :32] * s[:32], v[:32] @ back.T

    return run, lambda found: found[0] + found[1] @ found[2]


def bitstack(layer):
    """BitStack (Wang et al. 2024): signs, and the leading 16 singular vectors of magnitudes, of what is left; weights by √E[x²]."""
    scale = layer.gram.diagonal().sqrt()

    def run():
        left, levels = layer.weight * scale, []
        for _ in range(4):
            u, s, v = torch.linalg.svd(left.abs(), full_matrices=False)
            levels.append(left.sign() * ((u[:, :16] * s[:16]) @ v[:16]))
            left = left - levels[-1]
        return levels

    return run, lambda found: sum(found) / scale


def awq(layer):
    """AWQ (Lin et al. 2023): 20 strengths, each measured by the outputs of a sample of the inputs."""
    rows, cols = layer.weight.shape
    x = layer.inputs[:512]
    peaks = layer.inputs.abs().mean(0)

    def rounded(weight):
        groups = weight.reshape(rows, cols // 128, 128)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        step = (high - low).clamp_min(1e-5) / 15
        zero = (-low / step).round().clamp(0, 15)
        return (((groups / step).round() + zero).clamp(0, 15) - zero).mul(step).reshape(rows, cols)

    def run():
        wanted, best = x @ layer.weight.T, (float("inf"), None)
        for at in range(20):
            scale = peaks.pow(at / 20).clamp_min(1e-4)
            scale = scale / (scale.max() * scale.min()).sqrt()
            found = rounded(layer.weight * scale) / scale
            best = min(best, ((x @ found.T - wanted).square().mean().item(), found), key=lambda one: one[0])
        return best[1]

    return run, lambda found: found


def dictionary(layer):
    """CoSpaDi (2025): orthogonal matching pursuit and K-SVD atom by atom in the inputs' basis, as many rounds as ours at most."""
    from sklearn.linear_model import orthogonal_mp_gram

    atoms, kept = 128, 64

    def run():
        root, back = gram_root(layer)
        turned = layer.weight @ root
        d = torch.linalg.svd(turned, full_matrices=False)[2][:atoms].clone()
        for _ in range(8):
            codes = orthogonal_mp_gram((d @ d.T).numpy(), (d @ turned.T).numpy(), n_nonzero_coefs=kept)
            s = torch.from_numpy(np.ascontiguousarray(codes.T)).float()
            left = turned - s @ d
            for at in range(atoms):
                own = s[:, at].nonzero().flatten()
                if len(own) == 0:
                    continue
                part = left[own] + s[own, at, None] * d[at]
                for _ in range(3):
                    d[at] = part.T @ s[own, at]
                    d[at] /= d[at].norm()
                    s[own, at] = part @ d[at]
                left[own] = part - s[own, at, None] * d[at]
        return s, d @ back.T

    return run, lambda found: found[0] @ found[1]


def kmeans(points, k, rounds):
    centres = points[torch.randperm(len(points))[:k]].clone()
    for at in range(rounds):
        codes = torch.addmm(centres.square().sum(1), points, centres.T, beta=-0.5).argmax(1)
        moved = centres.clone().index_reduce_(0, codes, points, "mean", include_self=False)
        if at % 10 == 0 and torch.allclose(moved, centres, rtol=1e-6, atol=1e-8):
            break
        centres = moved
    return centres, torch.addmm(centres.square().sum(1), points, centres.T, beta=-0.5).argmax(1)


def aqlm(layer):
    """AQLM (Egiazarian et al. 2024): residual k-means; in turn 100 steps of Adam on codebooks and scales and a search of codes with
    one beam, run by run at random, until a round gains less than 1 %; their settings."""
    books, n, dim = 2, 256, 8
    rows, cols = layer.weight.shape
    w, h = layer.weight, layer.gram

    def search(codes, entries, scales, decode):
        left = w - decode()
        loss_of = torch.arange(rows)
        for run in torch.randperm(cols // dim).tolist():
            span = slice(run * dim, (run + 1) * dim)
            block = h[span, span]
            for book in torch.randperm(books).tolist():
                left[:, span] += scales * entries[book][codes[:, run, book]]
                slope = (left @ h[:, span]) * scales
                squares = ((entries[book] @ block) * entries[book]).sum(1)
                cost = squares[:, None] * scales.T.square() - 2 * entries[book] @ slope.T
                codes[loss_of, run, book] = cost.topk(1, dim=0, largest=False)[1][0]
                left[:, span] -= scales * entries[book][codes[:, run, book]]

    def run():
        torch.manual_seed(1)
        scales = torch.nn.Parameter(w.norm(dim=1, keepdim=True) + 1e-9)
        rest = (w / scales.detach()).reshape(-1, dim)
        entries, codes = [], []
        for _ in range(books):
            centres, own = kmeans(rest, n, 100)
            rest = rest - centres[own]
            entries.append(centres)
            codes.append(own.reshape(rows, -1))
        entries, codes = torch.nn.Parameter(torch.stack(entries)), torch.stack(codes, -1)

        def decode():
            sums = sum(torch.nn.functional.embedding(codes[..., book], entries[book]) for book in range(books))
            return scales * sums.reshape(rows, cols)

        optimiser = torch.optim.Adam([entries, scales], lr=1e-4, betas=(0.0, 0.95), amsgrad=True)
        before = float("inf")
        for _ in range(1000):
            for step in range(100):
                with torch.enable_grad():
                    away = decode() - w
                    loss = (away @ h).flatten() @ away.flatten() / rows
                    if step == 0:
                        if loss.item() / before > 0.99:
                            return decode().detach()
                        before = min(before, loss.item())
                    optimiser.zero_grad()
                    loss.backward()
                optimiser.step()
            search(codes, entries.detach(), scales.detach(), lambda: decode().detach())
        return decode().detach()

    return run, lambda found: found



# What it is called, what the reference is, our chain, theirs.
REFERENCES = [
    ("HQQ", "hqq", "hqq bits=4 group_size=64", hqq),
    ("NF4", "bitsandbytes", "nf4 group_size=64", nf4),
    ("GPTQ", "llmcompressor", "gptq bits=4 group_size=128", gptq),
    ("AWQ", "a loop", "awq bits=4 group_size=128 symmetry=asymmetric", awq),
    ("SparseGPT, half", "llmcompressor", "sparsegpt", sparsegpt),
    ("SparseGPT, 2 of 4", "llmcompressor", "sparsegpt pattern=n-of-m", lambda layer: sparsegpt(layer, 2, 4)),
    ("Wanda, half", "llmcompressor", "wanda", wanda),
    ("Wanda, 2 of 4", "llmcompressor", "wanda pattern=n-of-m", lambda layer: wanda(layer, 2, 4)),
    ("Low rank, SVD-LLM", "a loop", "low-rank rank=128 nearest=outputs", low_rank),
    ("EoRA", "a loop", "round-to-nearest bits=4 group_size=128; eora rank=32", eora),
    ("Tensor train", "tensorly", "tensor-train rank=64", tensor_train),
    ("Sparse dictionary, CoSpaDi", "a loop over scikit-learn", "sparse-dictionary nearest=outputs", dictionary),
    ("Palette", "scikit-learn", "optimal-palette bits=4 granularity=rows", palette),
    ("Vector quantisation", "scikit-learn", "vector-quantisation run=4 scales=none", vectors),
    ("BitStack", "a loop", "bitstack counted=by-inputs", bitstack),
    ("OneBit", "scikit-learn", "onebit", onebit),
    ("Lossless, ZipNN", "zipnn", "squeeze", zipnn),
    ("Entropy-coded, DeepCABAC", "nncodec", "entropy-coded rate=4", deepcabac),
    ("AQLM", "a loop", "aqlm", aqlm),
]

# No package of theirs runs on a processor, or there is no code of theirs.
ABSENT = {
    "QuIP#": "its package needs a graphics card",
    "HIGGS": "flute needs a graphics card",
    "SpQR, tuning": "spqr_quant holds its inference alone",
    "SeedLM, CCQ, GQSA": "their authors published no code that was found",
}


def ours(binary, layer, chains, options):
    """Seconds, bytes and what is decoded of each chain."""
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "layer.safetensors"
        save_file({"weight": layer.weight, "inputs": layer.inputs}, file)
        threads = {"RAYON_NUM_THREADS": str(options.threads)}
        command = [binary, file, "--runs", str(options.runs), "--out", work, *chains]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **threads}).stdout
        found = []
        for at, line in enumerate(printed.splitlines()):
            decoded = Path(work) / f"{at}.f32"
            values = np.fromfile(decoded, np.float32) if decoded.exists() else None
            weights = None if values is None else torch.from_numpy(values).reshape(layer.weight.shape)
            found.append((json.loads(line), weights))
        return found


def timed(run, runs):
    best, found = float("inf"), None
    for _ in range(runs):
        begun = time.perf_counter()
        found = run()
        best = min(best, time.perf_counter() - begun)
    return best, found


def said(errors):
    return "{:.4f} {:.4f}".format(*errors)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", help="target/release/layer-seconds")
    parser.add_argument("--shape", default="1024x1024")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    layer, checks = Layer(*map(int, options.shape.split("x"))), Checks()
    for title, package, chain, make in REFERENCES:
        if options.only and not any(word.lower() in title.lower() for word in options.only):
            continue
        try:
            run, decode = make(layer)
        except (ImportError, RuntimeError) as error:
            checks.not_checked(f"{title}: {package}: {error}")
            continue
        [(measured, weights)] = ours(options.binary, layer, [chain], options)
        seconds, found = timed(run, options.runs)
        if weights is None:
            kept = f"bytes {measured['bytes']}, theirs {decode(found)}"
        else:
            kept = f"left of weights and outputs {said(layer.errors(weights))}, theirs {said(layer.errors(decode(found)))}"
        ratio = seconds / measured["seconds"]
        checks.check(
            measured["seconds"] <= MARGIN * seconds,
            f"{title} ({package}): {measured['seconds']:.3f} s, theirs {seconds:.3f} s, {ratio:.1f} times ours; {kept}",
        )
    for title, reason in ABSENT.items() if not options.only else ():
        checks.not_checked(f"{title}: {reason}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
