"""Loads an export with the tools its users have, and compares it with what the checkpoint gave.

Usage: load_exports.py EXPORT_FOLDER EXPECTED.json
EXPECTED.json holds images, their shape, logits and the tolerance, relative to the largest logit.
Checks: safetensors and SciPy (and PyTorch, if it is installed) read the weights; the CSR arrays are canonical and equal
the ONNX initializers; the zeros are the same in all files; onnx.checker with full, strict shape inference passes;
ONNX Runtime gives the logits, at another batch size too; every Python block of the model card runs."""
import importlib.util
import json
import os
import re
import sys

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix

HAS_TORCH = importlib.util.find_spec("torch") is not None


def read_csr(path):
    """Every tensor of a CSR safetensors file, dense, and the names of the sparse ones."""
    tensors = load_file(path)
    names = [key.removesuffix(".crow_indices") for key in tensors if key.endswith(".crow_indices")]
    dense = {}
    for name in names:
        crow, col, values, shape = (tensors.pop(f"{name}.{part}") for part in
                                    ("crow_indices", "col_indices", "values", "shape"))
        assert crow.dtype == col.dtype == np.int32 and values.dtype == np.float32, name
        matrix = csr_matrix((values, col, crow), shape=(shape[0], shape[1:].prod()))
        matrix.check_format(full_check=True)
        assert matrix.has_canonical_format and matrix.count_nonzero() == matrix.nnz, name
        if HAS_TORCH:
            import torch
            sparse = torch.sparse_csr_tensor(*map(torch.from_numpy, (crow, col, values)), matrix.shape,
                                             check_invariants=True)
            assert np.array_equal(sparse.to_dense().numpy(), matrix.toarray()), name
        dense[name] = matrix.toarray().reshape(shape)
    return {**tensors, **dense}, names


def check_weights(dense, csr, sparse_names, initializers):
    assert sparse_names, "no sparse weight"
    for name in sparse_names:
        assert np.array_equal(csr[name], initializers[name]), f"{name}: CSR and ONNX differ"
        assert np.array_equal(csr[name] == 0, dense[name] == 0), f"{name}: other zeros than the dense file"
    for name in csr.keys() - set(sparse_names):
        assert np.array_equal(csr[name], initializers[name]), f"{name}: CSR and ONNX differ"


def check_onnx(path, expected):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.array(expected["images"], np.float32).reshape(expected["shape"])
    logits = np.array(expected["logits"], np.float32).reshape(len(images), -1)
    for batch in (images, images[:1]):
        found = session.run(["output"], {"input": batch})[0]
        difference = np.abs(found - logits[: len(batch)]).max() / np.abs(logits).max()
        assert difference <= expected["tolerance"], f"ONNX Runtime's logits differ by {difference:.1e}"
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}, difference


def run_model_card():
    """Runs the card's Python blocks; those for PyTorch only where it is installed."""
    with open("README.md", encoding="utf-8") as file:
        blocks = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    assert len(blocks) == 4, f"{len(blocks)} Python blocks"
    runnable = [block for block in blocks if HAS_TORCH or "torch" not in block]
    for block in runnable:
        exec(compile(block, "README.md", "exec"), {})
    return len(runnable), len(blocks)


def main(folder, expected_path):
    with open(expected_path, encoding="utf-8") as file:
        expected = json.load(file)
    os.chdir(folder)
    initializers, difference = check_onnx("model.onnx", expected)
    csr, sparse_names = read_csr("model.csr.safetensors")
    check_weights(load_file("model.safetensors"), csr, sparse_names, initializers)
    ran, blocks = run_model_card()
    print(f"{len(sparse_names)} CSR weights, logits of ONNX Runtime within {difference:.1e}, "
          f"{ran} of {blocks} code blocks of the model card run, PyTorch {'yes' if HAS_TORCH else 'not installed'}")


main(*sys.argv[1:])
