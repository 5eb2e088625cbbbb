"""The verb `train`: one run from its config to its metrics, resumed by starting it again."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pref_dist.config.load import with_values
from pref_dist.config.schema import RunConfig
from pref_dist.errors import ConfigError
from pref_dist.files import read_json, write_json
from pref_dist.run_dir import RunDir
from pref_dist.runtime.failure import record_failure
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import Parallel, start_parallel
from pref_dist.runtime.preempt import StopRequest, stop_files
from pref_dist.train.assemble import Assembled, TrainOptions, assemble
from pref_dist.train.debug import debugging, overfit_one_step, show_run
from pref_dist.train.loop import run_steps
from pref_dist.train.resume import read_saved_config, remove_run, settle_config, write_config


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. metrics is the content of metrics.json, empty for a stopped run.

    is_main: whether this rank is the one to print it.
    """

    state: Literal["finished", "stopped"]
    run_dir: Path
    step: int
    reason: str
    metrics: dict[str, Any]
    is_main: bool = True


def train(config: RunConfig, options: TrainOptions | None = None) -> TrainResult:
    """Train, or go on training, the run that `config` describes; every rank calls it.

    Raises PrefDistError. Then no further collective is tried, failures/rank_N.json says why, and the
    caller must leave the process, because other ranks may be waiting in one.
    """
    options = options or TrainOptions()
    config = prepare_for_debugging(config, options)
    run_dir = RunDir(Path(config.run.dir))
    parallel = start_parallel(config.parallel, config.run.deterministic)
    speaker = Speaker(parallel.is_main)
    with StopRequest(stop_files(run_dir.stop_file)) as stop, only_one_run(run_dir, parallel):
        saved, state = parallel.broadcast(start_run_dir(run_dir, options) if parallel.is_main else (None, {}))
        config = settle_config(config, saved, run_dir, parallel, options.accept_changes)
        if state.get("state") == "finished" and not options.accept_changes:
            parallel.stop()
            metrics = read_json(run_dir.metrics)
            return TrainResult("finished", run_dir.root, state["step"], "before", metrics, parallel.is_main)
        # A refusal up to here leaves the folder as it was; a failure from here on is the run's.
        with failures_recorded(run_dir, parallel, state.get("step", 0)) as so_far:
            so_far.append(assemble(config, parallel, speaker, options))
            return carry_out(so_far[0], stop, options)


def carry_out(run: Assembled, stop: StopRequest, options: TrainOptions) -> TrainResult:
    """Do with an assembled run what the options ask for."""
    if options.debug:
        show_run(run)
    if options.overfit_one_step:
        return TrainResult("finished", run.run_dir.root, 0, "self-check", overfit_one_step(run))
    with debugging(run, options.debug):
        return end_run(run, run_steps(run, stop))


def prepare_for_debugging(config: RunConfig, options: TrainOptions) -> RunConfig:
    """Debug mode: one process, no workers, deterministic kernels, a folder of its own inside the run's."""
    if not (options.debug or options.overfit_one_step):
        return config
    if config.parallel.backend not in ("auto", "single") or config.parallel.world_size not in ("auto", 1):
        raise ConfigError(
            f"--debug runs in one process; parallel.backend={config.parallel.backend} and "
            f"parallel.world_size={config.parallel.world_size} do not. "
            "Use `bash launch/single.sh train RUN.yaml --debug`."
        )
    return with_values(
        config,
        run__dir=str(Path(config.run.dir) / "debug"),
        run__deterministic=True,
        parallel__backend="single",
        parallel__world_size=1,
        data__num_workers=0,
    )


@contextmanager
def only_one_run(run_dir: RunDir, parallel: Parallel) -> Iterator[None]:
    """Hold the run folder's lock on rank 0. Raises ConfigError if another run is in it."""
    if not parallel.is_main:
        yield
        return
    run_dir.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"Another process is training in {run_dir.root}. Wait for it, or choose another run.dir."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def failures_recorded(run_dir: RunDir, parallel: Parallel, step: int) -> Iterator[list[Assembled]]:
    """Leave failures/rank_N.json behind if the work in it raises.

    The work adds its run to the list, which then knows the step better than `step` does.
    """
    so_far: list[Assembled] = []
    try:
        yield so_far
    except BaseException as error:
        record_failure(run_dir, parallel.rank, so_far[0].progress.step if so_far else step, error)
        raise


def start_run_dir(run_dir: RunDir, options: TrainOptions) -> tuple[RunConfig | None, dict[str, Any]]:
    """Return the config and the state that an earlier start left, after forgetting how it ended. Rank 0 only."""
    if options.fresh or options.debug or options.overfit_one_step:
        remove_run(run_dir)
    saved, state = read_saved_config(run_dir), run_dir.read_state()
    run_dir.stop_file.unlink(missing_ok=True)
    shutil.rmtree(run_dir.failures, ignore_errors=True)
    return saved, state


def end_run(run: Assembled, stop_reason: str) -> TrainResult:
    """Write how the run ended; a finished one with its metrics."""
    metrics: dict[str, Any] = {}
    if not stop_reason:
        assert run.progress.best is not None, "the end of a run always evaluates"
        metrics = {**run.progress.best, "seconds": run.progress.seconds, "class_shares": run.class_shares}
    state: Literal["finished", "stopped"] = "stopped" if stop_reason else "finished"
    if run.parallel.is_main:
        if metrics:
            write_json(run.run_dir.metrics, metrics)
        write_config(run.config, run.run_dir)
        run.run_dir.write_state(state, run.progress.step, stop_reason)
        run.run_dir.stop_file.unlink(missing_ok=True)
    run.parallel.stop()
    return TrainResult(state, run.run_dir.root, run.progress.step, stop_reason, metrics, run.parallel.is_main)
