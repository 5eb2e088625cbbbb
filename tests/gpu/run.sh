#!/usr/bin/env bash
# All that needs a GPU, in one command: parity, precisions, resume, ranks, and the speed of training as a table.
#
#   bash tests/gpu/run.sh [OUT_DIR]      (by default runs/gpu)
#
# STEPS (default 8), ROWS (a step, 64), REPEATS (3), CAPS ("512 1024"), SHAPE (deberta-v3-large), PEERS (seed,best; of 64
# rows of a large model they may run out of memory) and DATA (a labelled CSV file; else synthetic rows) change what is
# measured. With PREF_DIST_PYTHON nothing is installed: that interpreter has everything, as in a container.
# Writes OUT_DIR/tests.log, OUT_DIR/bench_CAP.json and OUT_DIR/table.md.
# Exit codes: 0 all passed and measured, 2 there is no GPU, else that of what failed first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

no_gpu() {
  echo "tests/gpu/run.sh: $1 Nothing was run." >&2
  exit 2
}

if ! nvidia-smi -L >/dev/null 2>&1; then no_gpu "there is no NVIDIA GPU here (nvidia-smi finds none)."; fi
[ -n "${PREF_DIST_PYTHON:-}" ] || bash launch/install.sh
python=${PREF_DIST_PYTHON:-$PWD/.venv/bin/python}
num_gpus=$("$python" -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')
[ "$num_gpus" -gt 0 ] || no_gpu "nvidia-smi finds a GPU, torch does not (is it a build for this driver?)."

# Tests hide GPUs where this is not set.
CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((num_gpus - 1)))}
export CUDA_VISIBLE_DEVICES PYTHONPATH=$PWD
out=${1:-runs/gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv | tee "$out/devices.csv"

# Without a GPU a test would be skipped; here that is a failure.
code=0
PREF_DIST_TESTS_NEED=gpu "$python" -m pytest -v -rs -s tests/gpu 2>&1 | tee "$out/tests.log" || code=$?

measured=()
data=(${DATA:+--data "$DATA"})
for cap in ${CAPS:-512 1024}; do
  result=$out/bench_$cap.json
  "$python" -m pref_dist bench train --shape "${SHAPE:-deberta-v3-large}" --max-tokens "$cap" --precision bf16 \
    --rows-per-step "${ROWS:-64}" --steps "${STEPS:-8}" --repeats "${REPEATS:-3}" --dropout 0 --peers "${PEERS:-seed,best}" \
    ${data[@]+"${data[@]}"} --json >"$result" || { [ "$code" -ne 0 ] || code=1; continue; }
  measured+=("$result")
done
[ ${#measured[@]} -eq 0 ] || "$python" -m tests.gpu.table "${measured[@]}" | tee "$out/table.md"
echo "written: $out"
exit "$code"
