"""Our run config for a measurement: defaults, but for what all pipelines share and what `--set` says."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pref_dist.bench.parts import TrainQuestion
from pref_dist.config.load import load_config
from pref_dist.config.schema import RunConfig


def own_config(question: TrainQuestion) -> RunConfig:
    """Return the config of one epoch over the question's rows. Raises ConfigError for a wrong override."""
    folder = Path(question.folder)
    settings = {
        "run.dir": str(folder / "run"),
        "run.seed": question.seed,
        "data.train": question.rows_csv,
        "data.valid": question.valid_csv,
        "data.max_tokens": question.max_tokens,
        "data.cache_dir": str(folder / "cache"),
        "model.name": question.model,
        "model.dropout": question.dropout,
        "model.head_dropout": question.dropout,
        "train.rows_per_step": question.rows_per_step,
        "train.precision": question.precision,
        "evaluate.describe": False,  # at the end, which is not timed
        "evaluate.every_epochs": None,
    }
    return load_config(None, [*as_overrides(settings), *question.overrides])


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as `--set` takes them; JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a wrong `--set` before the first process is started."""
    load_config(None, overrides)
