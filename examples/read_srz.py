"""Reads a .srz file with Python and NumPy alone, as models/formats/SRZ.md specifies it.

Usage: read_srz.py MODEL.srz            lists the tensors
       read_srz.py MODEL.srz OUT.npz    writes them, dense, as arrays of their names
As a module: tensors, metadata = read("model.srz")"""
import json
import struct
import sys
import zlib

import numpy as np

RATE = [65536 // (n + 2) for n in range(1023)]
MASK = 0xFFFFFFFF


class Model:
    """An adaptive probability that a bit is set."""

    def __init__(self):
        self.one, self.updates = 1 << 31, 0


class Decoder:
    """The two streams of a file: coded words and stored bits."""

    def __init__(self, words, raw):
        self.words, self.next = words.tolist() + [0, 0], 2
        self.range, self.value = (1 << 64) - 1, self.words[0] << 32 | self.words[1]
        self.bits, self.position = np.unpackbits(raw, bitorder="little"), 0

    def bit(self, model):
        bound = (self.range >> 16) * max(model.one >> 16, 1)
        rate = RATE[model.updates]
        if model.updates < 1022:
            model.updates += 1
        bit = self.value < bound
        if bit:
            self.range = bound
            model.one += (MASK - model.one) * rate >> 16
        else:
            self.value -= bound
            self.range -= bound
            model.one -= model.one * rate >> 16
        if self.range <= MASK:
            self.range <<= 32
            self.value = self.value << 32 | (self.words[self.next] if self.next < len(self.words) else 0)
            self.next += 1
        return bit

    def unary(self, models, limit):
        number = 0
        while self.bit(models[min(number, len(models) - 1)]):
            number += 1
            assert number <= limit, "an exponent is out of range"
        return number

    def tree(self, models, count):
        prefix = 1
        for _ in range(count):
            prefix = prefix << 1 | self.bit(models[prefix])
        return prefix - (1 << count)

    def raw(self, count):
        self.position += count
        bits = self.bits[self.position - count : self.position].tolist()
        return sum(bit << k for k, bit in enumerate(bits))


def models(count):
    return [Model() for _ in range(count)]


def value_models():
    return {"moves": Model(), "rises": Model(), "distance": models(16), "class": models(16),
            "mantissa": [models(4) for _ in range(16)]}


def matrix_size(shape, sparse):
    if len(shape) >= 2:
        return shape[0], shape[1], int(np.prod(shape[2:], dtype=np.int64))
    length = shape[0] if shape else 1
    return (length, 1, 1) if sparse else (1, length, 1)


def read_pattern(decoder, rows, channels, taps, nnz):
    """For each row the columns of its stored values."""
    columns = range(channels * taps)
    if nnz == rows * len(columns):
        return [list(columns)] * rows
    channel, row, entry = models(3)
    used = [decoder.bit(channel) for _ in range(channels)]
    columns = [column for column in columns if used[column // taps]]
    return [[c for c in columns if decoder.bit(entry)] if decoder.bit(row) else [] for _ in range(rows)]


def read_values(decoder, shared, coding, length, pattern):
    """The bits of the stored values, as u32."""
    if coding == "palette":
        palette, levels = [decoder.raw(16) << 16 for _ in range(length)], models(length)
        return [palette[decoder.tree(levels, length.bit_length() - 1)] | decoder.raw(1) << 31
                for row in pattern for _ in row]
    values, top = [], 127
    for row in filter(None, pattern):
        if decoder.bit(shared["moves"]):
            rises = decoder.bit(shared["rises"])
            distance = 1 + decoder.unary(shared["distance"], 254)
            top += distance if rises else -distance
        for _ in row:
            class_ = decoder.unary(shared["class"], top)
            bits = length if coding == "float" else length - class_
            high = decoder.tree(shared["mantissa"][min(class_, 15)], min(bits, 2))
            low_bits = bits - min(bits, 2)
            low = decoder.raw(low_bits + 1)
            sign, low = low >> low_bits, low & ((1 << low_bits) - 1)
            values.append(sign << 31 | (top - class_) << 23 | (high << low_bits | low) << (23 - bits))
    return values


def read(path):
    """All tensors of a file, dense, by name, and its metadata."""
    with open(path, "rb") as file:
        data = file.read()
    magic, version, length, checksum, deflated, inflated, words = struct.unpack_from("<4sIQIIII", data)
    if magic != b"\x89SRZ" or version != 1 or length != len(data) or checksum != zlib.crc32(data[20:]):
        raise ValueError(f"{path} is no .srz file of version 1, or it was changed")
    header = json.loads(zlib.decompress(data[32 : 32 + deflated], bufsize=inflated))
    start = 32 + deflated
    stored = np.frombuffer(data, np.uint8, offset=start + 4 * words)
    decoder = Decoder(np.frombuffer(data, "<u4", words, start), stored)
    shared, tensors = {True: value_models(), False: value_models()}, {}
    for tensor in header["tensors"]:
        size = matrix_size(tensor["shape"], tensor["sparse"])
        pattern = read_pattern(decoder, *size, tensor["nnz"])
        ((coding, number),) = tensor["values"].items()
        values = read_values(decoder, shared[tensor["sparse"]], coding, number, pattern)
        matrix = np.zeros((size[0], size[1] * size[2]), np.float32)
        rows = np.repeat(np.arange(size[0]), [len(row) for row in pattern])
        columns = np.array([column for row in pattern for column in row], np.int64)
        matrix[rows, columns] = np.array(values, np.uint32).view(np.float32)
        tensors[tensor["name"]] = matrix.reshape(tensor["shape"])
    return tensors, header["metadata"]


if __name__ == "__main__":
    found = read(sys.argv[1])[0]
    for name, array in found.items():
        print(f"{name}  {list(array.shape)}  {np.count_nonzero(array)} of {array.size}")
    if len(sys.argv) > 2:
        np.savez(sys.argv[2], **found)
