"""Where a probe works, and what several of them need."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.errors import PrefDistError

ROOT = Path(__file__).parents[2]
SCRIPT = "<script>alert('x')</script>\"><img src=http://evil.example/x>{{ 7 * 7 }}\x1b]0;owned\x07"
# None of these is one: they only look like it.
SECRETS = {"HF_TOKEN": "hf_ThisIsNoTokenAtAllButLooksLikeOne", "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567"}


@dataclass(frozen=True)
class Place:
    """A probe's own empty `folder`, and what all share and none may change.

    `model`: a tiny model's folder. `sample`: train.csv, test.csv, test_labels.csv. `run`: a finished run, trained with
    SECRETS in the environment; `said`: all that its training said.
    """

    folder: Path
    model: Path
    sample: Path
    run: Path
    cache: Path
    said: str

    def copy_model(self) -> Path:
        return Path(shutil.copytree(self.model, self.folder / "model"))

    def copy_run(self) -> Path:
        return Path(shutil.copytree(self.run, self.folder / "run"))

    @property
    def witness(self) -> Path:
        """What a payload would write."""
        return self.folder / "payload_ran"

    def assert_did_not_run(self) -> None:
        assert not self.witness.exists(), "the payload ran"

    def write_config(self, **sections: Mapping[str, Any]) -> Path:
        """Write the config of a short run on a copy of nothing shared but the cache."""
        values: dict[str, dict[str, Any]] = {
            "run": {"dir": str(self.folder / "run")},
            "data": {"train": str(self.sample / "train.csv"), "max_tokens": 96, "cache_dir": str(self.cache),
                     "num_workers": 0},
            "model": {"name": str(self.model)},
            "train": {"rows_per_step": 8, "max_steps": 2, "token_budget": 800},
            "evaluate": {"describe": False, "token_budget": 800},
        }  # fmt: skip
        for section, changes in sections.items():
            values.setdefault(section, {}).update(changes)
        path = self.folder / "run.yaml"
        path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
        return path


def refusal(work: Callable[[], object]) -> str:
    """Return what the error for users says; fail if there is none."""
    try:
        work()
    except PrefDistError as error:
        return str(error)
    raise AssertionError("it was not refused")


def run_program(*arguments: Any, said_yes: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `pref-dist ARGUMENTS`, with somebody at the keyboard who says yes to everything where that is asked for."""
    command = [sys.executable, "-m", "pref_dist", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    typed = "y\n" * 20 if said_yes else ""
    return subprocess.run(
        command, env=environment, input=typed, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT
    )


def read_all(folders: Sequence[Path]) -> bytes:
    """Return the content of all files below the folders, and their names."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(str(path).encode() + path.read_bytes() for path in files)
