#!/usr/bin/env bash
# The certification results of docs/results/certification.md: sequential sampling beside a fixed number of draws, on MNIST and CIFAR-10. About
# an hour on two cores; stopped anywhere, the same command goes on. Needs the data: ROBUST_DATA=DIR.
#   scripts/results/certification.sh DIR MNIST_RUNS     run folders go to DIR; MNIST_RUNS are those of scripts/results/mnist.sh
set -euo pipefail
out=${1:?name a folder for the runs: scripts/results/certification.sh DIR MNIST_RUNS}
mnist=${2:?name the folder of scripts/results/mnist.sh: scripts/results/certification.sh DIR MNIST_RUNS}
source "$(dirname "${BASH_SOURCE[0]}")/resumable.sh"
python=${PYTHON:-python}

run train train_cifar dataset=cifar10 model=cnn_small regime=noise_augmentation regime.noise_std=0.25 training.epochs=12 training.learning_rate=0.002

# On the same votes: the fixed plan, and the sequential one replayed under it.
run certify mnist_fixed run="$mnist/train_stability" samples=100000 subset=every:50
run certify cifar_fixed run="$out/train_cifar" samples=100000 subset=every:500
"$python" "$(dirname "$0")/../benchmarks/replayed_plans.py" "$out/mnist_fixed" "$out/cifar_fixed"

# The clock: all of MNIST, and LeNet on 100 images in both precisions.
sequential="samples=100000 sampling=sequential certificate=[neyman_pearson]"
run certify mnist_all  run="$mnist/train_stability" $sequential
run certify lenet_fp32 run="$mnist/train_lenet" $sequential subset=every:100
run certify lenet_bf16 run="$mnist/train_lenet" $sequential subset=every:100 precision=bf16
"$python" "$(dirname "$0")/../verify_certificates.py" "$out"/{mnist_fixed,cifar_fixed,mnist_all,lenet_fp32,lenet_bf16}
