#!/usr/bin/env bash
# Installs what is needed, then lint, types, shell scripts and all tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/install.sh
# shellcheck source=launch/test_tools.sh
. launch/test_tools.sh
install_chromium
install_slurm
PATH=$PWD/.venv/bin:$PATH

ruff check .
ruff format --check .
mypy
shellcheck -x launch/*.sh slurm/*.sbatch slurm/*.sh tests/slurm/*.sh tests/gpu/*.sh .ci/run
# Two tests at a time (three gained nothing on two cores), each file in one process, in the order of tests/conftest.py:
# xdist by itself would begin with the files of the most tests, which are the quickest.
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 5 "$@"
