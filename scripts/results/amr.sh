#!/usr/bin/env bash
# AMR's comparison on MNIST (docs/results/amr.md): LeNet on 10,000 images by plain training, by fixed noisy copies (2, 6, 11 and 21
# folds, at equal epochs and at equal steps) and by the analytic mean; accuracy and robustness to Gaussian noise of each. An hour on
# two cores; stopped anywhere, the same command goes on. Needs the data: ROBUST_DATA=DIR with MNIST/raw.
#   scripts/results/amr.sh DIR [train_standard ...]     run folders and the report go to DIR; of the runs only those named
set -euo pipefail
out=${1:?name a folder for the runs: scripts/results/amr.sh DIR}; shift
only=$*
source "$(dirname "${BASH_SOURCE[0]}")/resumable.sh"

common="dataset=mnist subset=first:10000 model=lenet precision=bf16 training.epochs=15 training.batch_size=100"
runs=(standard)
run train train_standard $common regime=standard
for std in 0.125 0.25 1.0; do
  for weight in 1 5; do
    runs+=("moment_${std}_${weight}")
    run train "train_moment_${std}_${weight}" $common regime=moment regime.noise_std=$std regime.weight=$weight
  done
done
for per_epoch in one all; do
  for folds in 2 6 11 21; do
    runs+=("folds_${folds}_${per_epoch}")
    run train "train_folds_${folds}_${per_epoch}" $common regime=noise_augmentation regime.noise_std=0.25 \
      regime.folds=$folds regime.per_epoch=$per_epoch
  done
done
for name in "${runs[@]}"; do
  run attack "gnr_$name" run="$out/train_$name" classifier=base 'attack=[]' measure=noise_robustness subset=every:5
done
if [ -z "$only" ]; then
  rm -rf "$out/report"
  $robust report "$out"/train_* "$out"/gnr_* --output "$out/report"
fi
