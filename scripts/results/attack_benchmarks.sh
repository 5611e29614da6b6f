#!/usr/bin/env bash
# The attack benchmarks of docs/benchmarks.md: ours beside foolbox, torchattacks, adv-lib, cleverhans and ART, whichever are
# installed. Some hours on one core; stopped anywhere, the same command goes on. Data: ROBUST_DATA=DIR with MNIST/raw and
# cifar-10-batches-py. The runs: a lenet on MNIST trained without and one with stability training, and a cnn7 on CIFAR-10.
#   scripts/results/attack_benchmarks.sh DIR LENET_STANDARD LENET_STABILITY CNN7      attacks.csv and attacks.md go to DIR
set -euo pipefail
out=${1:?name a folder for the results}; standard=${2:?name the standard lenet\'s run}
stability=${3:?name the run of lenet with stability training}; cnn7=${4:?name the run of cnn7}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
export OMP_NUM_THREADS=1

measure() { "${PYTHON:-python}" "$here/benchmarks/attacks.py" --output "$out/attacks.csv" "$@"; }

# Attacks of up to 100 steps; those with random starts under three seeds.
measure --models "$standard" "$stability" --images 500 --attacks deepfool ddn fmn_l2 fmn_linf
measure --models "$standard" "$stability" --images 500 --attacks pgd_linf pgd_l2 --seeds 0 1 2
measure --models "$cnn7" --images 100 --attacks deepfool ddn fmn_l2 fmn_linf
measure --models "$cnn7" --images 100 --attacks pgd_linf pgd_l2 --seeds 0 1 2
# Long ones. ART's Carlini-Wagner searches its step length besides: many times the passes.
measure --models "$standard" "$stability" --images 100 --attacks carlini_wagner lbfgs --without art
measure --models "$standard" "$stability" --images 100 --attacks boundary --seeds 0 1 2
measure --models "$standard" "$stability" --images 100 --attacks ensemble_linf ensemble_l2
measure --models "$standard" "$stability" --images 500 --attacks pgd_linf_curve pgd_l2_curve
measure --models "$cnn7" --images 100 --attacks pgd_linf_curve
measure --models "$standard" --images 100 --attacks hop_skip_jump_linf

measure --summary | tee "$out/attacks.md"
