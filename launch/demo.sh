#!/usr/bin/env bash
# The main job on sample data: install, sample, train on all GPUs or cores, evaluate, predict.
# Trains anew each time; only .venv and the token cache are reused. Results are in runs/demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/install.sh
pref_dist=.venv/bin/pref-dist
data=runs/demo_data run=runs/demo

$pref_dist sample $data --num-train 2000 --num-test 500
bash launch/node.sh ddp auto train configs/demo.yaml --fresh
bash launch/node.sh ddp auto predict $run --data $data/test.csv --out $run/submission.csv
bash launch/node.sh ddp auto evaluate $run --data $data/test_labels.csv --reference $data/bayes.csv
$pref_dist report $run
echo "submission: $run/submission.csv"
echo "metrics:    $run/metrics.json"
echo "report:     $run/report.html"
