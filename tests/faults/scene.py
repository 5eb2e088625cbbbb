"""Where the injections happen: one temporary folder with a sample, a tiny model, a token cache and reference runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pref_dist.data.synthetic import write_sample
from tests.faults.checks import Record, read_record
from tests.faults.fault import Fault
from tests.faults.starts import Ending, start_verb
from tests.faults.verdicts import NotSurvivedError
from tests.tiny_model import write_tiny_model

NUM_ROWS = 150
TIMEOUT_SECONDS = 60  # of a collective; long enough for a start on a busy machine


@dataclass(frozen=True)
class Setting:
    """A kind of run that has references of its own: changes of the basic config, by section."""

    name: str
    num_steps: int
    changes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


# 11 steps an epoch, so that the edge of one lies inside; a step has 3 or 4 micro-batches.
SHORT = Setting("short", 16)
# Long enough that a launcher, which needs a moment, is struck in mid-run.
LONG = Setting("long", 48, {"train": {"max_steps": 48, "epochs": 5, "save_every_steps": 8}})
# Masks belong to micro-batches, so a run that has to change its token budget can be compared without dropout only.
WITHOUT_DROPOUT = Setting("without_dropout", 16, {"model": {"dropout": 0.0}})


@dataclass(frozen=True)
class Run:
    """One run: its config file and its folder."""

    yaml: Path
    dir: Path


@dataclass
class Scene:
    root: Path
    references: dict[tuple[object, ...], Record] = field(default_factory=dict)

    def build(self) -> None:
        write_sample(self.root / "sample", num_train=NUM_ROWS, num_test=1, seed=7)
        write_tiny_model(self.model, self.data)

    @property
    def data(self) -> Path:
        return self.root / "sample" / "train.csv"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def write_run(self, folder: Path, setting: Setting, **changes: Mapping[str, object]) -> Run:
        """Write FOLDER/run.yaml of a run in FOLDER/run."""
        values: dict[str, dict[str, Any]] = {
            "run": {"dir": str(folder / "run"), "seed": 3},
            "parallel": {"timeout_seconds": TIMEOUT_SECONDS},
            "data": {"train": str(self.data), "max_tokens": 96, "cache_dir": str(self.cache), "num_workers": 0},
            "model": {"name": str(self.model), "dropout": 0.1},
            "train": {
                "rows_per_step": 13, "token_budget": 400, "micro_batch_multiple": 1, "max_steps": setting.num_steps,
                "epochs": 2, "save_every_steps": 4, "keep_last": 2,
            },
            "evaluate": {"every_steps": 5, "every_epochs": None, "token_budget": 800},
        }  # fmt: skip
        for section, own in (*setting.changes.items(), *changes.items()):
            values.setdefault(section, {}).update(own)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return Run(folder / "run.yaml", Path(values["run"]["dir"]))

    def reference(self, setting: Setting, backend: str, world_size: int, skipped: tuple[int, ...] = ()) -> Record:
        """Return the record of a run that nothing happened to, but that leaves out the update of `skipped` steps."""
        key = (setting.name, backend, world_size, skipped)
        if key not in self.references:
            folder = self.root / "references" / "_".join(map(str, key[:3])) / ("_".join(map(str, skipped)) or "whole")
            run = self.write_run(folder, setting)
            fault = Fault("skip", "update", str(folder / "mark"), steps=skipped) if skipped else None
            check_reference(start_verb(backend, world_size, ["train", str(run.yaml)], fault), folder)
            self.references[key] = read_record(run.dir)
        return self.references[key]


def check_reference(ending: Ending, folder: Path) -> None:
    if ending.exit_codes != [0] * len(ending.exit_codes):
        raise NotSurvivedError(f"not even the reference run in {folder} finished: {ending.exit_codes}\n{ending.tail()}")
