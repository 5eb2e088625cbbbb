#!/usr/bin/env bash
# Trains recipes on labelled rows, several seeds each, and prints what they score on other labelled rows. Goes on
# where it was stopped. A recipe and seed on 2,000 rows took 7 to 11 minutes beside other work (EXPERIMENTS.md).
#
#   bash launch/learning.sh --train FILE --test FILE --out DIR [--recipes NAME...] [--seeds N] [--set KEY=VALUE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/supervise.sh
. launch/supervise.sh
exec "$python" -m tests.learning "$@"
