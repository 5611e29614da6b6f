#!/usr/bin/env bash
# SGR's comparison on MNIST (docs/results/sgr.md): cnn_carlini on 10,000 images, 5 epochs, nine regimes; test accuracy, white-box and
# transferred PGD at 32/255, DeepFool's distance, and noise with long-range correlations. An hour or two on two cores; stopped
# anywhere, the same command goes on. Needs the data: ROBUST_DATA=DIR with MNIST/raw.
#   scripts/results/sgr.sh DIR     run folders and the report go to DIR
set -euo pipefail
out=${1:?name a folder for the runs: scripts/results/sgr.sh DIR}
source "$(dirname "${BASH_SOURCE[0]}")/resumable.sh"

common="dataset=mnist subset=first:10000 model=cnn_carlini training.epochs=5 training.batch_size=100"
budget=$(python3 -c 'print(32/255)')
run train train_standard      $common regime=standard
run train train_weight_decay  $common regime=weight_decay regime.weight=0.001
run train train_gradient_norm $common regime=gradient_norm regime.weight=3
run train train_sgr           $common regime=sgr regime.weight=10
run train train_sgr_sign      $common regime=sgr_sign regime.weight=10
run train train_sgr_fgsm      $common regime=sgr_fgsm regime.weight=10 regime.budget=$budget
run train train_fgsm          $common regime=adversarial_fgsm regime.budget=$budget regime.clean_weight=0.5
run train train_sgr_pgd       $common regime=sgr_pgd regime.weight=10 regime.budget=$budget regime.attack.steps=10
run train train_pgd           $common regime=adversarial regime.budget=$budget regime.attack.steps=10 regime.clean_weight=0.5

lrc=""  # noise of several decay lengths, the worst of 100 copies
for length in 1 2 4 8 16; do lrc+="+attack@attack.lrc_$length=lrc attack.lrc_$length.decay_length=$length "; done
models="standard weight_decay pgd fgsm gradient_norm sgr sgr_sign sgr_pgd sgr_fgsm"
for name in $models; do  # the images that every model's own PGD makes, which transfer; PGD takes all steps
  run attack "pgd_$name" run="$out/train_$name" classifier=base 'attack=[pgd_linf]' "budgets.linf=[$budget]" early_stop=false \
    subset=every:10
done
for name in $models; do
  others=$(for other in $models; do [ "$other" = "$name" ] || printf '%s,' "$out/pgd_$other"; done)
  run attack "transfer_$name" run="$out/train_$name" classifier=base 'attack=[]' "transfer=[${others%,}]" subset=every:10
  run attack "distance_$name" run="$out/train_$name" classifier=base 'attack=[deepfool]' 'budgets.l2=[1.0]' subset=every:50
  run attack "lrc_$name" run="$out/train_$name" classifier=base 'attack=[]' $lrc 'budgets.std=[0.3]' subset=every:50
done
rm -rf "$out/report"
$robust report "$out"/train_* "$out"/pgd_* "$out"/transfer_* "$out"/distance_* "$out"/lrc_* --output "$out/report"
