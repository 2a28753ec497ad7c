"""Makes elastic_net.json: a strongly convex l1 problem and its solution to double precision.

    min_x  1/(2 rows) |A x - b|^2 + ridge/2 |x|^2 + lambda |x|_1

solved by proximal gradient until the step is at rounding level; the optimality conditions are checked.
"""
import json
import pathlib

import numpy as np

rows, cols, ridge, lam = 40, 24, 0.05, 0.08
rng = np.random.default_rng(7)
a = rng.standard_normal((rows, cols)).astype(np.float32).astype(np.float64)
truth = np.where(rng.random(cols) < 0.3, rng.standard_normal(cols), 0.0)
b = (a @ truth + 0.05 * rng.standard_normal(rows)).astype(np.float32).astype(np.float64)

lipschitz = np.linalg.norm(a, 2) ** 2 / rows + ridge
x = np.zeros(cols)
for _ in range(20000):
    z = x - (a.T @ (a @ x - b) / rows + ridge * x) / lipschitz
    x = np.sign(z) * np.maximum(np.abs(z) - lam / lipschitz, 0.0)
gradient = a.T @ (a @ x - b) / rows + ridge * x
assert np.all(np.abs(gradient[x == 0]) < lam), "zeros are optimal"
assert np.allclose(gradient[x != 0], -lam * np.sign(x[x != 0]), atol=1e-12), "survivors are optimal"
assert 4 <= np.count_nonzero(x) <= 20

out = {"rows": rows, "cols": cols, "ridge": ridge, "lambda": lam, "a": a.ravel().tolist(), "b": b.tolist(), "x": x.tolist()}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
