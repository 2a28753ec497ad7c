#!/usr/bin/env python3
"""Writes what PyTorch says about every network of the zoo, beside this file:

NAME.json          names and shapes of the state dict, multiply-adds of an image, and the logits of two images in
                   float64, for weights and images made by `recipe` (written again in ../zoo_references.rs)
operators.json     single operators with uneven windows, as graphs, and their outputs
resnet8.safetensors  a state dict of a network trained for a few steps, in half precision, saved by
                   `safetensors.torch`; resnet8_trained.json holds its logits

The networks are written here in plain PyTorch, after torchvision 0.20 (resnet, vgg, densenet, mobilenet_v2),
chenyaofo/pytorch-cifar-models (resnet20 to resnet56) and xternalz/WideResNet-pytorch (wrn).

Made with torch 2.15, numpy 2.4, safetensors 0.8: python3 make_references.py [NAME ...]"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

HERE = Path(__file__).parent


class ConvBN(nn.Sequential):
    """torchvision's Conv2dNormActivation without bias; children 0, 1 and, with an activation, 2."""

    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, activation=nn.ReLU6):
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
                         nn.BatchNorm2d(outputs), activation())


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample(inputs, width, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample(inputs, 4 * width, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def downsample(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self, block, widths, blocks, classes, stem_stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for i, (width, count) in enumerate(zip(widths, blocks)):
            layer = []
            for j in range(count):
                layer.append(block(inputs, width, 2 if i > 0 and j == 0 else 1))
                inputs = width * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))
        self.layers = len(blocks)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(self.layers):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class VGG(nn.Module):
    def __init__(self, configuration, classes):
        super().__init__()
        layers, inputs = [], 3
        for v in configuration:
            if v == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, v, 3, padding=1), nn.BatchNorm2d(v), nn.ReLU()]
                inputs = v
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 128, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, features):
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers, inputs):
        super().__init__({f"denselayer{i + 1}": DenseLayer(inputs + 32 * i) for i in range(layers)})

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    def __init__(self, inputs):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2, 2)


class DenseNet(nn.Module):
    def __init__(self, layers, classes):
        super().__init__()
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(3, 64, 7, padding=3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(64)
        self.features.relu0 = nn.ReLU()
        channels = 64
        for i, count in enumerate(layers):
            setattr(self.features, f"denseblock{i + 1}", DenseBlock(count, channels))
            channels += 32 * count
            if i < 3:
                setattr(self.features, f"transition{i + 1}", Transition(channels))
                channels //= 2
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(F.relu(self.features(x)), 1)
        return self.classifier(torch.flatten(x, 1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        layers = [ConvBN(inputs, hidden, 1)] if expansion != 1 else []
        layers += [ConvBN(hidden, hidden, 3, stride, groups=hidden), nn.Conv2d(hidden, outputs, 1, bias=False),
                   nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes):
        super().__init__()
        features, inputs = [ConvBN(3, 32, 3, stride=1)], 32
        for t, c, n, s in [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                           (6, 320, 1, 1)]:
            for i in range(n):
                features.append(InvertedResidual(inputs, c, s if i == 0 else 1, t))
                inputs = c
        features.append(ConvBN(inputs, 1280, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        if self.convShortcut is not None:
            x = self.convShortcut(y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideStage(nn.Module):
    def __init__(self, blocks, inputs, outputs, stride):
        super().__init__()
        self.layer = nn.Sequential(*[WideBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1)
                                     for i in range(blocks)])

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, widen, classes):
        super().__init__()
        blocks, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(blocks, widths[0], widths[1], 1)
        self.block2 = WideStage(blocks, widths[1], widths[2], 2)
        self.block3 = WideStage(blocks, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


CIFAR, IMAGENET = [16, 32, 64], [64, 128, 256, 512]
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
VGG19 = [64, 64, "M", 128, 128, "M"] + [256] * 4 + ["M"] + [512] * 4 + ["M"] + [512] * 4 + ["M"]
NETWORKS = {
    "resnet8": (10, lambda c: ResNet(BasicBlock, [24, 40, 80], [1, 1, 1], c, stem_stride=2)),
    "resnet20": (10, lambda c: ResNet(BasicBlock, CIFAR, [3] * 3, c)),
    "resnet32": (10, lambda c: ResNet(BasicBlock, CIFAR, [5] * 3, c)),
    "resnet44": (10, lambda c: ResNet(BasicBlock, CIFAR, [7] * 3, c)),
    "resnet56": (10, lambda c: ResNet(BasicBlock, CIFAR, [9] * 3, c)),
    "resnet18": (10, lambda c: ResNet(BasicBlock, IMAGENET, [2, 2, 2, 2], c)),
    "resnet34": (10, lambda c: ResNet(BasicBlock, IMAGENET, [3, 4, 6, 3], c)),
    "resnet50": (10, lambda c: ResNet(Bottleneck, IMAGENET, [3, 4, 6, 3], c)),
    "wrn_22_2": (10, lambda c: WideResNet(22, 2, c)),
    "vgg16_bn": (10, lambda c: VGG(VGG16, c)),
    "vgg19_bn": (10, lambda c: VGG(VGG19, c)),
    "mobilenet_v2": (10, MobileNetV2),
    "densenet121": (10, lambda c: DenseNet([6, 12, 24, 16], c)),
    "densenet201": (100, lambda c: DenseNet([6, 12, 48, 32], c)),
}


def recipe(name, count):
    """Uniform values in [0, 1), multiples of 2^-24: SplitMix64 started at the FNV-1a hash of the name."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def tensor(name, shape, low, high):
    values = low + (high - low) * recipe(name, int(np.prod(shape)))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def weights(model):
    """The state dict by the recipe. Variance 4/3 / fan-in keeps both deep and residual networks' activations sane."""
    state = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            ranges = {"weight": (0.5, 1.5), "bias": (-0.25, 0.25), "running_mean": (-0.25, 0.25),
                      "running_var": (0.5, 1.5)}
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = np.sqrt(4 / np.prod(module.weight.shape[1:]))
            ranges = {"weight": (-bound, bound), "bias": (-0.25, 0.25)}
        else:
            continue
        for kind, (low, high) in ranges.items():
            if getattr(module, kind) is not None:
                name = f"{path}.{kind}"
                state[name] = tensor(name, getattr(module, kind).shape, low, high)
    return state


def images():
    """Two images: squares of 8x8 pixels, so that they differ in more than noise, and noise."""
    squares = tensor("squares", (2, 3, 4, 4), -2.0, 2.0)
    return squares.repeat_interleave(8, 2).repeat_interleave(8, 3) + tensor("noise", (2, 3, 32, 32), -1.0, 1.0)


def logits(model):
    with torch.no_grad():
        return model.double().eval()(images().double()).tolist()


def multiply_adds(model):
    """Counted by running one image: weights times output positions of each convolution and linear layer."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += module.weight.numel() * output[0, 0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return total


def write(name, reference):
    (HERE / f"{name}.json").write_text(json.dumps(reference) + "\n")


def write_reference(name):
    classes, build = NETWORKS[name]
    model = build(classes)
    state = weights(model)
    model.load_state_dict(state, strict=False)
    named = {n: p for n, p in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert all(torch.equal(p, state[n]) for n, p in named.items())
    parameters = [f"{n} {'x'.join(map(str, p.shape))}" for n, p in named.items()]
    macs = multiply_adds(model)
    write(name, {"classes": classes, "multiply_adds": macs, "parameters": parameters, "logits": logits(model)})


def write_trained():
    """A few steps on images whose mean tells their class, so that weights and statistics are those of a training."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = NETWORKS["resnet8"][1](10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(30):
        labels = torch.randint(10, (64,))
        images = torch.randn(64, 3, 32, 32) + (labels.float() - 4.5)[:, None, None, None] / 3
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    path = HERE / "resnet8.safetensors"
    save_file(model.half().state_dict(), path)
    model = NETWORKS["resnet8"][1](10)
    model.load_state_dict(load_file(path))
    write("resnet8_trained", {"logits": logits(model)})


def write_operators():
    """Windows that differ down and right, uneven padding, dilation and groups: what the zoo does not have."""
    x = tensor("image", (1, 4, 7, 9), -2.0, 2.0).double()
    w, b = tensor("w", (6, 2, 3, 2), -1.0, 1.0).double(), tensor("b", (6,), -1.0, 1.0).double()
    pads = [1, 2, 0, 1]  # top, left, bottom, right
    padding = (pads[1], pads[3], pads[0], pads[2])  # torch's order: left, right, top, bottom
    window = {"kernel": [3, 4], "stride": [2, 1], "pads": pads}
    ones = torch.ones_like(x)
    sums, places = (F.avg_pool2d(F.pad(v, padding), (3, 4), (2, 1), divisor_override=1) for v in (x, ones))
    conv = {"op": "Conv", "weight": "w", "bias": "b", "out_channels": 6, "kernel": [3, 2], "stride": [2, 3],
            "pads": pads, "dilation": [2, 1], "groups": 2}
    cases = [
        (conv, F.conv2d(F.pad(x, padding), w, b, (2, 3), 0, (2, 1), 2)),
        ({"op": "MaxPool"} | window, F.max_pool2d(F.pad(x, padding, value=-np.inf), (3, 4), (2, 1))),
        ({"op": "AveragePool"} | window, sums / places),
        ({"op": "Clip", "min": -0.5, "max": 1.25}, x.clamp(-0.5, 1.25)),
    ]
    flat = {"name": "flat", "op": "Flatten", "inputs": [0]}
    softmax = {"name": "node", "op": "Softmax", "inputs": [1]}
    graphs = [([{"name": "node", "inputs": [0]} | op], y) for op, y in cases]
    graphs += [([flat, softmax], x.flatten().softmax(0))]
    graph = lambda nodes: {"name": nodes[-1]["op"], "input": list(x.shape[1:]), "nodes": nodes}
    write("operators", [{"graph": graph(nodes), "output": y.flatten().tolist()} for nodes, y in graphs])


for name in sys.argv[1:] or NETWORKS:
    write_reference(name)
write_operators()
write_trained()
