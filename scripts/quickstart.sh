#!/usr/bin/env bash
# From nothing to a report: makes an environment, installs robust, then trains, certifies and attacks a classifier of scanned
# digits and writes the report. A few minutes on two cores. The runs go to ./outputs.
#   ROBUST_VENV=DIR   keep the environment there (default: .venvs/robust; an existing one is reused)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=${ROBUST_VENV:-$root/.venvs/robust}
python=${PYTHON:-python3}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" -e "$root"
robust=$venv/bin/robust
latest() { ls -td outputs/*/*_"$1"_digits_* | head -n 1; }

"$robust" train experiment=quickstart
"$robust" certify run=latest samples=1000
"$robust" attack run=latest attack='[pgd_l2,second_order]' subset=every:6
"$robust" report "$(latest train)" "$(latest certify)" "$(latest attack)"
