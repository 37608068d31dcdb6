"""Codes that a range coder wrote, in Python's whole numbers, as docs/archive.md describes them."""

import numpy as np

END, LENGTHS, FADES = 0xA5C3, 15, (10, 4, 3)


class Bit:
    """A bit whose probability is learnt, in 2^-22."""

    def __init__(self):
        self.chance, self.seen = 1 << 21, 0

    def share(self):
        return min(max(self.chance >> 6, 8), (1 << 16) - 8)

    def learn(self, bit):
        weight = (2 << 16) // (2 * self.seen + 3)
        if bit:
            self.chance += ((1 << 22) - self.chance) * weight >> 16
        else:
            self.chance -= self.chance * weight >> 16
        self.seen = min(self.seen + 1, 1023)


class Decoder:
    """Reads choices of known shares."""

    def __init__(self, data):
        self.data, self.at, self.range = data, 8, (1 << 64) - 1
        self.code = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def take(self, start, size, bits):
        part = self.range >> bits
        self.code -= part * start
        self.range = part * size
        assert 0 <= self.code < self.range
        while self.range < 1 << 32:
            self.code = self.code << 32 | int.from_bytes(self.data[self.at : self.at + 4].ljust(4, b"\0"), "big")
            self.range <<= 32
            self.at += 4

    def raw(self, bits):
        value = self.code // (self.range >> bits)
        self.take(value, 1, bits)
        return value

    def bit(self, model):
        share = model.share()
        bit = self.code < (self.range >> 16) * share
        self.take(*((0, share) if bit else (share, (1 << 16) - share)), 16)
        model.learn(bit)
        return bit


def octaves(mean):
    """Half octaves above 1/16 of a mean in 2^-16."""
    mean = max(mean, 1 << 12)
    whole = mean.bit_length() - 1
    return 2 * (whole - 12) + (mean >> (whole - 1) & 1)


def run(data, rows, cols):
    """The codes of a run of rows."""
    source, codes = Decoder(data), np.zeros((rows, cols), np.int64)
    longer = [[Bit() for _ in range(LENGTHS)] for _ in range(26)]
    signs, below = [Bit() for _ in range(3)], [[Bit() for _ in range(8)] for _ in range(LENGTHS + 1)]
    every, along, columns = 0, 0, [None] * cols
    for i in range(rows):
        left = 0
        for j in range(cols):
            column = every if columns[j] is None else columns[j]
            place = min(max(octaves(along) + octaves(column) - octaves(every), 0), 25)
            length = 0
            while length < LENGTHS and source.bit(longer[place][length]):
                length += 1
            size = int(length > 0)
            is_minus = length > 0 and source.bit(signs[left + 1])
            node = 1
            for _ in range(length - 1):
                bit = source.bit(below[length][node]) if node < 8 else source.raw(1)
                size = 2 * size + bit
                node = min(2 * node + bit, 8)
            codes[i, j] = -size if is_minus else size
            left = int(np.sign(codes[i, j]))
            every, along, columns[j] = (
                mean + (((size << 16) - mean) >> fade) for mean, fade in zip((every, along, column), FADES)
            )
    assert source.raw(16) == END
    return codes


def weights(of, rows, cols, stream, ends, levels):
    """Weights [rows, cols] of the bytes of all runs."""
    starts = np.concatenate([[0], ends[:-1]])
    firsts = range(0, rows, of["rows"])
    runs = [run(bytes(stream[a:b]), min(of["rows"], rows - first), cols) for a, b, first in zip(starts, ends, firsts)]
    codes = np.concatenate(runs)
    assert len(runs) == len(ends) and not stream[ends[-1] :].any()
    size = np.abs(codes)
    near = np.concatenate([np.zeros(1, np.float32), levels[:8]])[np.minimum(size, 8)]
    size = near + levels[8] * np.maximum(size - 8, 0).astype(np.float32)
    return np.where(codes < 0, -size, size)
