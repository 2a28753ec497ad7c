#!/usr/bin/env python3
"""Exports torchvision's classifiers to ONNX with random weights, and ONNX Runtime's answers beside them.

    python export_torchvision.py OUT [--size 224]
    for each: cargo run --release -p sr2-infer --example compare_onnx OUT/NAME.onnx OUT/NAME.safetensors

Needs torch, torchvision, onnx, onnxscript, onnxruntime and safetensors. NAME.safetensors holds `input` and `output`.
"""
import argparse
from pathlib import Path

import onnxruntime
import torch
import torchvision
from safetensors.numpy import save_file

NAMES = ["resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "densenet121", "mobilenet_v3_small", "squeezenet1_1",
         "googlenet", "efficientnet_b0", "regnet_y_400mf", "mnasnet1_0", "shufflenet_v2_x1_0"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--dynamo", action="store_true", help="PyTorch's newer exporter")
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    for name in arguments.names:
        torch.manual_seed(1)
        extra = {"init_weights": True} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, **extra)
        x = torch.randn(1, 3, arguments.size, arguments.size)
        with torch.no_grad():
            for _ in range(2):  # Statistics of batch norms that are not 0 and 1.
                model.train()(torch.randn(4, 3, arguments.size, arguments.size))
        model.eval()
        path = arguments.out / f"{name}.onnx"
        if arguments.dynamo:
            torch.onnx.export(model, (x,), path, dynamo=True, external_data=False,
                              dynamic_shapes=({0: torch.export.Dim("n")},))
        else:
            torch.onnx.export(model, (x,), path, dynamo=False, input_names=["input"], output_names=["output"],
                              dynamic_axes={"input": {0: "n"}, "output": {0: "n"}})
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answer = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        save_file({"input": x.numpy(), "output": answer}, arguments.out / f"{name}.safetensors")
        print(name, flush=True)


main()
