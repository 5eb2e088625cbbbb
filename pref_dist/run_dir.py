"""The run folder: every name in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pref_dist.files import read_json, write_json

RunStatus = Literal["running", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class RunDir:
    """Paths inside one run folder; makes nothing until asked to."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def metrics_log(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        return self.root / "best.json"

    @property
    def valid_logits(self) -> Path:
        return self.root / "valid_logits.parquet"

    @property
    def trained_rows(self) -> Path:
        """Which rows the weights have learnt from (data/leaks.py)."""
        return self.root / "trained_rows.parquet"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def rows_set_aside(self) -> Path:
        return self.root / "rows_set_aside.jsonl"

    @property
    def findings(self) -> Path:
        return self.root / "findings.json"

    @property
    def truncation(self) -> Path:
        return self.root / "truncation.json"

    @property
    def fitted_budgets(self) -> Path:
        """Token budgets that a lack of memory has made smaller (train/memory.py)."""
        return self.root / "fitted_budgets.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def failures(self) -> Path:
        return self.root / "failures"

    @property
    def heartbeats(self) -> Path:
        return self.root / "heartbeats"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def model_files(self) -> Path:
        """Copies of the model's config and tokenizer, so that the run can be used without model.name."""
        return self.root / "model"

    @property
    def stop_file(self) -> Path:
        return self.root / "stop"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    def write_state(self, state: RunStatus, step: int, reason: str = "") -> None:
        write_json(self.state, {"state": state, "step": step, "reason": reason})

    def read_state(self) -> dict[str, Any]:
        """Return the content of `state.json`, or {} where no run was ever started.

        Raises CheckpointError if the file is damaged.
        """
        return read_json(self.state) if self.state.exists() else {}
