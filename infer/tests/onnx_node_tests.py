#!/usr/bin/env python3
"""Writes the single-node tests of the onnx package for the operators of the importer into the folder given.

Each becomes NAME.onnx with one input, its other inputs constants, and NAME.safetensors with `input` and `output`.
Where only the values matter, shapes become an image's: those of element-wise operators; two values to combine become
the halves of one input. A test that is left out has a reason below; one that has neither a rule nor a reason is an error.
"""
import importlib
import json
import pkgutil
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as onnx_cases
from onnx.reference.ops import op_pool_common

warnings.filterwarnings("ignore")

ELEMENTWISE = ["Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Clip", "Identity", "Dropout"]
FEATURES = ["Gemm", "MatMul", "Softmax"]
IMAGES = ["Conv", "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Flatten",
          "Reshape", "Pad"]
PAIRS = ["Add", "Mul", "Concat"]

LEFT_OUT = {
    "training_mode": "training", "test_training_": "training",
    "with_argmax": "a second output of indices",
    "axis0": "mixes images", "axis2": "mixes images", "axis3": "mixes images", "negative_axis1": "mixes images",
    "negative_axis2": "mixes images", "negative_axis4": "mixes images", "2d_axis_0": "mixes images",
    "2d_axis_negative_2": "mixes images",
    "transposeA": "mixes images", "all_attributes": "mixes images", "matrix_bias": "differs between images",
    "_bcast": "broadcasts along the width",
    "test_constant": "has no input",
}


def collect():
    """The cases of the operators above: the package's own collection takes long over all the others, and over pooling
    of volumes, which is left out here."""
    pool = op_pool_common.pool
    op_pool_common.pool = lambda padded, shape, *rest, **named: (
        pool(padded, shape, *rest, **named) if len(shape) == 4 else np.zeros(1, np.float32))
    operators = {op.lower() for op in ELEMENTWISE + FEATURES + IMAGES + PAIRS + ["Constant"]}
    for module in pkgutil.iter_modules(onnx_cases.__path__):
        if module.name.replace("_", "") in operators:
            importlib.import_module(f"{onnx_cases.__name__}.{module.name}")
    return onnx_cases._NodeTestCases


def save_tensors(path, **arrays):
    header, data = {}, b""
    for name, array in arrays.items():
        start = len(data)
        data += array.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def save(folder, case, nodes, x, constants, y):
    graph = helper.make_graph(
        nodes, case.name,
        [helper.make_tensor_value_info("the_input", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    model = helper.make_model(graph, opset_imports=case.model.opset_import)
    (folder / f"{case.name}.onnx").write_bytes(model.SerializeToString())
    save_tensors(folder / f"{case.name}.safetensors", input=x, output=y)


def pair(folder, case, node, values, y):
    """The two values as halves of a feature input, told apart by products with a constant."""
    a, b = [v if node.op_type == "Concat" else v.reshape(1, -1) for v in values]
    halves = np.eye(2 * a.shape[1], dtype=np.float32)
    constants = {"first": halves[:, :a.shape[1]], "second": halves[:, a.shape[1]:]}
    nodes = [helper.make_node("MatMul", ["the_input", half], [name]) for half, name in zip(constants, node.input)]
    save(folder, case, [*nodes, node], np.concatenate([a, b], 1), constants, y)


def is_image_test(op, x):
    return x.ndim == (2 if op in FEATURES else 4)


def main():
    folder, written = Path(sys.argv[1]), set()
    for case in collect():
        nodes = case.model.graph.node
        op = nodes[0].op_type
        if len(nodes) != 1 or op not in ELEMENTWISE + FEATURES + IMAGES + PAIRS + ["Constant"] or case.name in written:
            continue
        (values, outputs), node = case.data_sets[0], nodes[0]
        values = [v if isinstance(v, np.ndarray | np.generic) else None for v in values]
        if any(reason in case.name for reason in LEFT_OUT) or values[0] is None or values[0].dtype != np.float32:
            continue
        del node.output[1:]  # Dropout's mask
        if op in PAIRS:
            if op != "Concat" or values[0].ndim == 2:
                pair(folder, case, node, values, np.asarray(outputs[0]))
                written.add(case.name)
            continue
        x, y = values[0], np.asarray(outputs[0])
        if op in ELEMENTWISE:
            x = x.reshape(1, 1, 1, -1)
        elif not is_image_test(op, x):
            continue
        names = [name for name in node.input if name]
        constants = dict(zip(names[1:], values[1:]))
        node.input[0] = "the_input"
        save(folder, case, [node], x, constants, y)
        written.add(case.name)
    print(len(written))


main()
