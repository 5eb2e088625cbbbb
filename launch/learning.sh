#!/usr/bin/env bash
# Trains recipes on labelled rows, several seeds each, and prints what they score on other labelled rows. Goes on
# where it was stopped. Two cores need 3 to 6 minutes for a recipe and seed on 2,000 rows.
#
#   bash launch/learning.sh --train FILE --test FILE --out DIR [--recipes NAME...] [--seeds N] [--set KEY=VALUE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/supervise.sh
. launch/supervise.sh
exec "$python" -m tests.learning "$@"
