"""Is a finished run what it must be? Read from its folder alone, without the program's own reader."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

LOSS_BOUND = 1e-5
WEIGHT_BOUND = 1e-6
SAME_PLAN = ("epoch", "rows", "tokens", "learning_rate")  # of each step; the micro-batches depend on the token budget

Line = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What a run has left. weights: the values of the last checkpoint; moments: what else is in it."""

    state: Line
    steps: list[Line]
    evaluations: list[Line]
    metrics: Line
    weights: dict[str, np.ndarray[Any, Any]]
    moments: dict[str, np.ndarray[Any, Any]]
    leftovers: list[str]

    @property
    def skipped(self) -> tuple[int, ...]:
        return tuple(line["step"] for line in self.steps if line.get("skipped"))


def read_state(run_dir: Path) -> Line:
    """The content of state.json, {} where there is none."""
    path = run_dir / "state.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def read_log(run_dir: Path) -> list[Line]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Folders of complete checkpoints, the newest last."""
    return sorted(path for path in (run_dir / "checkpoints").glob("step_*") if path.suffix != ".tmp")


def list_steps(run_dir: Path) -> list[int]:
    """Steps of complete checkpoints."""
    return [int(folder.name.removeprefix("step_")) for folder in list_checkpoints(run_dir)]


def read_record(run_dir: Path) -> Record:
    lines = read_log(run_dir)
    newest = list_checkpoints(run_dir)[-1]
    metrics = run_dir / "metrics.json"
    return Record(
        state=read_state(run_dir),
        steps=[line for line in lines if "loss" in line],
        evaluations=[line for line in lines if "loss" not in line],
        metrics=json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {},
        weights=read_tensors(newest, "model-*.safetensors"),
        moments=read_tensors(newest, "optimizer-*.safetensors"),
        leftovers=[path.name for path in run_dir.rglob("*.tmp")],
    )


def read_tensors(folder: Path, pattern: str) -> dict[str, np.ndarray[Any, Any]]:
    return {name: value for file in sorted(folder.glob(pattern)) for name, value in load_file(file).items()}


def list_differences(found: Record, expected: Record, is_exact: bool) -> list[str]:
    """Return what is wrong with a run that should be `expected`: bit for bit, or within the bounds.

    Both are finished runs; a sentence for each kind of difference, [] for none.
    """
    return [
        *check_end(found),
        *check_steps(found, expected, 0.0 if is_exact else LOSS_BOUND),
        *check_evaluations(found, expected, 0.0 if is_exact else LOSS_BOUND),
        *check_tensors("weight", found.weights, expected.weights, 0.0 if is_exact else WEIGHT_BOUND),
        *(check_tensors("moment", found.moments, expected.moments, 0.0) if is_exact else ()),
    ]


def check_end(found: Record) -> Iterator[str]:
    if found.state.get("state") != "finished":
        yield f"state.json says {found.state.get('state')}"
    if not found.metrics:
        yield "there is no metrics.json"
    if found.leftovers:
        yield f"left behind: {found.leftovers}"


def check_steps(found: Record, expected: Record, bound: float) -> Iterator[str]:
    numbers = [line["step"] for line in found.steps]
    wanted = [line["step"] for line in expected.steps]
    if numbers != wanted:
        missing, twice = set(wanted) - set(numbers), {number for number in numbers if numbers.count(number) > 1}
        yield f"steps are {numbers}: missing {sorted(missing)}, twice {sorted(twice)}"
        return
    if found.skipped != expected.skipped:
        yield f"skipped are steps {found.skipped}, not {expected.skipped}"
    for one, other in zip(found.steps, expected.steps, strict=True):
        for key in SAME_PLAN:
            if one[key] != other[key]:
                yield f"step {one['step']} has {key}={one[key]}, not {other[key]}"
        # A skipped step's loss is that of the fault.
        if one["step"] not in found.skipped and is_off(one["loss"], other["loss"], bound):
            yield f"step {one['step']} has loss {one['loss']}, not {other['loss']}"


def check_evaluations(found: Record, expected: Record, bound: float) -> Iterator[str]:
    numbers, wanted = ([line["step"] for line in record.evaluations] for record in (found, expected))
    if numbers != wanted:
        yield f"evaluated after steps {numbers}, not {wanted}"
        return
    for one, other in zip(found.evaluations, expected.evaluations, strict=True):
        if is_off(one["log_loss"], other["log_loss"], bound):
            yield f"the log loss after step {one['step']} is {one['log_loss']}, not {other['log_loss']}"
    if found.metrics.get("step") != expected.metrics.get("step"):
        yield f"the best step is {found.metrics.get('step')}, not {expected.metrics.get('step')}"


def is_off(one: float | None, other: float | None, bound: float) -> bool:
    if one is None or other is None:
        return one is not other
    return not abs(one - other) <= bound


def check_tensors(
    what: str, found: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]], bound: float
) -> Iterator[str]:
    if found.keys() != expected.keys():
        yield f"other {what}s: {sorted(found.keys() ^ expected.keys())}"
        return
    off = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}
    # Not `value > bound`: a NaN must not pass.
    wrong = {name: value for name, value in off.items() if not value <= bound}
    if wrong:
        name, value = max(wrong.items(), key=lambda item: item[1])
        yield f"{len(wrong)} of {len(off)} {what}s are off by more than {bound:g}: {name} by {value:.3g}"
