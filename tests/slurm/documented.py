"""What docs/clusters.md submits, by hand and as a trial of the chain, on small jobs."""

import json
import re
import shlex
from pathlib import Path

from tests.documents.blocks import ROOT, read_commands
from tests.documents.table import said
from tests.slurm.lab import Lab

# What is exchanged in a command before it is submitted: one rank and GPU a node, two folds, real names.
EXCHANGES = (
    (r"--gpus-per-node=8", "--gpus-per-node=1"),
    (r"\bddp 8\b", "ddp 1"),
    (r"0-4%2", "0-1%2"),
    (r"num_folds=5", "num_folds=2"),
)
# Those that no other test submits as they are.
SCRIPTS = ("prepare", "folds", "evaluate", "predict")


def submit_documented(lab: Lab, run_yaml: Path, run_dir: Path, test: Path, trained: str) -> dict[str, str]:
    """Submit each of SCRIPTS; the number of each job. evaluate and predict wait for `trained`, the job of `run_dir`."""
    shown = [command.text for command in read_commands(ROOT / "docs" / "clusters.md")]
    named = {"RUN.yaml": str(run_yaml), "RUN_DIR": str(run_dir), "test.csv": str(test)}
    jobs = {}
    for script in SCRIPTS:
        (text,) = [text for text in shown if text.startswith("sbatch") and f"slurm/{script}.sbatch" in text]
        for pattern, by in EXCHANGES:
            text = re.sub(pattern, by, text)
        for name, path in named.items():
            text = text.replace(name, path)
        waits = [] if script in ("prepare", "folds") else [f"--dependency=afterok:{trained}"]
        jobs[script] = lab.submit(*waits, *shlex.split(text)[1:])
    return jobs


def find_trial(run_yaml: Path, run_dir: Path, rows: Path) -> list[str]:
    """Return the arguments of the program in `Try the chain first` but for the site, with real names."""
    shown = [said(command.text) for command in read_commands(ROOT / "docs" / "clusters.md")]
    (text,) = [text for text in shown if text.startswith("pref-dist slurm submit") and "train.max_steps=3" in text]
    words = text.replace("--site configs/sites/mine.yaml ", "")
    # A name with a quote or a $ must come through --set as YAML reads it.
    named = {"RUN.yaml": str(run_yaml), "run.dir=runs/trial": f"run.dir={json.dumps(str(run_dir))}"}
    found = [named.get(word, word.replace("runs/trial_rows", str(rows))) for word in shlex.split(words)[1:]]
    assert all("runs/trial" not in word for word in found), found
    return found
