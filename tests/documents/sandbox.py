"""A folder that looks to a reader as the repository's root does, with rows and a tiny trained run in it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.documents.blocks import ROOT
from tests.documents.table import said
from tests.launch.launched import clean_env
from tests.ranks.nursery import MODULES, Nursery

COPIED = ("launch", "slurm", "configs", "setup.cfg", "pyproject.toml", "constraints.txt")
LINKED = ("pref_dist", "tests")
# What a verb imports, besides what ranks do.
VERBS = (
    "pref_dist.blend.run", "pref_dist.export", "pref_dist.inspection", "pref_dist.report", "sklearn.linear_model",
    "matplotlib.figure",
)  # fmt: skip
SHELL = re.compile(r"[$|&;<>`*]")
TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class Made:
    """What all sandboxes are made of: a sample, a tiny model, and the run that RUN.yaml has left."""

    sample: Path
    model: Path
    run: Path


@dataclass(frozen=True)
class Sandbox:
    """Executes commands in `folder`. Those of the program alone start from a process that has done the imports."""

    folder: Path
    env: dict[str, str]
    nursery: Nursery

    def execute(self, text: str) -> tuple[int, str]:
        """Return (exit code, both streams) of a command."""
        output = self.folder / ".output"
        with output.open("wb") as file:
            plain = said(text)
            if plain.startswith("pref-dist ") and not SHELL.search(re.sub(r"'[^']*'", "", plain)):
                arguments = ["-m", "pref_dist", *shlex.split(plain)[1:]]
                env = {**self.env, "PWD": str(self.folder)}
                code = self.nursery.start(arguments, env, file.fileno(), file.fileno()).wait(TIMEOUT_SECONDS)
            else:
                code = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
                    stdout=file, stderr=subprocess.STDOUT, timeout=TIMEOUT_SECONDS, check=False,
                ).returncode  # fmt: skip
        return code, output.read_text(encoding="utf-8", errors="replace")


def start_nursery() -> Nursery:
    return Nursery({**clean_env(), "PYTHONPATH": str(ROOT)}, (*MODULES, *VERBS))


def write_sandbox(folder: Path, made: Made, cache: Path, nursery: Nursery) -> Sandbox:
    """Fill an empty folder. `runs/run` is the finished run of RUN.yaml, runs/mine and the others are copies of it."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    for path in (folder / "configs").glob("*.yaml"):
        write_tiny_recipe(path, made.model)
    write_rows(folder, made.sample)
    write_yaml(folder / "RUN.yaml", describe_run(made.model))
    for name in ("run", "mine", "other", "a", "b"):
        if made.run.exists():
            shutil.copytree(made.run, folder / "runs" / name)
    env = clean_env(PREF_DIST_CACHE_DIR=str(cache), PYTHONPATH=str(ROOT))
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return Sandbox(folder, env, nursery)


def write_rows(folder: Path, sample: Path) -> None:
    """train.csv and test.csv of the sample under the names that documents use."""
    rows = pd.read_csv(sample / "train.csv", dtype=str, keep_default_na=False)
    for name, part in {"train": rows, "human": rows[:150], "judged": rows[150:250], "more": rows[250:]}.items():
        part.to_csv(folder / f"{name}.csv", index=False)
    for name, source in {"test": "test", "unlabelled": "test", "labelled": "test_labels"}.items():
        shutil.copy2(sample / f"{source}.csv", folder / f"{name}.csv")
    shutil.copy2(sample / "sample_submission.csv", folder / "sample_submission.csv")


def describe_run(model: Path) -> dict[str, Any]:
    return {
        "run": {"dir": "runs/run"},
        "data": {"max_tokens": 96, "num_workers": 0},
        "model": {"name": str(model)},
        "train": {"rows_per_step": 32, "max_steps": 3},
        "evaluate": {"describe": False},
    }


def write_tiny_recipe(path: Path, model: Path) -> None:
    """Make a recipe small: its model, its rows' length, three steps, a CPU's precision."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, changes in describe_run(model).items():
        if section != "run":
            values.setdefault(section, {}).update(changes)
    for section, key in (("train", "precision"), ("train", "token_budget"), ("model", "lora")):
        values[section].pop(key, None)
    values["model"]["kind"] = values["model"].get("kind", "joint").replace("decoder", "joint")
    write_yaml(path, values)


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
