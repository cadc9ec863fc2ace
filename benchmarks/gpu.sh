#!/usr/bin/env bash
# Everything that needs a GPU: the tests that need one, votes per second and the cost of a training step beside
# the bare forward pass, and the comparison of the methods on real CIFAR-10 images (experiment=cifar10/gpu). It
# writes after every step, so that a time limit loses nothing that was finished; started again with the same OUT, it continues.
#
#   benchmarks/gpu.sh OUT CIFAR10_FOLDER [MINUTES]
#   DEVICE=cpu benchmarks/gpu.sh OUT .                 # a dry run of every line in some minutes, with tiny sizes
#
# MINUTES of training for each of the thirteen methods (0.5). OUT gets one log per step, the sweep's folder and, after every step,
# results.tar.gz: the logs and all that the sweep wrote but checkpoints. PYTHON names the interpreter, STEPS the steps to take.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cifar=$(cd "$2" && pwd)
minutes=${3:-0.5}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
steps=${STEPS:-tests votes steps rate sweep}
failed=0
tests=() votes=() steps_of=(--model cifar_resnet110 --batch 128) rate_of=(--model cifar_resnet110 --batch 256)
sweep=(scale=gpu minutes="$minutes" data.root="$cifar")
if [[ $device == cpu ]]; then
    tests=(--collect-only) votes=(--votes 800 --turns 1 --sizes 32 --images 2)
    steps_of=(--model cifar_resnet20 --batch 4 --repeats 1 --methods gaussian) rate_of=(--model cifar_resnet20 --batch 4)
    sweep=(scale=smoke method=natural,gaussian trainer=cpu)
fi
cd "$(dirname "$0")/.."
mkdir -p "$out/logs"

pack() {
    tar -C "$out" --exclude='*.ckpt' -czf "$out/.packing" logs $(cd "$out" && ls -d sweep 2>/dev/null) && mv "$out/.packing" "$out/results.tar.gz"
}

step() { # step NAME COMMAND...: run, log, pack, go on
    local name=$1 start=$SECONDS; shift
    [[ " $steps " == *" ${name%%_*} "* ]] || return 0
    echo "== $name: $*"
    local status=0
    "$@" >"$out/logs/$name.log" 2>&1 || failed=$((status = $?))
    echo "$name: exit $status after $((SECONDS - start)) s" | tee -a "$out/logs/steps.txt"
    pack
}

rate() { # images per second of a forward pass of ResNet-110, from the cost table's last column: ms per batch of 256
    "$python" benchmarks/train_step.py --device "$device" "${rate_of[@]}" --methods gaussian \
        --precision bf16-mixed |
        awk -F'|' '/^\| gaussian/ { printf "%d\n", 256 / $(NF - 1) * 1000 }'
}

[[ $device == cpu ]] || nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv | tee "$out/logs/device.csv"
step tests "$python" -m pytest -q -m gpu tests "${tests[@]}"
step votes "$python" benchmarks/certify.py --device "$device" "${votes[@]}"
for precision in 32-true bf16-mixed; do
    step steps_$precision "$python" benchmarks/train_step.py --device "$device" "${steps_of[@]}" --precision $precision
done
step steps_published "$python" benchmarks/train_step.py --part published --device "$device" "${steps_of[@]}"
step rate rate
forward_rate=$(cat "$out/logs/rate.log" 2>/dev/null || true)
while sleep 60; do pack; done & # a limit that strikes within the sweep finds its finished jobs packed
packing=$!
trap 'kill $packing 2>/dev/null; pack' EXIT
[[ $device == cpu ]] || sweep+=(forward_rate="${forward_rate:-20000}")
step sweep "$python" -m robustsmooth.train -m experiment=cifar10/gpu "${sweep[@]}" \
    hydra.sweep.dir="$out/sweep"
cat "$out/logs/steps.txt"
exit $((failed > 0))
