"""Run configs for the tiny model on the sample: 20 steps of 13 rows, each cut into a few micro-batches."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class TinyRuns:
    """Writes them into `folder`."""

    folder: Path
    train: Path
    model: Path
    cache: Path

    def write(self, name: str = "run", **sections: Mapping[str, object]) -> tuple[Path, Path]:
        """Return (RUN.yaml, RUN_DIR); `sections` change single keys."""
        values: dict[str, dict[str, object]] = {
            "run": {"dir": str(self.folder / name), "seed": 3},
            "data": {
                "train": str(self.train),
                "max_tokens": 96,
                "cache_dir": str(self.cache),
                "num_workers": 0,
            },
            "model": {"name": str(self.model)},
            "train": {"rows_per_step": 13, "token_budget": 400, "micro_batch_multiple": 1, "max_steps": 20},
            "evaluate": {"every_epochs": None, "token_budget": 800, "describe": False},
        }
        for section, changes in sections.items():
            values.setdefault(section, {}).update(changes)
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path, self.folder / name
