#!/usr/bin/env bash
# Strikes real runs on two ranks with faults, starts them again, and compares them with runs that were not struck.
#
#   bash launch/faults.sh [--seed S] [--times K] [--only CLASS]
#
# 15 classes of faults, K injections each (1 by default). Ends with a table, with the line
# `faults: SURVIVED/TRIED, silent wrong results: N`, and with 0 if everything was survived.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/supervise.sh
. launch/supervise.sh
exec "$python" -m tests.faults "$@"
