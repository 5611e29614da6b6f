#!/usr/bin/env bash
# The defences that STN and SO compare, on MNIST with cnn_small (docs/results/defences.md): each trained, attacked in l2 and linf, and
# certified where it has noise. Hours on two cores; stopped anywhere, the same command goes on. Needs the data: ROBUST_DATA=DIR
# with MNIST/raw.
#   scripts/results/defences.sh DIR     run folders and the report go to DIR
set -euo pipefail
out=${1:?name a folder for the runs: scripts/results/defences.sh DIR}
source "$(dirname "${BASH_SOURCE[0]}")/resumable.sh"

common="dataset=mnist model=cnn_small training.epochs=5 training.learning_rate=0.002"
run train train_standard      $common regime=standard
run train train_stability     $common regime=stability regime.noise_std=0.5
run train train_trades        $common regime=trades regime.steps=10 regime.step_size=null regime.budget_warmup=0.5
run train train_madry_linf    $common regime=adversarial regime.attack.steps=10 regime.budget_warmup=0.5
run train train_second_order  $common regime=adversarial_second_order regime.attack.steps=10 regime.budget_warmup=0.5
run train train_pixeldp       $common model=cnn_pixeldp regime=pixeldp

# SO's Figure 2: natural and Madry's network under PGD and the second-order attack (left: gradient norms along them), stability
# training under the second-order attack; all in l2. And the same defences in linf.
for name in standard trades madry_linf second_order; do
  run attack "l2_$name" run="$out/train_$name" classifier=base 'attack=[pgd_l2,second_order]' measure=gradient_norms subset=every:25
  run attack "linf_$name" run="$out/train_$name" classifier=base 'attack=[pgd_linf]' 'budgets.linf=[0.1,0.2,0.3]' subset=every:25
done
# The smoothed classifiers: each answer is a thousand votes, each gradient ten draws. PixelDP's network takes eight times as long.
run attack l2_stability   run="$out/train_stability" 'attack=[pgd_l2,second_order]' 'budgets.l2=[1.0,2.0,3.0]' subset=every:100
run attack linf_stability run="$out/train_stability" 'attack=[pgd_linf]' 'budgets.linf=[0.1,0.2,0.3]' subset=every:100
run certify certify_standard  run="$out/train_standard" noise_std=0.5 subset=every:20
run certify certify_stability run="$out/train_stability" subset=every:20
run certify certify_pixeldp   run="$out/train_pixeldp" subset=every:100 'certificate=[renyi,pixeldp,neyman_pearson,pixeldp_softmax]'
run attack l2_pixeldp run="$out/train_pixeldp" 'attack=[pgd_l2]' 'budgets.l2=[1.0,2.0]' subset=every:200
rm -rf "$out/report"
$robust report "$out"/train_* "$out"/l2_* "$out"/linf_* "$out"/certify_* --output "$out/report"
