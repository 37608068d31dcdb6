"""The host code of the package spqr_quant, built without its kernels: what packs and what dequantises its layout.

Its inference needs a graphics card; these two functions run on the processor alone. Needs g++, spqr_quant,
nvidia-cuda-runtime-cu12, nvidia-cuda-nvcc-cu12 and nvidia-cuda-cccl-cu12 (headers of half precision).
"""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np

# As much of torch as those functions ask of it.
TENSOR = """
#pragma once
#include <cuda_runtime_api.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>
namespace torch {
enum Type { kChar, kHalf };
struct Tensor {
  void *data;
  long n;
  Type type;
  void *data_ptr() const { return data; }
  template <class X> X *data_ptr() const { return static_cast<X *>(data); }
  std::vector<long> sizes() const { return {n}; }
  int get_device() const { return 0; }
  Type dtype() const { return type; }
};
inline void mv_out(Tensor &, const Tensor &, const Tensor &) {}
}
#define TORCH_CHECK(condition, ...) if (!(condition)) abort();
namespace at { namespace cuda { inline cudaStream_t getCurrentCUDAStream(int) { return nullptr; } } }
"""

# What the kernels' callers need to link, and the two functions under plain names.
CALLS = """
int spqr_matvec(int, int, int, int, int, const void *, const void *, int, void *, void *, int, void *, void *, cudaStream_t, void *, uint32_t) { return 1; }
extern "C" {
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *, cudaEvent_t, cudaEvent_t) { return cudaSuccess; }
void dequantize(int m, int n, void *dense, void *offsets, void *few, int kept, void *out) {
  using torch::Tensor;
  dequantize_compressed(m, n, 3, 16, 16, Tensor{dense}, Tensor{offsets, m + 1}, Tensor{few, kept}, kept, Tensor{out});
}
void compress(int m, int n, void **parts, void *offsets, void *few, void *out) {
  auto of = [&](int at, torch::Type type) { return torch::Tensor{parts[at], 0, type}; };
  using torch::Tensor; using torch::kChar; using torch::kHalf;
  Tensor rows{offsets, m + 1}, pairs{few};
  tensor_compress_interleaved(m, n, 3, of(0, kChar), 16, 16, of(1, kChar), of(2, kChar), of(3, kHalf), of(4, kHalf),
                              of(5, kHalf), of(6, kHalf), rows, rows, pairs, pairs, 0, Tensor{out});
}
}
"""


def missing():
    """What is needed and not there."""
    wanted = ["spqr_quant", "nvidia.cuda_runtime", "nvidia.cuda_nvcc", "nvidia.cuda_cccl"]
    absent = []
    for name in wanted:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        absent += [] if found else [name]
    return absent + ([] if shutil.which("g++") else ["g++"])


def folder_of(name):
    return Path(next(iter(importlib.util.find_spec(name).submodule_search_locations)))


class Reference:
    """Packing and dequantising as the package does them."""

    def __init__(self, work):
        kernels = folder_of("spqr_quant") / "inference_kernels"
        for header in ["ATen/cuda/CUDAContext.h", "c10/util/Exception.h", "torch/python.h", "torch/script.h"]:
            (work / header).parent.mkdir(parents=True, exist_ok=True)
            (work / header).write_text(TENSOR)
        source = (kernels / "spqr_cuda.cpp").read_text()
        (work / "host.cpp").write_text(source[: source.index("PYBIND11_MODULE")] + CALLS)
        headers = [work, kernels] + [folder_of(f"nvidia.cuda_{name}") / "include" for name in ["runtime", "nvcc", "cccl"]]
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-include", "stdlib.h"]
        command += [f"-I{folder}" for folder in headers] + [work / "host.cpp", "-o", work / "host.so"]
        subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(work / "host.so"))

    def dequantize(self, dense, offsets, few, extents):
        """The weights in F16."""
        arrays = [np.array(array) for array in (dense, offsets, few)]
        out = np.zeros(extents, np.float16)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in [*arrays, out]]
        self.library.dequantize(*map(ctypes.c_int, extents), *pointers[:3], ctypes.c_int(len(few)), pointers[3])
        return out

    def compress(self, codes, numbers, extents):
        """`dense_weights` of codes [tile, output, 18] and numbers [tile, 4], tiles row by row."""
        down, across = extents[0] // 16, extents[1] // 16
        tiles = codes.reshape(down, across, 16, 18)
        weights = tiles[..., 2:].transpose(0, 2, 1, 3).reshape(extents)
        # Its statistics lie tile column by tile column.
        first = [tiles[..., at].transpose(1, 0, 2) for at in (0, 1)]
        second = [numbers.reshape(down, across, 4)[..., at].T for at in (0, 2, 1, 3)]
        parts = [np.ascontiguousarray(part, np.int8) for part in [weights, *first]]
        parts += [np.ascontiguousarray(part, np.float16) for part in second]
        out = np.zeros(extents[0] * across, np.int64)
        offsets, few = np.zeros(extents[0] + 1, np.int32), np.zeros(1, np.int32)
        pointers = (ctypes.c_void_p * len(parts))(*[part.ctypes.data for part in parts])
        rest = [array.ctypes.data_as(ctypes.c_void_p) for array in (offsets, few, out)]
        self.library.compress(*map(ctypes.c_int, extents), pointers, *rest)
        return out


def check(checks, name, work, found, modules, packed):
    """Layers of a folder: packed by the package they are the same words; dequantised by it, what numpy computes in F16."""
    absent = missing()
    if absent:
        checks.not_checked(f"{name}: against the host code of spqr_quant, as {', '.join(absent)} is not there")
        return
    reference = Reference(work)
    words, weights = [], []
    for module in modules:
        codes, numbers, extents = packed.spqr_fields(found, module)
        dense, offsets, few = (found[f"{module}.{part}"][1] for part in ["dense_weights", "row_offsets", "col_vals"])
        if not np.array_equal(reference.compress(codes, numbers, extents), dense):
            words.append(module)
        ours = packed.spqr_in_halves(found, module)
        if not np.array_equal(reference.dequantize(dense, offsets, few, extents).view(np.uint16), ours.view(np.uint16)):
            weights.append(module)
    checks.check(modules and not words, f"{name}: spqr_quant packs {len(modules)} layers into the same words (not: {words[:3]})")
    checks.check(not weights, f"{name}: spqr_quant dequantises them to what numpy does in half precision (not: {weights[:3]})")
