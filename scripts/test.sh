#!/usr/bin/env bash
# Makes an environment, installs robust with its test extra, and runs lint, types and tests. Nothing outside the checkout changes.
#   ROBUST_VENV=DIR   keep the environment there (default: .venvs/test; an existing one is reused)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${ROBUST_VENV:-$PWD/.venvs/test}
python=${PYTHON:-python3}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'

echo "== lint";  "$venv/bin/ruff" check .
echo "== types"; "$venv/bin/mypy"
echo "== tests"; OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -n "${ROBUST_TEST_WORKERS:-auto}" "$@"
