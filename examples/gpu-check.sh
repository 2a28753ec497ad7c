#!/usr/bin/env bash
# All that a GPU is needed for, in one go: the tests of the CUDA build on the GPU, a short training on it, and an iteration
# of SR2 timed against PyTorch. Ends with one table; exits with 1 where something failed, or where there is no GPU.
# Needs the CUDA toolkit with cuDNN, and a Python with torch for CUDA (PYTHON=..., default python3). Arguments go to compare_gpu.py.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
missing() { echo "gpu-check: $*" >&2; exit 1; }
nvidia-smi -L >/dev/null 2>&1 || missing "no NVIDIA GPU here: nvidia-smi finds none"
command -v nvcc >/dev/null || missing "no nvcc here: install the CUDA toolkit, and put it in PATH"
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
  missing "$python has no torch that sees the GPU; set PYTHON"

log=$(mktemp -d)
results=()
# Runs a command whose output goes to the log; keeps how it ended and how long it took.
check() {
  local name=$1 start=$SECONDS ended="ok"
  shift
  echo "gpu-check: $name ..." >&2
  "$@" >"$log/$name.log" 2>&1 || { ended="FAILED, see $log/$name.log"; status=1; }
  results+=("| $name | $ended | $((SECONDS - start)) |")
}
status=0
check build cargo build --locked --release --features cudnn
check operators env SR2_TEST_DEVICE=cuda cargo test --locked --release --package sr2-train --package sr2-cuda --features cudnn \
  --test operators
check tests env SR2_TEST_DEVICE=cuda cargo test --locked --release --package sr2-train --package sr2-cuda --features cudnn --lib
check training target/release/sr2-prune train --device cuda --network resnet18 --data examples/data --epochs 2 \
  --sparsity 0.9 --runs "$log/runs"
check example cargo build --locked --release --package sr2-train --features cudnn --example cpu_step
check speed "$python" train/examples/compare_gpu.py "$@"

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
nvcc --version | tail -2 | head -1
printf '| check | result | s |\n|--|--|--|\n'
printf '%s\n' "${results[@]}"
echo
cat "$log/speed.log"
exit "$status"
