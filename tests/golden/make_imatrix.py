"""Writes the importance matrices in tests/data/imatrix: one of gguf-py in the layout of llama-imatrix, one of the old form.

Needs numpy and gguf. Run from the top of the repository.
"""

import struct

import gguf
import numpy

OUT = "tests/data/imatrix"


def sums(channels, matrices, seed):
    grid = numpy.arange(channels * matrices, dtype=numpy.float32).reshape(matrices, channels)
    return (grid * 0.5 + seed).astype(numpy.float32)


def write_gguf():
    writer = gguf.GGUFWriter(f"{OUT}/small.gguf", arch="unused")
    # What llama-imatrix writes has no architecture.
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["wiki.txt", "code.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, channels, matrices, seed, counts in [
        ("blk.0.attn_q.weight", 8, 1, 1.0, [1536]),
        ("blk.0.ffn_down_exps.weight", 4, 3, 2.0, [1000, 0, 536]),
    ]:
        # numpy has the extents in reverse: in_sum2 is [channels, matrices], counts [1, matrices] in the file.
        writer.add_tensor(f"{name}.in_sum2", sums(channels, matrices, seed))
        writer.add_tensor(f"{name}.counts", numpy.array(counts, dtype=numpy.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_dat():
    with open(f"{OUT}/small.dat", "wb") as file:
        file.write(struct.pack("<i", 1))
        name = b"blk.0.attn_q.weight"
        file.write(struct.pack("<i", len(name)) + name)
        # Three calls; the mean squares are 0.25, 0.5, ...
        values = [3 * 0.25 * (i + 1) for i in range(8)]
        file.write(struct.pack("<ii8f", 3, 8, *values))
        text = b"wiki.txt"
        file.write(struct.pack("<ii", 3, len(text)) + text)


write_gguf()
write_dat()
