"""Everything that a run folder tells about its run, read once; what is not there yet is empty."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.config.load import build_config, read_config_file
from pref_dist.config.schema import RunConfig
from pref_dist.files import read_json
from pref_dist.run_dir import RunDir
from pref_dist.runtime.starts import find_starts

Record = dict[str, Any]
WORST_ROWS = "worst_rows.json"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class RunRecord:
    """One run as its files describe it.

    starts: of starts.json, [] for a run that is older than that.
    steps, evaluations: the two kinds of lines of metrics.jsonl, in their order. metrics: of metrics.json, or {}.
    scored_on: the file of rows that metrics.json is about, None for the run's own validation rows.
    other_evaluations: metrics of `evaluate --data`, by folder name, but for the one in metrics.json.
    worst_rows, findings: of worst_rows.json beside the metrics and of findings.json, None where there is no such file.
    calibration: of calibration.json, or {}.
    num_damaged_lines: lines of either .jsonl file that are no JSON object, such as one that a crash cut short.
    """

    name: str
    config: RunConfig
    state: Record
    starts: list[Record]
    steps: list[Record]
    evaluations: list[Record]
    best: Record
    metrics: Record
    scored_on: str | None
    other_evaluations: dict[str, Record]
    worst_rows: list[Record] | None
    calibration: Record
    findings: list[Record] | None
    set_aside: list[Record]
    truncation: dict[str, Record]
    failures: dict[str, Record]
    num_damaged_lines: int

    @property
    def num_skipped(self) -> int:
        return sum(is_skipped(step) for step in self.steps)


def read_run_record(run_folder: Path) -> RunRecord:
    """Read a run folder, whether its run is finished, stopped, failed or going on.

    Raises ConfigError if it is no run folder or its config is wrong, CheckpointError that names a file
    which is no JSON.
    """
    run_dir = RunDir(run_folder)
    run_dir.check_holds_run()
    lines, num_damaged = read_json_lines(run_dir.metrics_log)
    set_aside, num_damaged_rows = read_json_lines(run_dir.rows_set_aside)
    metrics = read_json_if_there(run_dir.metrics)
    evaluations = {path.parent.name: read_json(path) for path in sorted(run_dir.evaluations.glob("*/metrics.json"))}
    scored_on = run_dir.find_scored_on()
    return RunRecord(
        name=run_dir.root.resolve().name,
        config=build_config(read_config_file(run_dir.config), where=str(run_dir.config)),
        state=run_dir.read_state(),
        starts=find_starts(run_dir),
        steps=[line for line in lines if "loss" in line],
        evaluations=[line for line in lines if "log_loss" in line],
        best=read_json_if_there(run_dir.best),
        metrics=metrics,
        scored_on=scored_on,
        other_evaluations={name: content for name, content in evaluations.items() if name != scored_on},
        worst_rows=read_list_if_there(find_worst_rows(run_dir, scored_on)),
        calibration=read_json_if_there(run_dir.root / CALIBRATION),
        findings=read_list_if_there(run_dir.findings),
        set_aside=set_aside,
        truncation=read_json_if_there(run_dir.truncation),
        failures={path.stem: read_json(path) for path in sorted(run_dir.failures.glob("*.json"))},
        num_damaged_lines=num_damaged + num_damaged_rows,
    )


def read_json_if_there(path: Path) -> Record:
    content: Record = read_json(path) if path.exists() else {}
    return content


def find_worst_rows(run_dir: RunDir, scored_on: str | None) -> Path:
    folder = run_dir.root if scored_on is None else run_dir.evaluations / scored_on
    return folder / WORST_ROWS


def read_list_if_there(path: Path) -> list[Record] | None:
    content: list[Record] | None = read_json(path) if path.exists() else None
    return content


def read_json_lines(path: Path) -> tuple[list[Record], int]:
    """Return the objects in a .jsonl file, none if it is missing, and how many lines are none."""
    if not path.exists():
        return [], 0
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = [parse_line(line) for line in lines if line.strip()]
    whole = [record for record in records if record is not None]
    return whole, len(records) - len(whole)


def parse_line(line: str) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def is_skipped(step: Record) -> bool:
    """Whether the weights stayed as they were, because the gradient was not finite."""
    return bool(step.get("skipped")) or step.get("grad_norm") is None
