#!/usr/bin/env bash
# The provable defence of STN's Table 1 on MNIST (docs/results/provable.md): one network and a cascade trained on their dual bounds,
# beside stability training certified by neyman_pearson and renyi, on the same images. Two hours or so on two cores; stopped anywhere,
# the same command goes on. Needs the data: ROBUST_DATA=DIR with MNIST/raw.
#   scripts/results/provable.sh DIR     run folders and the report go to DIR
set -euo pipefail
out=${1:?name a folder for the runs: scripts/results/provable.sh DIR}
source "$(dirname "${BASH_SOURCE[0]}")/resumable.sh"

common="dataset=mnist model=cnn_small training.learning_rate=0.002"
provable="$common regime=lp_dual regime.projections=20 training.batch_size=50"
run train train_single    $provable training.epochs=8
run train train_cascade   $provable training.epochs=10 regime.stages=3 regime.given_stages=1 training.init_from="$out/train_single"
run train train_stability $common regime=stability regime.noise_std=0.75 regime.weight=2 training.epochs=10

run certify certify_single    run="$out/train_single" certificate=lp_dual subset=every:10
run certify certify_cascade   run="$out/train_cascade" 'certificate=[lp_dual,lp_dual_published]' subset=every:10
run certify certify_stability run="$out/train_stability" 'certificate=[neyman_pearson,renyi]' subset=every:10

run attack attack_single    run="$out/train_single" attack=pgd_l2 'budgets.l2=[0.5,1.0,1.58]' subset=every:10
run attack attack_cascade   run="$out/train_cascade" 'attack=[pgd_l2,cascade_l2]' 'budgets.l2=[1.58]' subset=every:100
run attack attack_stability run="$out/train_stability" attack=pgd_l2 'budgets.l2=[1.0,1.58]' subset=every:100
rm -rf "$out/report"
$robust report "$out"/train_* "$out"/certify_* "$out"/attack_* --output "$out/report"
