#!/usr/bin/env bash
# Measures how far every back-end, number of ranks, cut, clipping and precision is from one process, and writes
# docs/parity.md. Ends with 0 if everything is within its bound. 20 minutes on 2 busy cores.
#
#   bash launch/parity.sh [--only BACKEND] [--out FILE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/supervise.sh
. launch/supervise.sh
exec "$python" -m tests.parity "$@"
