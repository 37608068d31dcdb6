"""Writes sample_statistics.json: what numpy says of every tensor of the sample model.

Run from anywhere with numpy installed: python3 tests/golden/make_statistics.py
"""

import json
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent.parent / "assets" / "sample-books-6m" / "model.safetensors"


def tensors(path):
    """Name and values in f64 of every tensor of a bf16 file, without any safetensors library."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items()):
        assert entry["dtype"] == "BF16", (name, entry)
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        halves = np.frombuffer(raw[begin:end], "<u2").astype(np.uint32)
        values = (halves << 16).view(np.float32).astype(np.float64)
        yield name, values.reshape(entry["shape"])


def short(value):
    return float(f"{value:.9g}")


def statistics(values):
    mean, std = values.mean(), values.std()
    deviation = values - mean
    fourth = np.mean(deviation**4)
    return {
        "mean": short(mean),
        "std": short(std),
        "min": short(values.min()),
        "max": short(values.max()),
        "abs_max": short(np.abs(values).max()),
        "kurtosis": short(fourth / std**4 - 3.0),
        "outlier_fraction": short(np.mean(np.abs(deviation) > 6.0 * std)),
        "zeros": short(np.mean(values == 0.0)),
    }


def spectrum(values):
    sigma = np.linalg.svd(values, compute_uv=False)
    share = sigma / sigma.sum()
    share = share[share > 0.0]
    return {
        "stable_rank": short(np.sum(sigma**2) / sigma[0] ** 2),
        "effective_rank": short(np.exp(-np.sum(share * np.log(share)))),
        "singular_values": [short(s) for s in sigma],
    }


def main():
    rows = []
    for name, values in tensors(SAMPLE):
        row = {"name": name, "shape": list(values.shape), **statistics(values)}
        if values.ndim == 2:
            row.update(spectrum(values))
        rows.append(json.dumps(row, separators=(",", ":")))
    text = '{"numpy": "%s", "tensors": [\n%s\n]}\n' % (np.__version__, ",\n".join(rows))
    (HERE / "sample_statistics.json").write_text(text)


if __name__ == "__main__":
    main()
