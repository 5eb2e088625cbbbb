"""The run folder: every name in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pref_dist.errors import ConfigError
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
    def starts(self) -> Path:
        """When, where and on what the run was started (runtime/starts.py)."""
        return self.root / "starts.json"

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
    def calibration(self) -> Path:
        """The temperature that was fitted on the run's held-out rows (evaluate/calibration_file.py)."""
        return self.root / "calibration.json"

    @property
    def parts(self) -> Path:
        """What an evaluation that was interrupted has done so far (evaluate/parts.py)."""
        return self.root / ".parts"

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

    @property
    def submission(self) -> Path:
        return self.root / "submission.csv"

    @property
    def folds(self) -> Path:
        """How far the folds are, in a folder that `train --folds` filled: its own runs lie in fold_0, fold_1, ..."""
        return self.root / "folds.json"

    @property
    def oof_logits(self) -> Path:
        """The logits of every row by the fold that held it out; also what a blend writes."""
        return self.root / "oof_logits.parquet"

    def fold(self, number: int) -> "RunDir":
        """Return the run folder of one fold."""
        return RunDir(self.root / f"fold_{number}")

    def find_scored_on(self) -> str | None:
        """Return the folder name of the evaluation that metrics.json is a copy of; None: of the run's held-out rows.

        The file does not say so itself. Raises CheckpointError if one of them is damaged.
        """
        if not self.metrics.is_file():
            return None
        metrics = read_json(self.metrics)
        places = sorted(self.evaluations.glob("*/metrics.json"))
        return next((path.parent.name for path in places if read_json(path) == metrics), None)

    def check_holds_run(self) -> None:
        """Raise ConfigError, with the remedy, if no single run lies in this very folder."""
        if self.config.is_file():
            return
        if self.folds.is_file():
            raise ConfigError(
                f"{self.root} holds folds and is no run itself. Name one of them, such as {self.fold(0).root}, or let "
                f"all of them predict: pref-dist blend {self.root} --data F --out DIR."
            )
        raise ConfigError(f"{self.root} is no run folder: it has no {self.config.name}.")

    def check_holds_no_folds(self) -> None:
        """Raise ConfigError if a single run would come between folds."""
        if self.folds.is_file():
            raise ConfigError(
                f"{self.root} holds folds. Train them by --folds, or one of them by --fold K, or choose another "
                "run.dir for a single run."
            )

    def write_state(self, state: RunStatus, step: int, reason: str = "") -> None:
        write_json(self.state, {"state": state, "step": step, "reason": reason})

    def read_state(self) -> dict[str, Any]:
        """Return the content of `state.json`, or {} where no run was ever started.

        Raises CheckpointError if the file is damaged.
        """
        return read_json(self.state) if self.state.exists() else {}
