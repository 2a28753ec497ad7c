"""Makes every_operator.json with PyTorch: a small network of every trainable operator, one batch, the loss and its
gradient in training mode, the running statistics after it, and the logits in evaluation mode with those statistics.
Computed in double precision from float32 inputs.

    python every_operator.py
"""
import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(3)
torch.set_default_dtype(torch.float64)
nodes, tensors, buffers = [], {}, {}


def node(name, op, inputs, **attributes):
    nodes.append({"name": name, "op": op, **attributes, "inputs": inputs})
    return len(nodes)


def parameter(name, *shape, scale=1.0, base=0.0):
    tensors[name] = (base + scale * torch.randn(shape)).float().double().requires_grad_()
    return name


def conv(name, x, channels, inputs, kernel, stride, pads, groups=1, bias=False, dilation=(1, 1)):
    weight = parameter(f"{name}.weight", channels, inputs // groups, *kernel, scale=(2 / (inputs // groups * kernel[0] * kernel[1])) ** 0.5)
    bias = parameter(f"{name}.bias", channels, scale=0.3) if bias else None
    return node(name, "Conv", [x], weight=weight, bias=bias, out_channels=channels, kernel=kernel, stride=stride, pads=pads,
                dilation=dilation, groups=groups)


def norm(name, x, channels):
    parameter(f"{name}.weight", channels, scale=0.2, base=1.0)
    parameter(f"{name}.bias", channels, scale=0.2)
    buffers[f"{name}.running_mean"] = torch.randn(channels).float().double()
    buffers[f"{name}.running_var"] = (torch.rand(channels) + 0.5).float().double()
    return node(name, "BatchNormalization", [x], scale=f"{name}.weight", shift=f"{name}.bias", mean=f"{name}.running_mean",
                var=f"{name}.running_var", epsilon=1e-5, momentum=0.1)


x = norm("stem_bn", conv("stem", 0, 8, 3, [3, 3], [1, 1], [1, 1, 1, 1]), 8)
x = node("stem_relu", "Relu", [x])
x = node("max", "MaxPool", [x], kernel=[3, 3], stride=[2, 2], pads=[1, 1, 1, 1])
left = norm("depthwise_bn", conv("depthwise", x, 8, 8, [3, 3], [1, 1], [2, 2, 2, 2], groups=8, dilation=[2, 2]), 8)
left = node("relu6", "Clip", [left], min=0.0, max=1.0)
left = conv("pointwise", left, 8, 8, [1, 1], [1, 1], [0, 0, 0, 0], bias=True)
x = node("add", "Add", [x, left])
right = norm("lopsided_bn", conv("lopsided", x, 4, 8, [2, 3], [1, 1], [0, 1, 1, 1], groups=2), 4)
x = node("concat", "Concat", [x, right])
x = node("average", "AveragePool", [x], kernel=[3, 3], stride=[1, 1], pads=[1, 1, 1, 1])
x = node("identity", "Identity", [x])
x = norm("down_bn", conv("down", x, 10, 12, [3, 3], [2, 2], [1, 1, 1, 1]), 10)
x = node("down_relu", "Relu", [x])
x = node("mean", "GlobalAveragePool", [x])
x = node("flatten", "Flatten", [x])
parameter("fc.weight", 5, 10, scale=0.5)
parameter("fc.bias", 5, scale=0.1)
node("fc", "Gemm", [x], weight="fc.weight", bias="fc.bias", out_features=5)


def run(images, training):
    values = [images]
    for n in nodes:
        a = [values[i] for i in n["inputs"]]
        match n["op"]:
            case "Conv":
                t, l, b, r = n["pads"]
                y = F.conv2d(F.pad(a[0], (l, r, t, b)), tensors[n["weight"]], tensors.get(n["bias"]), n["stride"], 0, n["dilation"], n["groups"])
            case "BatchNormalization":
                y = F.batch_norm(a[0], buffers[n["mean"]], buffers[n["var"]], tensors[n["scale"]], tensors[n["shift"]], training,
                                 n["momentum"], n["epsilon"])
            case "Relu":
                y = F.relu(a[0])
            case "Clip":
                y = F.hardtanh(a[0], n["min"], n["max"])
            case "Add":
                y = a[0] + a[1]
            case "Concat":
                y = torch.cat(a, 1)
            case "MaxPool":
                y = F.max_pool2d(a[0], n["kernel"], n["stride"], n["pads"][:2])
            case "AveragePool":
                y = F.avg_pool2d(a[0], n["kernel"], n["stride"], n["pads"][:2], count_include_pad=False)
            case "GlobalAveragePool":
                y = a[0].mean((2, 3), keepdim=True)
            case "Flatten":
                y = a[0].flatten(1)
            case "Gemm":
                y = F.linear(a[0], tensors[n["weight"]], tensors[n["bias"]])
            case "Identity":
                y = a[0]
        values.append(y)
    return values[-1]


def dump(named):
    return {k: {"shape": list(v.shape), "data": v.detach().float().flatten().tolist()} for k, v in named.items()}


images = torch.randn(6, 3, 8, 8).float().double()
labels = torch.tensor([0, 1, 2, 3, 4, 1])
before = dump(buffers)
logits = run(images, True)
loss = F.cross_entropy(logits, labels)
loss.backward()
out = {
    "graph": {"name": "every_operator", "input": [3, 8, 8], "nodes": nodes},
    "parameters": dump(tensors) | before,
    "images": images.float().flatten().tolist(),
    "labels": labels.tolist(),
    "loss": loss.item(),
    "correct": int((logits.argmax(1) == labels).sum()),
    "gradient": dump({k: v.grad for k, v in tensors.items()}),
    "buffers_after": dump(buffers),
    "logits_after": run(images, False).detach().float().flatten().tolist(),
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
