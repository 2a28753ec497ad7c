#!/usr/bin/env python3
"""Writes tiny.onnx: a convolution, ReLU, pooling and a linear layer over 3x8x8 images with a free batch, and
tiny.json: two seeded images and the logits that the onnx package's reference evaluator gives for them."""
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HERE = Path(__file__).resolve().parent
rng = np.random.default_rng(5)


def weights(name, *shape):
    values = rng.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        values[rng.random(shape) < 0.8] = 0
    return numpy_helper.from_array(values, name)


initializers = [weights("conv.weight", 6, 3, 3, 3), weights("conv.bias", 6),
                weights("fc.weight", 4, 6), weights("fc.bias", 4)]
nodes = [
    helper.make_node("Conv", ["input", "conv.weight", "conv.bias"], ["conv"], name="conv", kernel_shape=[3, 3],
                     strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1], group=1),
    helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
    helper.make_node("GlobalAveragePool", ["relu"], ["pool"], name="pool"),
    helper.make_node("Flatten", ["pool"], ["flat"], name="flat", axis=1),
    helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
]
graph = helper.make_graph(
    nodes, "tiny", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])], initializers)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, HERE / "tiny.onnx")
images = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
logits = ReferenceEvaluator(model).run(None, {"input": images})[0]
(HERE / "tiny.json").write_text(json.dumps({"images": images.ravel().tolist(), "logits": logits.ravel().tolist()}) + "\n")
