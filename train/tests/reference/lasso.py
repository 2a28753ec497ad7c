"""Makes lasso.json: a strongly convex l1 problem and its solution by cyclic coordinate descent in double precision.

    min_x  1/(2 rows) |A x - b|^2 + lambda |x|_1,    A of full column rank

Descends until no coordinate moves any more (Friedman, Hastie, Tibshirani 2010, equation 5), then checks the optimality
conditions: |g_i| < lambda at zeros, g_i = -lambda sign(x_i) elsewhere.
"""
import json
import pathlib

import numpy as np

rows, cols, lam = 50, 20, 0.1
rng = np.random.default_rng(11)
a = rng.standard_normal((rows, cols)).astype(np.float32).astype(np.float64)
truth = np.where(rng.random(cols) < 0.4, rng.standard_normal(cols), 0.0)
b = (a @ truth + 0.1 * rng.standard_normal(rows)).astype(np.float32).astype(np.float64)
assert np.linalg.eigvalsh(a.T @ a / rows)[0] > 0.1, "strongly convex"

x = np.zeros(cols)
squares = (a * a).sum(axis=0) / rows
for sweep in range(10000):
    largest = 0.0
    for i in range(cols):
        z = a[:, i] @ (b - a @ x + a[:, i] * x[i]) / rows
        moved = np.sign(z) * max(abs(z) - lam, 0.0) / squares[i]
        largest = max(largest, abs(moved - x[i]))
        x[i] = moved
    if largest < 1e-16:
        break
gradient = a.T @ (a @ x - b) / rows
assert np.all(np.abs(gradient[x == 0]) < 0.99 * lam), "zeros are optimal, none by a hair"
assert np.allclose(gradient[x != 0], -lam * np.sign(x[x != 0]), atol=1e-14), "survivors are optimal"
assert 4 <= np.count_nonzero(x) <= 16

out = {"rows": rows, "cols": cols, "ridge": 0.0, "lambda": lam, "a": a.ravel().tolist(), "b": b.tolist(), "x": x.tolist()}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
