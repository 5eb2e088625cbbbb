#!/usr/bin/env bash
# Installs Debian's Chromium, in which tests open the reports, where this is a Debian whose root we are. Idempotent.
# What fails is only told: the tests are skipped then, with the reason.
set -euo pipefail

if command -v chromium chromium-browser google-chrome >/dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "test_tools.sh: no Chromium here, so the tests that open a report in it are skipped (Debian: apt-get install chromium)."
  exit 0
fi
echo "test_tools.sh: installing Chromium (first time: about a minute)"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1; then
  echo "test_tools.sh: Chromium could not be installed, so the tests that open a report in it are skipped."
fi
