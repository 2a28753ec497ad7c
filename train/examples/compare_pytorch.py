"""Times training steps of the CPU executor and of PyTorch (channels_last), interleaved on this machine.

Usage: python compare_pytorch.py [--networks resnet20,resnet18,...] [--kinds step:0,step:90,sr2:95] [--batch 128]
                                 [--threads 2] [--rounds 3] [--seconds 2] [--bf16] [--program PROGRAM] [--json]

Needs torch. PROGRAM is the built example `cpu_step` (default: target/release/examples/cpu_step; its --help tells the
kinds; `kind:zeros` is a kind at that per cent of zero weights). PyTorch always does the dense step: forward,
cross-entropy, backward, SGD update. Each round runs PyTorch and then each of ours, all in processes of their own, whose
peak resident memory is read too. A row gives medians of the rounds and the median of the rounds' ratios.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

MEASURE = "measure-pytorch"


def networks(nn, functional):
    """The networks of the zoo, module for module (names aside)."""

    class Block(nn.Module):
        """Basic residual block, with a 1x1 shortcut where the shape changes."""

        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            self.shortcut = nn.Identity()
            if stride != 1 or inputs != outputs:
                conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
            y = self.bn2(self.conv2(y))
            return functional.relu(y + self.shortcut(x), inplace=True)

    def resnet(stem, stem_stride, widths, blocks):
        layers = [nn.Conv2d(3, stem, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)]
        inputs = stem
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(Block(inputs, width, 2 if stage > 0 and block == 0 else 1))
                inputs = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))

    def vgg(convolutions):
        layers, inputs = [], 3
        for width, count in zip([64, 128, 256, 512, 512], convolutions):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, 10))

    class Inverted(nn.Module):
        """Inverted residual block."""

        def __init__(self, inputs, outputs, expansion, stride):
            super().__init__()
            hidden = expansion * inputs
            expand = conv_norm_relu6(inputs, hidden, 1, 1) if expansion != 1 else []
            filters = conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden)
            project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            self.body = nn.Sequential(*expand, *filters, *project)
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x):
            return x + self.body(x) if self.residual else self.body(x)

    def conv_norm_relu6(inputs, outputs, kernel, stride, groups=1):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]

    def mobilenet_v2():
        layers, inputs = conv_norm_relu6(3, 32, 3, 1), 32
        stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
        for expansion, channels, blocks, stride in stages:
            for block in range(blocks):
                layers.append(Inverted(inputs, channels, expansion, stride if block == 0 else 1))
                inputs = channels
        layers += conv_norm_relu6(inputs, 1280, 1, 1)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10))

    return {
        "resnet8": lambda: resnet(24, 2, [24, 40, 80], 1),
        "resnet20": lambda: resnet(16, 1, [16, 32, 64], 3),
        "resnet18": lambda: resnet(64, 1, [64, 128, 256, 512], 2),
        "vgg16_bn": lambda: vgg([2, 2, 3, 3, 3]),
        "mobilenet_v2": mobilenet_v2,
    }


def measure_pytorch(network, batch, threads, seconds, bf16):
    """Prints one JSON line; runs in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = networks(torch.nn, torch.nn.functional)[network]().to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.arange(batch) % 10
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()

    step()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM:"))
    parameters = sum(p.numel() for p in net.parameters())
    step_ms = 1e3 * statistics.median(times)
    print(json.dumps({"step_ms": step_ms, "peak_rss_mb": peak, "parameters": parameters, "torch": torch.__version__}))


def run(arguments):
    return json.loads(subprocess.check_output(list(map(str, arguments)), text=True))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default="resnet20,resnet18,vgg16_bn,mobilenet_v2,resnet8")
    parser.add_argument("--kinds", default="step:0")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--bf16", action="store_true", help="bf16 kernels against PyTorch's bf16 autocast")
    parser.add_argument("--program", default="target/release/examples/cpu_step")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    fixed = ["--batch", options.batch, "--threads", options.threads, "--seconds", options.seconds]
    precision = ["--bf16"] if options.bf16 else []
    for network in options.networks.split(","):
        kinds = options.kinds.split(",")
        peers, ours = [], {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            sizes = [network, options.batch, options.threads, options.seconds]
            peers.append(run([sys.executable, __file__, MEASURE, *sizes, *precision]))
            for kind in kinds:
                step, zeros = kind.split(":")
                asked = ["--networks", network, "--steps", step, "--sparsity", zeros, "--executors", "tape", "--json", *precision]
                ours[kind].append(run([options.program, *asked, *fixed]))
        for kind in kinds:
            report(network, kind, peers, ours[kind], options.json)


def report(network, kind, peers, rows, as_json):
    middle = lambda values: statistics.median(values)
    phases = [round(middle(values), 1) for values in zip(*(row["phases_ms"] for row in rows))]
    result = {
        "network": network,
        "kind": kind,
        "ms": round(middle(row["step_ms"] for row in rows), 1),
        "pytorch_ms": round(middle(peer["step_ms"] for peer in peers), 1),
        "pytorch_over_ours": round(middle(peer["step_ms"] / row["step_ms"] for peer, row in zip(peers, rows)), 2),
        "images_per_s": round(middle(row["images_per_s"] for row in rows)),
        "gflops": round(middle(row["gflops"] for row in rows)),
        "peak_percent": round(middle(row["peak_percent"] for row in rows)),
        "forward, input grad, weight grad, norm, rest": phases,
        "rss_mb": middle(row["peak_rss_mb"] for row in rows),
        "pytorch_rss_mb": middle(peer["peak_rss_mb"] for peer in peers),
    }
    print(json.dumps(result | {"torch": peers[0]["torch"]}) if as_json else "  ".join(f"{k} {v}" for k, v in result.items()),
          flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        measure_pytorch(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), "--bf16" in sys.argv)
    else:
        main()
