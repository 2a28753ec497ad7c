#!/usr/bin/env python3
"""Writes small ONNX networks beside this script, each with an input and ONNX Runtime's output in NAME.safetensors.

Needs numpy, onnx and onnxruntime; the committed files come from onnx 1.23.2 and onnxruntime 1.32."""
import json
import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
BATCH = 3


def values(rng, *shape):
    return (rng.standard_normal(shape) * 0.5).astype(np.float32)


def initializers(**arrays):
    return [numpy_helper.from_array(array, name.replace("__", ".")) for name, array in arrays.items()]


def save_tensors(path, **arrays):
    header, data = {}, b""
    for name, array in arrays.items():
        start = len(data)
        data += array.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def save(name, opset, ir_version, nodes, weights, image, classes, inputs=(), sparse=(), batch="N"):
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *image]), *inputs],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, classes])],
        weights, sparse_initializer=list(sparse))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="generate")
    model.ir_version = ir_version
    onnx.checker.check_model(model)
    path = HERE / f"{name}.onnx"
    onnx.save(model, path)
    x = values(np.random.default_rng(5), BATCH, *image) * 4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    save_tensors(HERE / f"{name}.safetensors", input=x, output=session.run(None, {"input": x})[0])


def batch_norm(rng, prefix, channels):
    return initializers(**{
        f"{prefix}__weight": 1 + values(rng, channels), f"{prefix}__bias": values(rng, channels),
        f"{prefix}__running_mean": values(rng, channels), f"{prefix}__running_var": 1 + values(rng, channels) ** 2})


def all_operators():
    """Every operator with every attribute that is supported away from its default, in the usual opset."""
    rng = np.random.default_rng(1)
    node = helper.make_node
    nodes = [
        node("Conv", ["input", "stem.weight"], ["a"], "stem", pads=[2, 1, 0, 3], strides=[2, 1], dilations=[1, 2]),
        node("BatchNormalization", ["a", *(f"bn.{p}" for p in ("weight", "bias", "running_mean", "running_var"))],
             ["b"], "bn", epsilon=1e-3, momentum=0.8),
        node("Clip", ["b", "zero", "six"], ["c"], "relu6"),
        node("Conv", ["c", "grouped.weight", "grouped.bias"], ["d"], "grouped", group=2, pads=[1, 1, 1, 1],
             kernel_shape=[3, 3]),
        node("Add", ["c", "d"], ["e"], "sum"),
        node("Relu", ["e"], ["f"], "relu"),
        node("MaxPool", ["f"], ["g"], "max", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
        node("AveragePool", ["f"], ["h"], "mean", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
        node("Concat", ["g", "h", "g"], ["i"], "concat", axis=1),
        node("GlobalAveragePool", ["i"], ["j"], "pool"),
        node("Flatten", ["j"], ["k"], "flatten"),
        node("Gemm", ["k", "fc.weight", "fc.bias"], ["l"], "fc", transB=1),
        node("Softmax", ["l"], ["output"], "softmax"),
    ]
    weights = initializers(
        stem__weight=values(rng, 6, 3, 3, 3), zero=np.float32(0), six=np.float32(1.5),
        grouped__weight=values(rng, 6, 3, 3, 3), grouped__bias=values(rng, 6),
        fc__weight=values(rng, 5, 18), fc__bias=values(rng, 5)) + batch_norm(rng, "bn", 6)
    save("all_operators", 17, 8, nodes, weights, (3, 11, 10), 5)


def old_style():
    """Opset 7, where weights are inputs too, bounds are attributes, and nodes have no names."""
    rng = np.random.default_rng(2)
    node = helper.make_node
    weights = initializers(c__w=values(rng, 4, 2, 1, 1), g__w=values(rng, 4 * 3 * 3, 3), g__b=values(rng, 1, 3),
                           shape=np.array([0, -1], np.int64))
    nodes = [
        node("Conv", ["input", "c.w"], ["a"]),
        node("Clip", ["a"], ["b"], min=-0.5, max=1.0),
        node("Clip", ["b"], ["c"], max=0.75),
        node("AveragePool", ["c"], ["d"], kernel_shape=[2, 2], count_include_pad=1),
        node("Dropout", ["d"], ["e"], ratio=0.5),
        node("Reshape", ["e", "shape"], ["f"]),
        node("Gemm", ["f", "g.w", "g.b"], ["output"]),
        node("Relu", ["f"], ["unused"]),
    ]
    inputs = [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights]
    save("old_style", 7, 3, nodes, weights, (2, 4, 4), 3, inputs)


def exporters_style():
    """Constants and identities in the place of initializers, means for pools, MatMul and Add for linear layers."""
    rng = np.random.default_rng(3)
    node = helper.make_node
    dense = values(rng, 4, 2, 3, 3) * (rng.random((4, 2, 3, 3)) < 0.3)
    places = np.flatnonzero(dense)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(dense.reshape(-1)[places], "sparse.weight"),
        numpy_helper.from_array(places.astype(np.int64), "places"), list(dense.shape))
    nodes = [
        node("Constant", [], ["conv.bias"], value=numpy_helper.from_array(values(rng, 4))),
        node("Constant", [], ["least"], value_float=0.0),
        node("Identity", ["bn1.bias"], ["bn2.bias"]),
        node("Conv", ["input", "sparse.weight", "conv.bias"], ["a"], "conv"),
        node("BatchNormalization", ["a", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"], ["b"], "bn1"),
        node("BatchNormalization", ["b", "bn1.weight", "bn2.bias", "bn1.running_mean", "bn1.running_var"], ["c"], "bn2"),
        node("Clip", ["c", "least"], ["d"], "clip"),
        node("ReduceMean", ["d", "axes"], ["e"], "mean", keepdims=0),
        node("MatMul", ["e", "hidden.weight"], ["f"], "hidden"),
        node("Add", ["hidden.bias", "f"], ["g"], "hidden.add"),
        node("Identity", ["g"], ["h"], "identity"),
        node("MatMul", ["h", "out.weight"], ["output"], "out"),
    ]
    weights = initializers(axes=np.array([-1, 2], np.int64), hidden__weight=values(rng, 4, 7), hidden__bias=values(rng, 7),
                           out__weight=values(rng, 7, 3)) + batch_norm(rng, "bn1", 4)
    save("exporters_style", 22, 10, nodes, weights, (2, 5, 6), 3, sparse=[sparse])


all_operators()
old_style()
exporters_style()
