"""Loads every form of ONNX file with every Python reader and compares the logits.

Usage: read_onnx_forms.py FOLDER [FOLDER ...]
A folder holds FORM.onnx of each form, and expected.json: images, their shape, logits, the tolerance relative to the
largest logit, and which readers load which form. Each file must pass onnx.checker; a reader must give the logits of
the forms it loads, and fail on the others (of the first folder). Readers run in processes of their own, since
OpenCV 5.0.0 dies of sparse initializers."""
import json
import os
import subprocess
import sys

import numpy as np


def ort(path):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["output"], {"input": images})[0]


def openvino(path):
    import openvino
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled([images])[0]


def opencv(path):
    import cv2
    network = cv2.dnn.readNetFromONNX(path)

    def run(images):
        network.setInput(images)
        return network.forward()
    return run


def onnx(path):
    from onnx.reference import ReferenceEvaluator
    evaluator = ReferenceEvaluator(path)
    return lambda images: evaluator.run(None, {"input": images})[0]


READERS = {"ort": ort, "openvino": openvino, "opencv": opencv, "onnx": onnx}


def check_structure(folder, form):
    import onnx
    model = onnx.load(os.path.join(folder, form + ".onnx"))
    # Shape inference does not take a sparse weight for a Conv.
    onnx.checker.check_model(model, full_check=form != "sparse-init")
    assert bool(model.graph.sparse_initializer) == (form == "sparse-init")


def read(reader, form, folder):
    expected = load_expected(folder)
    images = np.array(expected["images"], np.float32).reshape(expected["shape"])
    logits = np.array(expected["logits"], np.float32).reshape(len(images), -1)
    found = READERS[reader](os.path.join(folder, form + ".onnx"))(images)
    difference = np.abs(found - logits).max() / np.abs(logits).max()
    assert difference <= expected["tolerance"], f"{reader}, {form}, {folder}: logits differ by {difference:.1e}"
    print(f"{reader} loads {form}, logits within {difference:.1e}")


def load_expected(folder):
    with open(os.path.join(folder, "expected.json"), encoding="utf-8") as file:
        return json.load(file)


def start(reader, forms, folders):
    command = [sys.executable, __file__, "--reader", reader, ",".join(forms), *folders]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_all(folders):
    loads = load_expected(folders[0])["loads"]
    runs = []
    for reader in READERS:
        loaded = [form for form in loads if reader in loads[form]]
        runs.append((reader, loaded, True, start(reader, loaded, folders)))
        refused = [form for form in loads if form not in loaded]
        runs += [(reader, [form], False, start(reader, [form], folders[:1])) for form in refused]
    for form in loads:
        for folder in folders:
            check_structure(folder, form)
    failures = 0
    for reader, forms, loaded, process in runs:
        output = process.communicate(timeout=60)[0]
        if loaded == (process.returncode == 0):
            print(output.rstrip() if loaded else f"{reader} refuses {forms[0]}")
        else:
            failures += 1
            print(f"{reader} {'does not load' if loaded else 'loads'} {forms}:\n{output}")
    return failures


def main(arguments):
    if arguments[0] != "--reader":
        return read_all(arguments)
    reader, forms, *folders = arguments[1:]
    for form in forms.split(","):
        for folder in folders:
            read(reader, form, folder)
    return 0


sys.exit(main(sys.argv[1:]))
