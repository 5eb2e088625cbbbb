"""Curves in TensorBoard and Weights & Biases (run.trackers), through Accelerate's trackers.

They get every line that metrics.jsonl gets, and they are guests: one that fails is left out, and the run is what it
would have been.
"""

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pref_dist.config.schema import Tracker
from pref_dist.errors import ConfigError
from pref_dist.files import write_text
from pref_dist.runtime.log import MetricsLog, Speaker
from pref_dist.runtime.parallel import Parallel

Values = dict[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run. settings: sections of the resolved config. step: the one it goes on from."""

    name: str
    logs: Path  # RUN_DIR/logs, where each tracker has a folder of its name
    settings: Mapping[str, Any]
    step: int


class OpenTracker(Protocol):
    """What is done with a tracker once it has started. where: its files, for people."""

    where: str

    def log(self, values: Values, step: int) -> None: ...

    def finish(self) -> None: ...


def check_trackers(names: Sequence[Tracker], parallel: Parallel) -> None:
    """Raise ConfigError on every rank if a tracker's package is missing where it is needed: on rank 0. Collective."""
    missing = parallel.broadcast([name for name in names if not is_installed(name)] if parallel.is_main else [])
    if missing:
        raise ConfigError(
            f"run.trackers=[{', '.join(names)}]: the package {' and '.join(missing)} is not installed here. Install it "
            f"(pip install {' '.join(missing)}), or take it out of run.trackers."
        )


def is_installed(package: str) -> bool:
    """Whether Python finds a package of that name, and not a mere folder, such as the one that wandb writes into."""
    found = find_spec(package)
    return found is not None and found.origin is not None


@contextmanager
def tracking(names: Sequence[Tracker], run: TrackedRun, log: MetricsLog, speaker: Speaker) -> Iterator[None]:
    """Hand on what `log` gets to the trackers while the work in it is done; for rank 0, others name none.

    After an error they are left as they are: the other ranks wait for this one to leave.
    """
    trackers = Trackers(speaker)
    for name in names:
        trackers.start(name, run)
    log.tell(trackers.log)
    yield
    trackers.finish()


class Trackers:
    """The trackers of one start of a run that have not failed so far."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._open: dict[Tracker, OpenTracker] = {}

    def start(self, name: Tracker, run: TrackedRun) -> None:
        def work() -> None:
            self._open[name] = STARTED[name](run)
            self._speaker.say(f"{'tracker':<10} {name}: {self._open[name].where}")

        self._attempt(name, work)

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a step or an evaluation, as it stands in metrics.jsonl: its numbers, as train/... or valid/..."""
        values, step = name_values(record), int(record["step"])
        for name in list(self._open):
            self._attempt(name, lambda name=name: self._open[name].log(values, step))  # type: ignore[misc]  # a default of a lambda

    def finish(self) -> None:
        for name in list(self._open):
            self._attempt(name, self._open[name].finish)

    def _attempt(self, name: Tracker, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a full disk, the network, whatever it is: no curve is worth a run
            self._open.pop(name, None)
            what = " ".join(f"{type(error).__name__}: {error}".split())
            self._speaker.say(
                f"WARNING: the tracker {name} has failed ({what}). The run goes on without it; metrics.jsonl has all."
            )


def name_values(record: Mapping[str, Any]) -> Values:
    """Return the numbers of a line of metrics.jsonl but for its step; what is not finite, too, which JSON has not."""
    kind = "train" if "loss" in record else "valid"
    return {
        f"{kind}/{key}": float(value)
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float)
    }


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"section.key": value}; lists become JSON, since a hyperparameter is one word."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat


def load_accelerate_tracking() -> Any:
    """Return accelerate.tracking, made safe for a process whose ranks Accelerate has not connected.

    Its logger asks PartialState at each line, which may start a process group of its own.
    """
    from accelerate import tracking

    tracking.logger = logging.getLogger(tracking.__name__)
    return tracking


def start_guest(tracker: Any) -> Any:
    # There is a tracker on rank 0 alone, so that it need not ask PartialState which rank this is.
    tracker.main_process_only = False
    tracker.start()
    return tracker


class TensorBoard:
    """RUN_DIR/logs/tensorboard. A start hides what earlier ones have written of the steps that it does again."""

    def __init__(self, run: TrackedRun) -> None:
        folder = run.logs / "tensorboard"
        is_new = not folder.exists()
        build = load_accelerate_tracking().TensorBoardTracker
        self._tracker = start_guest(build(folder.name, run.logs, purge_step=run.step + 1))
        if is_new:
            self._tracker.store_init_configuration(flatten(run.settings))
        self.where = f"tensorboard --logdir {folder}"

    def log(self, values: Values, step: int) -> None:
        self._tracker.log(values, step=step)

    def finish(self) -> None:
        self._tracker.finish()


class WeightsAndBiases:
    """RUN_DIR/logs/wandb, offline unless WANDB_MODE says otherwise. All starts of a run bear one id.

    The step is a figure among the others and the axis of all: W&B's own step could not go back to a checkpoint.
    """

    def __init__(self, run: TrackedRun) -> None:
        from wandb import Settings

        mode, project = os.environ.get("WANDB_MODE", "offline"), os.environ.get("WANDB_PROJECT", "pref_dist")
        folder = run.logs / "wandb"
        # A git remote may hold a password, and what the run prints is the launcher's to keep.
        settings = Settings(console="off", silent=True, disable_git=True, save_code=False)
        build = load_accelerate_tracking().WandBTracker
        self._tracker = start_guest(
            build(project, name=run.name, dir=run.logs, id=find_id(folder), resume="allow", mode=mode,
                  settings=settings)
        )  # fmt: skip
        self._tracker.tracker.define_metric("*", step_metric="step")
        self._tracker.store_init_configuration(flatten(run.settings))
        self.where = f"{mode}, in {Path(self._tracker.tracker.dir).parent}"
        if mode == "offline":
            self.where += " (upload it: wandb sync)"

    def log(self, values: Values, step: int) -> None:
        self._tracker.log({**values, "step": step})

    def finish(self) -> None:
        self._tracker.finish()


STARTED: dict[Tracker, Callable[[TrackedRun], OpenTracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def find_id(folder: Path) -> str:
    """Return the id that a run has at W&B, made at its first start."""
    path = folder / "run_id.txt"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8")
