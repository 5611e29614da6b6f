#!/usr/bin/env bash
# The MNIST results of docs/results/: three regimes certified and attacked, and one report. An hour or two on two cores; stopped
# anywhere, the same command goes on. Needs the data: ROBUST_DATA=DIR with MNIST/raw (or fetch once: dataset.download=true).
#   scripts/results/mnist.sh DIR        run folders and the report go to DIR
set -euo pipefail
out=${1:?name a folder for the runs: scripts/results/mnist.sh DIR}
source "$(dirname "${BASH_SOURCE[0]}")/resumable.sh"

common="dataset=mnist training.epochs=40 training.learning_rate=0.002"
run train train_stability          $common model=cnn_small regime=stability regime.noise_std=0.5 regime.weight=2
run train train_noise_augmentation $common model=cnn_small regime=noise_augmentation regime.noise_std=0.5
run train train_standard           $common model=cnn_small regime=standard

run certify certify_stability          run="$out/train_stability"
run certify certify_noise_augmentation run="$out/train_noise_augmentation" subset=every:10
run certify certify_standard           run="$out/train_standard" noise_std=0.5 subset=every:10

# SO's Figure 2, right: second_order in both forms, beside pgd_l2.
attacks="attack=[pgd_l2,second_order] +attack@attack.second_order_averaged=second_order attack.second_order_averaged.form=averaged"
run attack attack_standard  run="$out/train_standard"  subset=every:20 classifier=base $attacks
run attack attack_stability run="$out/train_stability" subset=every:20 attack='[pgd_l2,second_order]'

run train   train_lenet   dataset=mnist model=lenet regime=stability regime.noise_std=0.5 training.epochs=3
run certify certify_lenet run="$out/train_lenet" subset=every:100

rm -rf "$out/report"
$robust report "$out"/train_{stability,noise_augmentation,standard} "$out"/certify_{stability,noise_augmentation,standard} \
  "$out"/attack_{standard,stability} --output "$out/report"
