"""Times an iteration of SR2 on a GPU against PyTorch doing the same work, interleaved; prints one table.

Usage: python compare_gpu.py [--network resnet18] [--batch 128] [--rounds 5] [--seconds 5] [--program PROGRAM]
                             [--device cuda|cpu]

Needs torch with CUDA. PROGRAM is the built example `cpu_step` (default: target/release/examples/cpu_step), of a build with
`--features cudnn`. The work is that of one iteration: forward, cross-entropy, backward, an update of all weights, and a
second forward, the trial's. Ours are in f32, with TF32 and in bf16, with SR2's step at 95 % zeros; PyTorch's are dense
with momentum SGD in channels_last and bf16 autocast, eager and by torch.compile. `--device cpu` only tries the program out.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from compare_pytorch import networks, run

MEASURE = "measure-pytorch"
OURS = {"f32": [], "tf32": ["--tf32"], "bf16": ["--bf16"]}
PEERS = ["eager", "compile"]


def measure_pytorch(kind, network, batch, seconds, device):
    """Prints one JSON line; runs in a process of its own."""
    import torch

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    net = networks(torch.nn, torch.nn.functional)[network]().to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(batch, device=device) % 10
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    model = torch.compile(net) if kind == "compile" else net

    def loss():
        with torch.autocast(device, torch.bfloat16):
            return torch.nn.functional.cross_entropy(model(x), y)

    def step():
        optimizer.zero_grad(set_to_none=True)
        at_point = loss()
        at_point.backward()
        optimizer.step()
        with torch.no_grad():
            at_trial = loss()
        # The test needs both losses: one wait for the device an iteration.
        return torch.stack([at_point.detach(), at_trial]).tolist()

    for _ in range(3):
        step()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(json.dumps({"step_ms": 1e3 * statistics.median(times), "torch": torch.__version__, "device": name}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--program", default="target/release/examples/cpu_step")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    size = [options.network, options.batch, options.seconds, options.device]
    executor = "cuda" if options.device == "cuda" else "candle"
    ours = [options.program, "--networks", options.network, "--executors", executor, "--steps", "sr2", "--sparsity", 95,
            "--batch", options.batch, "--seconds", options.seconds, "--json"]
    rounds = [
        {**{kind: run(ours + flags) for kind, flags in OURS.items()},
         **{kind: run([sys.executable, __file__, MEASURE, kind, *size]) for kind in PEERS}}
        for _ in range(options.rounds)
    ]
    peer = rounds[0]["eager"]
    print(f"{options.network}, batch {options.batch}, {peer['device']}, PyTorch {peer['torch']}, {options.rounds} rounds\n")
    print("| iteration | ms, median (least to most) | images/s | its time over ours in bf16 |\n|--|--|--|--|")
    names = {**{kind: f"sr2-prune, SR2, {kind}" for kind in OURS}, "eager": "PyTorch eager, channels_last, bf16",
             "compile": "PyTorch torch.compile, channels_last, bf16"}
    for kind, name in names.items():
        times = [each[kind]["step_ms"] for each in rounds]
        ratio = statistics.median(each[kind]["step_ms"] / each["bf16"]["step_ms"] for each in rounds)
        middle = statistics.median(times)
        print(f"| {name} | {middle:.2f} ({min(times):.2f} to {max(times):.2f}) | {1e3 * options.batch / middle:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        kind, network, batch, seconds, device = sys.argv[2:]
        measure_pytorch(kind, network, int(batch), float(seconds), device)
    else:
        main()
