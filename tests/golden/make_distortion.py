"""Writes distortion.json: the mean square error of each quantiser on N(0,1), by numpy in f64.

Monte Carlo over 2^23 numbers (sampling noise below 0.2 %) for grids fitted to groups, quadrature for sparsity.
Grids follow the published definitions, not this program's code: for a group with extremes min, max and
a = max|w|, symmetric s = 2a/(2^b − 1) with levels −2^(b−1) … 2^(b−1) − 1; restricted s = a/(2^(b−1) − 1) with
levels ±(2^(b−1) − 1); asymmetric s = (max − min)/(2^b − 1), zero point round(−min/s). "mse" is the least error
of the group over ranges shrunk by 0.97^k, k = 0 … 150, all of them tried.

Run from anywhere with numpy installed: python3 tests/golden/make_distortion.py
"""

import json
import math
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
N = 1 << 23


def decode(values, low, high, bits, symmetry):
    """Groups in rows, each quantised with the grid of its own range [low, high]."""
    half = 1 << (bits - 1)
    absmax = np.maximum(-low, high)
    if symmetry == "asymmetric":
        step = (high - low) / (2 * half - 1)
        zero = np.clip(np.rint(-low / step), 0, 2 * half - 1)
        return (np.clip(np.rint(values / step) + zero, 0, 2 * half - 1) - zero) * step
    if symmetry == "symmetric":
        step = absmax / ((2 * half - 1) / 2)
        return np.clip(np.rint(values / step), -half, half - 1) * step
    step = absmax / (half - 1)
    return np.clip(np.rint(values / step), 1 - half, half - 1) * step


def min_max(values, bits, symmetry):
    low = np.minimum(values.min(1, keepdims=True), 0.0)
    high = np.maximum(values.max(1, keepdims=True), 0.0)
    return np.mean((values - decode(values, low, high, bits, symmetry)) ** 2)


def mse(values, bits, symmetry):
    total = 0.0
    for part in np.array_split(values, max(1, values.size >> 20)):
        low = np.minimum(part.min(1, keepdims=True), 0.0)
        high = np.maximum(part.max(1, keepdims=True), 0.0)
        best = np.full(len(part), np.inf)
        for k in range(151):
            shrink = 0.97**k
            error = np.sum((part - decode(part, low * shrink, high * shrink, bits, symmetry)) ** 2, 1)
            best = np.minimum(best, error)
        total += best.sum()
    return total / values.size


def order_squares(m, k):
    """E of the square of the k-th smallest of m half-normal numbers."""
    x = np.linspace(0.0, 12.0, 400_001)
    f = math.sqrt(2.0 / math.pi) * np.exp(-(x**2) / 2.0)
    below = np.array([math.erf(v / math.sqrt(2.0)) for v in x])
    density = m * math.comb(m - 1, k - 1) * below ** (k - 1) * (1.0 - below) ** (m - k) * f
    return np.trapezoid(x**2 * density, x)


def main():
    rng = np.random.default_rng(20261121)
    rows = []

    def add(distortion, **row):
        rows.append({**row, "distortion": float(f"{distortion:.5g}")})
        print(rows[-1], flush=True)

    for group in (16, 32, 64, 128, 256):
        values = rng.standard_normal(N).reshape(-1, group)
        for symmetry in ("symmetric", "symmetric-restricted", "asymmetric"):
            for bits in range(2, 9):
                add(min_max(values, bits, symmetry), group=group, bits=bits, symmetry=symmetry, clipping="min-max")
    for group in (32, 128):
        values = rng.standard_normal(N >> 2).reshape(-1, group)
        for symmetry in ("symmetric", "symmetric-restricted", "asymmetric"):
            for bits in (2, 3, 4):
                add(mse(values, bits, symmetry), group=group, bits=bits, symmetry=symmetry, clipping="mse")
    for n, m in ((2, 4), (1, 4), (4, 8), (3, 5)):
        dropped = sum(order_squares(m, k) for k in range(1, m - n + 1)) / m
        add(dropped, n=n, m=m)
    lines = ",\n".join(json.dumps(row) for row in rows)
    text = '{"numpy": "%s", "quantisers": [\n%s\n]}\n' % (np.__version__, lines)
    (HERE / "distortion.json").write_text(text)


if __name__ == "__main__":
    main()
