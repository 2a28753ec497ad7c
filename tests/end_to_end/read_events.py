"""Reads the events of a run as TensorBoard does, and compares every scalar with metrics.jsonl. Usage: read_events.py RUN"""
import json
import pathlib
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEP = {f"step/{name}": name for name in ["loss", "xi", "sigma", "lambda", "stationarity", "sparsity", "rho"]}
EPOCH = {
    "loss/training": "loss",
    "loss/validation": "validation_loss",
    "accuracy/training": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "epoch/sparsity": "sparsity",
    "epoch/acceptance_rate": "acceptance_rate",
    "epoch/images_per_s": "images_per_s",
}

run = pathlib.Path(sys.argv[1])
events = EventAccumulator(str(run))
events.Reload()
found = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}

expected = {}
for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
    for tag, name in (STEP if record["kind"] == "step" else EPOCH).items():
        if record[name] is not None:
            expected[tag, record["step"]] = float(np.float32(record[name]))

assert {tag for tag, _ in expected} >= {"step/loss", "accuracy/validation"}, expected
assert found == expected, f"found {found}, expected {expected}"
