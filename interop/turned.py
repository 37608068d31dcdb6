"""Points of the lattice E8, digits, sums of entries of codebooks and turned bases in numpy, as docs/archive.md describes them."""

import itertools
import math
from pathlib import Path

import numpy as np

# Which values are 3/2 in the last entries of E8P, the others 1/2.
PADDING = "8f 4f 2f 1f ec ea e6 e9 e5 e3 dc da d6 d9 d5 d3 bc ba b6 b9 b5 73 7c 7a 76 79 75 37 ce"


def entries():
    """The table of E8P without signs, [256, 8]."""
    inner = [v for v in itertools.product([0.5, 1.5, 2.5], repeat=8) if sum(x * x for x in v) <= 10]
    outer = [[0.5 + (int(mask, 16) >> (7 - i) & 1) for i in range(8)] for mask in PADDING.split()]
    return np.array(inner + outer)


def short():
    """The table of E81B, [256, 8]."""
    whole = [v for v in itertools.product([-1.0, 0.0, 1.0], repeat=8) if sum(x * x for x in v) == 2]
    half = [v for v in itertools.product([-0.5, 0.5], repeat=8) if sum(v) % 2 == 0]
    far = np.concatenate([2 * np.eye(8), -2 * np.eye(8)[:7]])
    return np.array([[0.0] * 8, *whole, *half, *far])


ENTRIES, SHORT = entries(), short()


def levels(count):
    """The levels of Lloyd and Max for normal values."""
    cumulative = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))
    density = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    found = [(2 * i + 1) / count * 3 - 3 for i in range(count)]
    for _ in range(20_000):
        ends = [-math.inf, *[(a + b) / 2 for a, b in zip(found, found[1:])], math.inf]
        new = [(density(a) - density(b)) / (cumulative(b) - cumulative(a)) for a, b in zip(ends, ends[1:])]
        moved = max(abs(a - b) for a, b in zip(new, found))
        found = new
        if moved < 1e-12:
            break
    return np.array(found)


def pairs(bits):
    """The points of the plane, as the engine's table has them."""
    table = Path(__file__).parent.parent / "engine/src/numeric/pairs.txt"
    lines = [line.split() for line in table.read_text().splitlines()]
    return np.array([[float(x), float(y)] for of, x, y in lines if int(of) == bits])


def grid(of, rows, cols, stream, scales, tile):
    """Weights [rows, cols] of codes in a stream; `stream(bits, count)` reads it, `tile` gives each weight its scale."""
    (kind, bits), = of["codebook"].items()
    points = levels(1 << bits)[:, None] if kind == "scalars" else pairs(bits)
    dim = points.shape[1]
    per_row = -(-cols // dim)
    codes = stream(bits * dim, rows * per_row)
    return points[codes].reshape(rows, per_row * dim)[:, :cols] * scales[tile]


# What each bit or trit stands for.
DIGITS = {"signs": [1, -1], "bits": [0, 1], "trits": [0, 1, -1]}


def digits(of, rows, cols, codes, scales, tile):
    """Weights [rows, cols] of digits in bytes, in f32; `tile` gives each weight its scale."""
    values = np.array(DIGITS[of["codebook"]], np.float32)
    if len(values) == 2:
        places = bits(codes, rows * cols).astype(int).reshape(rows, cols)
    else:
        assert codes.max(initial=0) < 243
        places = codes.reshape(rows, -(-cols // 5), 1) // 3 ** np.arange(5) % 3
        places = places.reshape(rows, places.shape[1] * 5)[:, :cols]
    return values[places] * scales[tile]


def e8p(codes):
    """Points of codes, [n, 8]."""
    points, signs = ENTRIES[codes >> 8], codes[:, None] >> np.arange(1, 8) & 1
    last = (signs.sum(1) + points.sum(1).astype(int)) % 2
    minus = np.concatenate([signs, last[:, None]], 1)
    return np.where(minus == 1, -points, points) + np.where(codes & 1, -0.25, 0.25)[:, None]


def vectors(of, rows, cols, codes, scales):
    """Weights [rows, cols] of bytes and scales."""
    width = {"e8p": 2, "e8p-e81b": 3, "e8p-e8p": 4}[of["codebook"]]
    parts = codes.reshape(-1, width).astype(np.int64)
    points = e8p(parts[:, 0] | parts[:, 1] << 8)
    if width == 2:
        points /= 1.03
    elif width == 3:
        points = (points + SHORT[parts[:, 2]] / 2.04) / 0.98
    else:
        points = (points + e8p(parts[:, 2] | parts[:, 3] << 8) / 3.45) / 1.03
    points = points.reshape(rows, -1)[:, :cols]
    return points * (scales if of["grouping"] == "tensor" else scales[:, None])


def additive(of, rows, cols, stream, values, scales):
    """Weights [rows, cols] in f32 of sums of entries of codebooks."""
    dim, count = of["dim"], of["codebooks"]
    runs = -(-cols // dim)
    codes = stream(of["bits"], rows * runs * count).reshape(rows, runs, count)
    books = values.reshape(-1, count, 1 << of["bits"], dim)
    at = np.arange(runs) if of["by_run"] else np.zeros(runs, np.int64)
    out = np.zeros((rows, runs, dim), np.float32)
    for book in range(count):
        out += books[at[None, :], book, codes[:, :, book]]
    out = out.reshape(rows, runs * dim)[:, :cols]
    return out if scales is None else out * scales[:, None]


def turned(rows_of_weights, run, signs):
    """R⁻¹ of every row: runs are mixed, then signs are changed."""
    out = []
    for first in range(0, rows_of_weights.shape[1], run):
        piece = rows_of_weights[:, first : first + run]
        n = piece.shape[1]
        two = n & -n
        odd = n // two
        hadamard = np.ones((1, 1))
        while len(hadamard) < two:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        angle = 2 * np.pi * np.outer(np.arange(odd), np.arange(odd)) / odd
        mix = np.kron((np.cos(angle) + np.sin(angle)) / np.sqrt(odd), hadamard / np.sqrt(two))
        out.append(piece @ mix)
    return np.concatenate(out, 1) * np.where(signs, -1.0, 1.0)


def bits(part, count):
    return np.unpackbits(part, bitorder="little")[:count].astype(bool)


def rotated(of, weights, signs, row_signs):
    """W = Sᵀ·inner·R in f64."""
    rows, cols = weights.shape
    out = turned(weights.astype(np.float64), of["cols"], bits(signs, cols))
    if of["rows"] is not None:
        out = turned(out.T, of["rows"], bits(row_signs, rows)).T
    return out


TAPS = {6: (0, 1), 7: (0, 1), 8: (0, 2, 3, 4), 9: (0, 4), 10: (0, 3), 11: (0, 2), 12: (0, 1, 4, 6), 13: (0, 1, 3, 4), 14: (0, 1, 3, 5), 15: (0, 1), 16: (0, 1, 3, 12)}


def seeded(of, rows, cols, stream, scale):
    """Blocks as coefficients of the states behind their seeds, all blocks at once."""
    block, p, b = of["block"], of["coefficients"], of["seed_bits"]
    n = rows * -(-cols // block)
    state, exponents = stream("seeds", b, n), stream("exponents", 4, n)
    mantissas = stream("mantissas", 4, n * p).reshape(n, p)
    t = (mantissas - 16 * (mantissas > 7)).astype(np.float32) * (scale * np.float32(2.0) ** (exponents - 15).astype(np.float32))[:, None]
    out = np.zeros((n, block), np.float32)
    middle = np.float32(2 ** (b - 1))
    for c in range(block):
        for k in range(p):
            parity = sum(state >> tap for tap in TAPS[b]) & 1
            state = state >> 1 | parity << (b - 1)
            out[:, c] += (state.astype(np.float32) - middle) / (middle - np.float32(1)) * t[:, k]
    most = np.finfo(np.float32).max
    return np.clip(out, -most, most).reshape(rows, -1)[:, :cols]
