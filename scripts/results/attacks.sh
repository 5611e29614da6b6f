#!/usr/bin/env bash
# The attack results of docs/results/attacks.md: the three models of scripts/results/mnist.sh under attacks, measures and transfer.
# About half an hour on two cores; stopped anywhere, the same command goes on. Needs the data: ROBUST_DATA=DIR with MNIST/raw.
#   scripts/results/attacks.sh RUNS DIR     RUNS holds train_standard, train_noise_augmentation and train_stability
set -euo pipefail
runs=${1:?name the folder of the trained runs: scripts/results/attacks.sh RUNS DIR}
out=${2:?name a folder for the results: scripts/results/attacks.sh RUNS DIR}
robust=${ROBUST:-robust}
models="standard noise_augmentation stability"

attack() {  # folder settings...: a new run, or what is left of the one in that folder
  local folder=$out/$1; shift
  if [ -e "$folder/config.yaml" ]; then "$robust" attack resume="$folder"
  else "$robust" attack hydra.run.dir="$folder" "$@"; fi
}

# SO's Figure 2 (left), SGR's Figures 1, 2 and 6, AMR's GNR: base classifiers, all steps, so that the images can transfer.
for model in $models; do
  attack "measures_$model" run="$runs/train_$model" classifier=base subset=every:50 early_stop=false also_wrong=true \
    attack='[fgm,pgd_l2,second_order]' budgets.l2='[0.5,1,1.5,2]' \
    measure='[noise_robustness,gradient_norms,softmax_path,covariances]'
done
sources="[$out/measures_standard,$out/measures_noise_augmentation,$out/measures_stability]"
for model in $models; do
  attack "transfer_$model" run="$runs/train_$model" classifier=base subset=every:50 attack='[]' transfer="$sources"
done

# Worst cases and closest examples, side by side.
for model in $models; do
  attack "worst_$model" run="$runs/train_$model" classifier=base subset=every:100 \
    attack='[fgsm,pgd_linf,standard_linf,pgd_l2,standard_l2]' budgets.linf='[0.05,0.1,0.15,0.2]' budgets.l2='[0.5,1,1.5,2]'
  attack "closest_$model" run="$runs/train_$model" classifier=base subset=every:100 \
    attack='[deepfool,ddn,fmn_l2,carlini_wagner,lbfgs,boundary,gaussian_noise_search,fmn_linf,hop_skip_jump_linf,fgsm_minimal,pgd_minimal,uniform_noise_search]'
done

# The smoothed classifier: gradients under both objectives, and decisions through votes.
attack smoothed_stability run="$runs/train_stability" subset=every:200 attack='[pgd_l2,cw_pgd_l2,second_order,boundary]' \
  budgets.l2='[0.5,1,1.5,2,2.5,3]' attack.boundary.iterations=1000

rm -rf "$out/report"
"$robust" report "$out"/{measures,transfer,worst,closest}_{standard,noise_augmentation,stability} "$out/smoothed_stability" \
  --output "$out/report"
