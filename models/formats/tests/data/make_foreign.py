#!/usr/bin/env python3
"""Writes foreign.safetensors and foreign.csr.safetensors beside this script, with NumPy alone.

They differ from our own files in everything the format leaves open: tensors in another order in header and data, no
padding, unaligned data, other float types, PyTorch's counter of batches."""
import json
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def bfloat16(values):
    return (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2")


def save(path, tensors, metadata=None):
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        start = len(data)
        data += array.tobytes()
        header[name] = {"data_offsets": [start, len(data)], "shape": list(array.shape), "dtype": dtype}
    header = dict(reversed(header.items()))
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    special = np.array([0x7FC12345, 0xFF812345, 0x80000000, 0x00000001, 0xFF800000], "<u4").view("<f4")
    save(HERE / "foreign.safetensors", {
        "half": ("F16", np.array([[1.5, -0.0], [65504, 2.0**-24]], "<f2")),
        "flag": ("BF16", bfloat16([1.0, -2.5, 3.0e38])),
        "bn.num_batches_tracked": ("I64", np.array(12345, "<i8")),
        "special": ("F32", special),
        "double": ("F64", np.array([0.1, -1e-300, 3.4e38], "<f8")),
        "scalar": ("F32", np.array(7, "<f4")),
        "empty": ("F32", np.zeros((0, 3), "<f4")),
    })

    rng = np.random.default_rng(11)
    weight = rng.standard_normal((6, 2, 3, 3)).astype("<f4")
    weight[rng.random(weight.shape) < 0.8] = 0
    weight[2] = 0
    flat = weight.reshape(6, -1)
    rows, cols = np.nonzero(flat)
    save(HERE / "foreign.csr.safetensors", {
        "conv.bias": ("F32", np.arange(6, dtype="<f4")),
        "conv.weight.values": ("F32", flat[rows, cols]),
        "conv.weight.col_indices": ("I32", cols.astype("<i4")),
        "conv.weight.crow_indices": ("I32", np.searchsorted(rows, np.arange(7)).astype("<i4")),
        "conv.weight.shape": ("I64", np.array(weight.shape, "<i8")),
        "dense": ("F32", flat),
    }, {"sr2.format": "csr.v1"})


main()
