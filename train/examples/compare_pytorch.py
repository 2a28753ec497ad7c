"""Times a training step of the CPU executor and of PyTorch (fp32, channels_last), interleaved on this machine.

Usage: python compare_pytorch.py [--networks resnet8,resnet20,resnet18] [--batch 128] [--threads 2] [--rounds 3]
                                 [--seconds 5] [--step-time PROGRAM]

Needs torch. PROGRAM is the built example `step_time` (default: target/release/examples/step_time). A step is the
loss and its gradient; PyTorch's is forward, cross-entropy and backward. One JSON line a network: medians of the rounds.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def norm_relu(x, norm):
    return F.relu(norm(x), inplace=True)


class Block(nn.Module):
    """Basic residual block, with a 1x1 shortcut where the shape changes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(norm_relu(self.conv1(x), self.bn1)))
        return F.relu(y + self.shortcut(x), inplace=True)


def resnet(stem, stem_stride, widths, blocks):
    layers = [nn.Conv2d(3, stem, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)]
    inputs = stem
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(inputs, width, 2 if stage > 0 and block == 0 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


NETWORKS = {
    "resnet8": lambda: resnet(24, 2, [24, 40, 80], 1),
    "resnet20": lambda: resnet(16, 1, [16, 32, 64], 3),
    "resnet18": lambda: resnet(64, 1, [64, 128, 256, 512], 2),
}


class PyTorch:
    def __init__(self, network, batch):
        torch.manual_seed(0)
        self.net = NETWORKS[network]().to(memory_format=torch.channels_last)
        self.x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        self.y = torch.arange(batch) % 10
        self.step()

    def step(self):
        self.net.zero_grad(set_to_none=True)
        F.cross_entropy(self.net(self.x), self.y).backward()

    def step_ms(self, seconds):
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--step-time", default="target/release/examples/step_time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for network in options.networks.split(","):
        peer, rounds = PyTorch(network, options.batch), []
        for _ in range(options.rounds):
            arguments = [network, options.batch, options.threads, options.seconds]
            line = subprocess.check_output([options.step_time, *map(str, arguments)], text=True)
            rounds.append(json.loads(line) | {"pytorch_ms": peer.step_ms(options.seconds)})
        median = {key: statistics.median(r[key] for r in rounds) for key in ("step_ms", "loss_ms", "gflops", "pytorch_ms")}
        ratio = statistics.median(r["pytorch_ms"] / r["step_ms"] for r in rounds)
        print(json.dumps({"network": network, "batch": options.batch, "threads": options.threads, **median,
                          "pytorch_over_ours": round(ratio, 2), "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
