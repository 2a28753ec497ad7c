#!/usr/bin/env bash
# All that a GPU is needed for, in one go: the tests of the CUDA build on the GPU, a short training on it, and an iteration
# of SR2 timed against PyTorch. Ends with one table; exits with 1 where something failed, or where there is no GPU.
#
#   gpu-check.sh                   builds and runs
#   gpu-check.sh --build FOLDER    builds only, and puts the programs there: needs the CUDA toolkit with cuDNN, but no GPU
#   gpu-check.sh --run FOLDER      runs only, from such a folder: needs a GPU and the CUDA libraries with cuDNN
#
# Running needs a Python with torch for CUDA (PYTHON=..., default python3). Further arguments go to compare_gpu.py.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
missing() { echo "gpu-check: $*" >&2; exit 1; }

# cargo's arguments; copies what it builds. Always with the same packages and features, so that all is built once.
build() {
  cargo "$@" --locked --release --package sr2-prune --package sr2-train --package sr2-cuda \
    --features sr2-prune/cudnn,sr2-train/cudnn,sr2-cuda/cudnn --message-format json |
    "$python" -c '
import json, shutil, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable"):
        shutil.copy(message["executable"], sys.argv[1] + "/" + message["target"]["name"])
' "$programs" || missing "the build failed"
}

results=()
status=0
# Runs a command whose output goes to the log; keeps how it ended and how long it took.
check() {
  local name=$1 start=$SECONDS ended="ok"
  shift
  echo "gpu-check: $name ..." >&2
  "$@" >"$log/$name.log" 2>&1 || { ended="FAILED, see $log/$name.log"; status=1; }
  results+=("| $name | $ended | $((SECONDS - start)) |")
}

mode=${1:-}
case $mode in
  --build | --run) programs=${2:?"gpu-check: $mode needs a folder"}; shift 2 ;;
  *) mode=; programs=$(mktemp -d) ;;
esac
if [ "$mode" != --run ]; then
  command -v nvcc >/dev/null || missing "no nvcc here: install the CUDA toolkit, and put it in PATH"
  mkdir -p "$programs"
  build build --bin sr2-prune --example cpu_step
  build test --no-run --lib --test operators
fi
[ "$mode" != --build ] || exit 0

nvidia-smi -L >/dev/null 2>&1 || missing "no NVIDIA GPU here: nvidia-smi finds none"
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
  missing "$python has no torch that sees the GPU; set PYTHON"
log=$(mktemp -d)
check operators env SR2_TEST_DEVICE=cuda "$programs/operators"
check tests env SR2_TEST_DEVICE=cuda "$programs/sr2_train" candle_executor devices
check training "$programs/sr2-prune" train --device cuda --network resnet18 --data examples/data --epochs 2 --sparsity 0.9 \
  --runs "$log/runs"
check speed "$python" train/examples/compare_gpu.py --program "$programs/cpu_step" "$@"

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
printf '| check | result | s |\n|--|--|--|\n'
printf '%s\n' "${results[@]}"
echo
cat "$log/speed.log"
exit "$status"
