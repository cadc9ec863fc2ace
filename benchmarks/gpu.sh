#!/usr/bin/env bash
# Everything that only a GPU can show, in one go: the tests that need one, votes per second, the cost of a training
# step, and a short training on real CIFAR-10 images with certification. It writes as it goes, so that a time limit
# loses nothing that was finished.
#
#   benchmarks/gpu.sh OUT CIFAR10_FOLDER [SECONDS_OF_TRAINING]
#
# OUT gets one log per step and the run folders' tables; PYTHON names the interpreter (python3).
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cifar=$(cd "$2" && pwd)
seconds=${3:-180}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
runs=$(mktemp -d)

step() { # step NAME COMMAND...: run, log, go on
    local name=$1; shift
    echo "== $name: $*"
    local start=$SECONDS
    "$@" >"$out/$name.log" 2>&1
    echo "   exit $? after $((SECONDS - start)) s" | tee -a "$out/steps.txt"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/device.csv"
step tests "$python" -m pytest -q -m gpu tests
step certify "$python" benchmarks/certify.py --device cuda
step train_step "$python" benchmarks/train_step.py --device cuda
step train "$python" -m robustsmooth.train method=gaussian data=cifar10 data.root="$cifar" model=cifar_resnet20 \
    trainer=gpu trainer.precision=bf16-mixed trainer.max_epochs=100 "trainer.max_time='$(printf '00:%02d:%02d:%02d' $((seconds / 3600)) $((seconds / 60 % 60)) $((seconds % 60)))'" \
    hydra.run.dir="$runs/gaussian"
step certify_cifar10 "$python" -m robustsmooth.certify checkpoint="$runs/gaussian" data.root="$cifar" trainer=gpu \
    certificate.n=10000 hydra.run.dir="$runs/certify"
cp "$runs"/certify/certify.tsv "$runs"/certify/summary.json "$runs"/gaussian/metrics.csv "$out/" 2>/dev/null
cat "$out/steps.txt"
