"""Loads what `load_formats.rs` wrote with the tools it is for. Usage: load_formats.py FOLDER

FOLDER holds dense.npy, the matrix, and it as matrix.npz, NAME.csr.safetensors for each type of values and
mask.bitmask.safetensors."""
import importlib.util
import os
import sys

import numpy as np
import scipy.sparse
from safetensors import safe_open

folder = sys.argv[1]
dense = np.load(os.path.join(folder, "dense.npy"))
matrix = scipy.sparse.load_npz(os.path.join(folder, "matrix.npz"))
assert matrix.format == "csr" and matrix.has_canonical_format and np.array_equal(matrix.toarray(), dense)


def tensors(name, framework):
    with safe_open(os.path.join(folder, name), framework) as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def same(found, error, name):
    assert np.array_equal(found == 0, dense == 0), f"{name}: other zeros"
    largest = np.abs(dense).max(1, keepdims=True)
    assert (np.abs(found - dense) <= error * largest).all(), f"{name}: {np.abs(found - dense).max()}"


def scipy_csr(name):
    t = tensors(name, "np")
    values = t["w.values"].astype(np.float32)
    if "w.scale" in t:
        values *= np.repeat(t["w.scale"], np.diff(t["w.crow_indices"]))
    return scipy.sparse.csr_matrix((values, t["w.col_indices"], t["w.crow_indices"]), t["w.shape"])


def torch_csr(name):
    import torch
    t = tensors(name, "pt")
    values = t["w.values"].float()
    if "w.scale" in t:
        values *= t["w.scale"].repeat_interleave(t["w.crow_indices"].diff())
    return torch.sparse_csr_tensor(t["w.crow_indices"], t["w.col_indices"], values, tuple(t["w.shape"].tolist()))


has_torch = importlib.util.find_spec("torch") is not None
for name, error in [("f32", 0), ("f16", 2**-11), ("bf16", 2**-8), ("int8", 0.51 / 127)]:
    path = f"{name}.csr.safetensors"
    if name != "bf16":  # NumPy has no bfloat16
        same(scipy_csr(path).toarray(), error, name)
    if has_torch:
        same(torch_csr(path).to_dense().numpy(), error, name)

t = tensors("mask.bitmask.safetensors", "np")
mask = np.unpackbits(t["w.bitmask"], axis=1, count=dense.shape[1], bitorder="little").astype(bool)
found = np.zeros(t["w.shape"], np.float32)
found[mask] = t["w.compressed"]
assert np.array_equal(found, dense) and np.array_equal(t["w.row_offsets"], np.cumsum(mask.sum(1)) - mask.sum(1))
print("npz, CSR and bitmask load" + (", with PyTorch" if has_torch else "; PyTorch is not installed"))
