"""`bench scaling`: the same training on 1 and on several ranks of this machine, one thread each, through the launcher.

Real runs, started as users start them; their speed is what their own metrics.jsonl says.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pref_dist.bench.children import LAUNCHED, STDERR_CHARACTERS
from pref_dist.bench.own_config import as_overrides, check_overrides
from pref_dist.bench.request import SEED, BenchRequest, describe_machine, scratch_folder
from pref_dist.bench.rows import draw_rows, write_rows
from pref_dist.config.load import load_config, render_config
from pref_dist.data.workers import count_cores
from pref_dist.errors import BenchError, ConfigError

LAUNCHER = Path(__file__).parents[2] / "launch" / "node.sh"
NUM_WARM_STEPS = 2
NUM_EVALUATIONS = 3  # the first is warm-up


@dataclass
class Runs:
    """All runs of one back-end on so many ranks, by the rows a second of each."""

    backend: str
    ranks: int
    train: list[float] = field(default_factory=list)
    evaluate: list[float] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True)
class Efficiency:
    """Share of the ideal speed that is reached: rows a second of n ranks over n times those of one rank.

    baseline: whose one rank; ddp on one rank is a single process without any back-end.
    """

    backend: str
    ranks: int
    baseline: str
    train: float
    evaluate: float


@dataclass(frozen=True)
class Scaling:
    runs: list[Runs]
    efficiencies: list[Efficiency]
    about: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.about,
            "runs": [vars(run) for run in self.runs],
            "efficiencies": [vars(one) for one in self.efficiencies],
        }


@dataclass(frozen=True)
class ScalingAsked:
    """steps: timed ones. Every run trains on the same rows in the same micro-batches, on however many ranks."""

    request: BenchRequest
    backends: Sequence[str] = ("ddp", "zero2")
    ranks: int = 2
    steps: int = 12
    rows_per_step: int = 32
    num_valid_rows: int = 128


def bench_scaling(asked: ScalingAsked) -> Scaling:
    """Measure all back-ends on 1 and on `ranks` ranks, taking turns. Raises PrefDistError."""
    check(asked)
    request = asked.request
    machine = describe_machine()
    runs = [Runs(backend, ranks) for backend in asked.backends for ranks in (1, asked.ranks)]
    request.say(
        f"training {request.model_name} {request.repeats} x {len(runs)} times for {NUM_WARM_STEPS + asked.steps} steps "
        f"of {asked.rows_per_step} rows of {request.data_name}, one thread a rank"
    )
    with scratch_folder() as folder:
        config = write_config(asked, folder)
        for _ in range(request.repeats):
            for run in runs:
                measure(run, asked, config, folder)
    about = {"verb": "scaling", "machine": machine, **request.describe(), "steps": asked.steps}
    return Scaling(runs, list_efficiencies(runs), {**about, "rows_per_step": asked.rows_per_step})


def check(asked: ScalingAsked) -> None:
    check_overrides(asked.request.overrides)
    if not LAUNCHER.exists():
        raise ConfigError(f"bench scaling needs {LAUNCHER}: start it from a checkout of the repository.")
    if not 2 <= asked.ranks <= count_cores():
        raise ConfigError(
            f"--ranks={asked.ranks} must be at least 2 and at most the {count_cores()} cores that this process may "
            "use: ranks that share a core cannot scale."
        )


def write_config(asked: ScalingAsked, folder: Path) -> Path:
    """Write rows, model and the run config; return the config's path."""
    num_steps = NUM_WARM_STEPS + asked.steps
    num_rows = num_steps * asked.rows_per_step
    rows = draw_rows(asked.request.data, num_rows + asked.num_valid_rows, folder, SEED)
    settings = {
        "data.train": str(write_rows(folder / "rows.csv", rows[:num_rows])),
        "data.valid": str(write_rows(folder / "valid.csv", rows[num_rows:])),
        "data.max_tokens": asked.request.max_tokens,
        "data.cache_dir": str(folder / "cache"),
        "model.name": asked.request.make_model(folder),
        "train.rows_per_step": asked.rows_per_step,
        "train.micro_batch_multiple": asked.ranks,  # the same cut on one rank, so that the work is fixed
        "train.precision": asked.request.precision,
        "evaluate.describe": False,
        "evaluate.every_steps": max(1, num_steps // NUM_EVALUATIONS),
    }
    config = load_config(None, [*as_overrides(settings), *asked.request.overrides])
    path = folder / "run.yaml"
    path.write_text(render_config(config), encoding="utf-8")
    return path


def measure(run: Runs, asked: ScalingAsked, config: Path, folder: Path) -> None:
    """Start one run through the launcher and note its speed, or why there is none."""
    if run.failure:
        return
    run_dir = folder / f"{run.backend}-{run.ranks}-{len(run.train)}"
    command = ["bash", str(LAUNCHER), run.backend, str(run.ranks), "train", str(config), "--set", f"run.dir={run_dir}"]
    code, said = run_launcher(command)
    if code != 0:
        end = said.strip()[-STDERR_CHARACTERS:]
        run.failure = f"{' '.join(command)} ended with {code}, and said last:\n{end}\nMend what it names."
        asked.request.say(f"  {run.backend}, {run.ranks} ranks: FAILED")
        return
    train, evaluate = read_speeds(run_dir / "metrics.jsonl")
    shutil.rmtree(run_dir)  # its checkpoints would add up
    run.train.append(train)
    run.evaluate.append(evaluate)
    asked.request.say(
        f"  {run.backend}, {run.ranks} ranks: {train:.2f} rows/s in training, {evaluate:.2f} in evaluation"
    )


def run_launcher(command: Sequence[str]) -> tuple[int, str]:
    """Return how a launcher ended and what it said; it and its ranks are gone afterwards, whatever happens."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept | {"OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            said, _ = process.communicate()
        finally:  # Ctrl-C or SIGTERM: the launcher ends its ranks when it is asked to end
            process.terminate()
            process.wait()
    return process.returncode, said


def read_speeds(metrics_log: Path) -> tuple[float, float]:
    """Return rows a second of the steps after the warm ones, and of the evaluations after the first."""
    records = [json.loads(line) for line in metrics_log.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if "loss" in record][NUM_WARM_STEPS:]
    speeds = [record["rows_per_second"] for record in records if "log_loss" in record]
    train = sum(record["rows"] for record in steps) / sum(record["seconds"] for record in steps)
    return train, median(speeds[1:] or speeds)


def list_efficiencies(runs: Sequence[Runs]) -> list[Efficiency]:
    """Return those of every back-end on several ranks, against its own one rank and against a single process."""
    found = []
    alone = {run.backend: run for run in runs if run.ranks == 1 and run.train}
    for run in runs:
        baselines = dict.fromkeys(name for name in (run.backend, "ddp") if name in alone)
        if run.ranks == 1 or not run.train:
            continue
        for name in baselines:
            one = alone[name]
            train = median(run.train) / (run.ranks * median(one.train))
            evaluate = median(run.evaluate) / (run.ranks * median(one.evaluate))
            found.append(Efficiency(run.backend, run.ranks, name, train, evaluate))
    return found


def raise_failures(runs: Sequence[Runs]) -> None:
    """Raise BenchError, naming every run that did not end well."""
    failed = [run for run in runs if run.failure]
    if failed:
        reasons = [f"{run.backend} on {run.ranks} ranks: {run.failure}" for run in failed]
        raise BenchError("\n\n".join((f"{len(failed)} of {len(runs)} could not be measured.", *reasons)))
