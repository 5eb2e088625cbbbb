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
.venv/bin/python - $run/metrics.json <<'PYTHON'
import json, sys

metrics = json.load(open(sys.argv[1], encoding="utf-8"))
model, bayes, prior = (
    scores["log_loss"] for scores in (metrics, metrics["references"]["bayes"], metrics["baselines"]["class_prior"])
)
closed = (prior - model) / (prior - bayes)
print(f"The model closes {closed:.0%} of the distance from the class prior to the best possible log loss.")
if closed < 0.6 or any(model >= scores["log_loss"] for scores in metrics["baselines"].values()):
    sys.exit("That is less than it should: at least 60 %, and better than every baseline. Something is wrong.")
PYTHON
echo "submission: $run/submission.csv"
echo "metrics:    $run/metrics.json"
echo "report:     $run/report.html"
