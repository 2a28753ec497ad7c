"""Losses, gradients, running statistics and logits of small graphs, computed by PyTorch in f64.

Usage: python tape.py > tape.json     (made with torch 2.15)

The graphs are in the serialised form of sr2_models::Graph. Parameters, images and labels follow from `noise`, which
the test repeats, so the file holds results only.
"""

import json

import torch
import torch.nn.functional as F


def noise(index):
    """A value between -1 and 1 that depends only on `index`, exact in f32."""
    mask = (1 << 64) - 1
    h = (index + 1) * 0x9E3779B97F4A7C15 & mask
    h = ((h ^ (h >> 29)) * 0xBF58476D1CE4E5B9 & mask) >> 40
    return h / (1 << 23) - 1.0


class Net:
    """Builds a graph node by node; every method returns the value made."""

    def __init__(self, name, image):
        self.graph = {"name": name, "input": image, "nodes": []}

    def push(self, op, *inputs, **attributes):
        nodes = self.graph["nodes"]
        nodes.append({"name": f"n{len(nodes)}", "op": op, "inputs": list(inputs), **attributes})
        return len(nodes)

    def conv(self, x, out, k=3, stride=1, pads=None, groups=1, bias=False, dilation=1):
        n = f"conv{len(self.graph['nodes'])}"
        return self.push(
            "Conv", x, weight=f"{n}.weight", bias=f"{n}.bias" if bias else None, out_channels=out, kernel=[k, k],
            stride=[stride, stride], pads=pads or [k // 2] * 4, dilation=[dilation, dilation], groups=groups)

    def norm(self, x, momentum=0.1):
        n = f"bn{len(self.graph['nodes'])}"
        return self.push(
            "BatchNormalization", x, scale=f"{n}.weight", shift=f"{n}.bias", mean=f"{n}.running_mean",
            var=f"{n}.running_var", epsilon=1e-5, momentum=momentum)

    def relu(self, x):
        return self.push("Relu", x)

    def pool(self, op, x, k, stride, pads=(0, 0, 0, 0)):
        return self.push(op, x, kernel=[k, k], stride=[stride, stride], pads=list(pads))

    def head(self, x, classes, flatten_only=False):
        if not flatten_only:
            x = self.push("GlobalAveragePool", x)
        x = self.push("Flatten", x)
        self.push("Gemm", x, weight="fc.weight", bias="fc.bias", out_features=classes)
        return self.graph


def residual():
    """Basic blocks: identity shortcut, strided 1x1 shortcut with its own batch norm, and pre-activation."""
    n = Net("residual", [3, 9, 9])
    x = n.relu(n.norm(n.conv(0, 16)))
    y = n.relu(n.norm(n.conv(x, 16)))
    x = n.relu(n.push("Add", n.norm(n.conv(y, 16)), x))
    y = n.relu(n.norm(n.conv(x, 20, stride=2)))
    y = n.norm(n.conv(y, 20))
    s = n.norm(n.conv(x, 20, k=1, stride=2, pads=[0] * 4), momentum=0.3)
    x = n.relu(n.push("Add", y, s))
    y = n.conv(n.relu(n.norm(x)), 20)
    x = n.push("Add", x, y)
    x = n.push("Add", x, x)
    return n.head(n.relu(x), 5)


def dense():
    """Concatenations of whole and of odd blocks, all pools, biases, a flattened image."""
    n = Net("dense", [3, 12, 10])
    x = n.relu(n.conv(0, 16, bias=True))
    x = n.pool("MaxPool", x, 3, 2, [1, 1, 1, 1])
    y = n.conv(n.relu(n.norm(x)), 7)
    x = n.push("Concat", x, y)
    z = n.conv(n.relu(n.norm(x)), 9)
    x = n.push("Concat", x, z, y)
    x = n.pool("AveragePool", n.conv(x, 12, k=1, bias=True), 2, 2)
    x = n.push("Identity", n.norm(x))
    return n.head(n.pool("MaxPool", x, 2, 1), 11, flatten_only=True)


def mobile():
    """Inverted residuals with ReLU6, depthwise and grouped convolutions, odd kernels, strides and dilation."""
    n = Net("mobile", [3, 11, 11])

    def relu6(x):
        return n.push("Clip", x, min=0.0, max=6.0)

    x = relu6(n.norm(n.conv(0, 18, k=5, stride=2, pads=[2, 1, 2, 1])))
    y = relu6(n.norm(n.conv(x, 24, k=1)))
    y = relu6(n.norm(n.conv(y, 24, groups=24)))
    x = n.push("Add", x, n.norm(n.conv(y, 18, k=1)))
    y = relu6(n.conv(x, 36, k=1, bias=True))
    y = relu6(n.norm(n.conv(y, 36, stride=2, groups=36)))
    y = n.conv(y, 24, groups=3, dilation=2, pads=[2] * 4)
    return n.head(relu6(y), 4)


def parameter_shapes(graph):
    """Name, shape and kind of every parameter in order of first use, and the shapes of the values."""
    with torch.no_grad():
        shapes, parameters = [tuple(graph["input"])], []
        for node in graph["nodes"]:
            c = shapes[node["inputs"][0]][0]
            if node["op"] == "Conv":
                k = node["kernel"]
                parameters.append((node["weight"], (node["out_channels"], c // node["groups"], *k), "weight"))
                if node["bias"]:
                    parameters.append((node["bias"], (node["out_channels"],), "bias"))
            elif node["op"] == "Gemm":
                parameters.append((node["weight"], (node["out_features"], c), "weight"))
                parameters.append((node["bias"], (node["out_features"],), "bias"))
            elif node["op"] == "BatchNormalization":
                parameters += [(node["scale"], (c,), "scale"), (node["shift"], (c,), "bias"),
                               (node["mean"], (c,), "mean"), (node["var"], (c,), "var")]
            inputs = [torch.zeros(2, *shapes[i]) for i in node["inputs"]]
            zeros = {name: torch.zeros(shape) for name, shape, _ in parameters}
            shapes.append(tuple(apply(node, inputs, zeros, training=False).shape[1:]))
        return parameters


def apply(node, x, p, training):
    op = node["op"]
    if op == "Conv":
        t, l, b, r = node["pads"]
        bias = p[node["bias"]] if node["bias"] else None
        return F.conv2d(F.pad(x[0], (l, r, t, b)), p[node["weight"]], bias, node["stride"], 0, node["dilation"],
                        node["groups"])
    if op == "BatchNormalization":
        return F.batch_norm(x[0], p[node["mean"]], p[node["var"]], p[node["scale"]], p[node["shift"]], training,
                            node["momentum"], node["epsilon"])
    if op in ("MaxPool", "AveragePool"):
        pad = node["pads"][0]
        assert node["pads"] == [pad] * 4
        if op == "MaxPool":
            return F.max_pool2d(x[0], node["kernel"], node["stride"], pad)
        return F.avg_pool2d(x[0], node["kernel"], node["stride"], pad, count_include_pad=False)
    return {
        "Relu": lambda: F.relu(x[0]),
        "Clip": lambda: F.hardtanh(x[0], node.get("min"), node.get("max")),
        "Add": lambda: x[0] + x[1],
        "Concat": lambda: torch.cat(x, 1),
        "GlobalAveragePool": lambda: x[0].mean((2, 3), keepdim=True),
        "Flatten": lambda: x[0].flatten(1),
        "Gemm": lambda: F.linear(x[0], p[node["weight"]], p[node["bias"]]),
        "Identity": lambda: x[0],
    }[op]()


def run(graph, p, images, training):
    values = [images]
    for node in graph["nodes"]:
        values.append(apply(node, [values[i] for i in node["inputs"]], p, training))
    return values[-1]


def reference(graph, count):
    parameters, at = {}, 0
    specs = parameter_shapes(graph)
    for name, shape, kind in specs:
        n = torch.Size(shape).numel()
        if kind in ("mean", "var"):
            parameters[name] = torch.full(shape, 0.0 if kind == "mean" else 1.0, dtype=torch.float64)
            continue
        v = torch.tensor([noise(at + i) for i in range(n)], dtype=torch.float64).reshape(shape)
        at += n
        v = 1.0 + 0.5 * v if kind == "scale" else 0.5 * v
        parameters[name] = v.requires_grad_()
    size = torch.Size([count, *graph["input"]])
    images = torch.tensor([noise(i) for i in range(size.numel())], dtype=torch.float64).reshape(size)
    classes = graph["nodes"][-1]["out_features"]
    labels = torch.tensor([i % classes for i in range(count)])
    logits = run(graph, parameters, images, training=True)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    flat = lambda tensors: [float(f"{v:.7g}") for t in tensors for v in t.flatten().tolist()]
    with torch.no_grad():
        evaluated = run(graph, parameters, images, training=False)
    return {
        "graph": graph,
        "count": count,
        "loss": loss.item(),
        "correct": int((logits.argmax(1) == labels).sum()),
        "gradient": flat(parameters[n].grad for n, _, k in specs if k not in ("mean", "var")),
        "buffers": flat(parameters[n] for n, _, k in specs if k in ("mean", "var")),
        "logits": flat([evaluated]),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    cases = [reference(residual(), 3), reference(dense(), 4), reference(mobile(), 5)]
    print("[" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]")
