#!/usr/bin/env python3
"""Quantises an ONNX network to int8 by onnxruntime.quantization, for `sr2-prune bench MODEL --against OUT`.

    python quantise.py MODEL.onnx OUT.onnx

Weights a channel, activations calibrated on 32 seeded images of mean 0 and variance 1. Needs onnx, onnxruntime
and sympy."""
import sys

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Images(CalibrationDataReader):
    def __init__(self, model):
        value = onnx.load(model, load_external_data=False).graph.input[0]
        shape = [max(d.dim_value, 1) for d in value.type.tensor_type.shape.dim]
        rng = np.random.default_rng(1)
        bound = 3 ** 0.5
        self.images = iter([{value.name: rng.uniform(-bound, bound, shape).astype(np.float32)} for _ in range(32)])

    def get_next(self):
        return next(self.images, None)


model, out = sys.argv[1:]
quant_pre_process(model, out)
quantize_static(out, out, Images(model), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
