"""The verb `train`: one run from its config to its metrics, resumed by starting it again."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pref_dist.config.load import with_values
from pref_dist.config.schema import RunConfig
from pref_dist.data.prepare import write_audit
from pref_dist.errors import ConfigError
from pref_dist.evaluate.worst_rows import WORST_ROWS
from pref_dist.files import copy_file, read_json, remove_folder, remove_unfinished, write_json
from pref_dist.models.recipe import RECIPE
from pref_dist.run_dir import RunDir
from pref_dist.runtime.agreement import on_main
from pref_dist.runtime.checkpoint import recover
from pref_dist.runtime.deadline import read_deadline
from pref_dist.runtime.failure import record_failure
from pref_dist.runtime.heartbeat import Heart
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import Parallel, start_parallel
from pref_dist.runtime.preempt import StopRequest, remove_left_over, stop_files
from pref_dist.runtime.starts import note_end, note_start
from pref_dist.runtime.trackers import TrackedRun, check_trackers, tracking
from pref_dist.train.assemble import Assembled, TrainOptions, assemble
from pref_dist.train.debug import debugging, overfit_one_step, show_run
from pref_dist.train.describe import describe_run
from pref_dist.train.loop import run_steps
from pref_dist.train.memory import say_budgets
from pref_dist.train.resume import (
    cut_back,
    read_saved_config,
    remove_run,
    write_config,
)
from pref_dist.train.saving import complete_save
from pref_dist.train.start import has_started, plan_start
from pref_dist.train.stopping import has_ended, why_ended_early


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. metrics is the content of metrics.json (log_loss in nats a row, accuracy, num_rows, step and
    more), empty for a stopped run. reason: why it stopped, or ended early.

    is_main: whether this rank is the one to print it. was_finished: it had ended before, so that nothing was done.
    """

    state: Literal["finished", "stopped"]
    run_dir: Path
    step: int
    reason: str
    metrics: dict[str, Any]
    is_main: bool = True
    was_finished: bool = False


def train(config: RunConfig, options: TrainOptions | None = None) -> TrainResult:
    """Train, or go on training, the run that `config` describes; every rank calls it.

    One process, such as a notebook, needs nothing else: the call may be made again, for this run or another. SIGTERM,
    SIGUSR1, Ctrl-C (a notebook's stop button) or a file `stop` in the run folder save at the next step, and the result
    says "stopped"; the same call goes on. Signals are heard in the main thread alone, where it must be called.

    Raises PrefDistError. Then no further collective is tried, failures/rank_N.json says why, and the caller must
    leave the process, because other ranks may be waiting in one. So a script of your own under a launcher
    (accelerate, torchrun) does its work in a function and ends as the program does, which neither waits for other
    ranks nor lets the libraries' teardown do so:

        def work():
            return 75 if pref_dist.train_run(config).state == "stopped" else 0

        pref_dist.run_as_rank(work)
    """
    options = options or TrainOptions()
    config = prepare_for_debugging(config, options)
    RunDir(Path(config.run.dir)).check_holds_no_folds()
    parallel = start_parallel(config.parallel, config.run.deterministic, options.watch_batches)
    check_trackers(config.run.trackers, parallel)
    result = train_among(parallel, config, options)
    parallel.stop()
    # From here on rank 0 works alone; the others are done.
    if not parallel.is_main or result.state != "finished" or options.is_partial:
        return result
    speaker = Speaker(True, sys.stderr if options.lines_to_stderr else sys.stdout)
    return replace(result, metrics=describe_run(RunDir(result.run_dir), speaker.say))


def train_among(
    parallel: Parallel, config: RunConfig, options: TrainOptions, within: StopRequest | None = None
) -> TrainResult:
    """`train` among ranks that are connected already, so that several runs may follow each other in one process.

    `within` is the request to stop all of them.
    """
    run_dir = RunDir(Path(config.run.dir))
    speaker = Speaker(parallel.is_main, sys.stderr if options.lines_to_stderr else sys.stdout)
    with (
        StopRequest(stop_files(run_dir.stop_file, parallel.is_main), within, parallel.is_main) as stop,
        only_one_run(run_dir, parallel),
        Heart(
            run_dir, parallel.rank, parallel.world_size, parallel.whereabouts, config.parallel.timeout_seconds
        ) as heart,
        failures_recorded(run_dir, parallel, heart) as so_far,
    ):
        saved, state = parallel.broadcast(read_run_dir(run_dir, options) if parallel.is_main else (None, {}))
        start = plan_start(config, saved, parallel, speaker, options)
        if state.get("state") == "finished" and not options.accept_changes:
            reason, best = state.get("reason", ""), read_json(run_dir.best)
            return TrainResult(
                "finished", run_dir.root, state["step"], reason, best, parallel.is_main, was_finished=True
            )
        say_budgets(start.config, start.budgets, speaker)
        so_far.append(assemble(start.config, start.rows, start.checkpoint, parallel, speaker, options))
        on_main(parallel, "The run folder", lambda: begin(so_far[0]))
        with tracked(so_far[0]):
            heart.start()
            return carry_out(so_far[0], stop, options, heart)


def tracked(run: Assembled) -> AbstractContextManager[None]:
    """Let run.trackers hear of every step and evaluation of the work in it; they run on rank 0."""
    names = run.config.run.trackers if run.parallel.is_main else []
    about = TrackedRun(run.config.run.dir, run.run_dir.logs, run.config.model_dump(), run.progress.step)
    return tracking(names, about, run.metrics_log, run.speaker)


def begin(run: Assembled) -> None:
    """Make the run folder this run's own; rank 0 only.

    Everything was checked before: a refusal leaves the folder as it was. Raises OSError if there is no room in it.
    """
    if run.options.is_anew:
        remove_run(run.run_dir)
    remove_unfinished(run.run_dir.root)
    for left_over in (run.run_dir.failures, run.run_dir.heartbeats):
        remove_folder(left_over)
    if not has_ended(run):
        run.writer.check_room()
    write_config(run.config, run.run_dir)
    remove_left_over(run.run_dir.stop_file, run.run_dir.lock)
    run.trained_rows.write(run.run_dir.trained_rows)
    write_audit(run.run_dir, run.prepared)
    keep_model_files(run.rows.folder, run.run_dir)
    cut_back(run.run_dir, run.progress)
    num_rows = {"train": len(run.plan.rows), "valid": len(run.validation.rows)}
    note_start(run.run_dir, run.parallel, run.progress.step, num_rows)
    run.run_dir.write_state("running", run.progress.step)
    if run.progress.step:
        run.speaker.say(f"Going on from step {run.progress.step} of {run.plan.num_steps}.")


def keep_model_files(folder: Path, run_dir: RunDir) -> None:
    """Copy the model's config and tokenizer, so that the run folder can be used where model.name is not."""
    if folder == run_dir.model_files:
        return  # it goes on without model.name
    run_dir.model_files.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.json", "*.txt", "*.model", "*.jinja"):
        for source in folder.glob(pattern):
            if not source.name.endswith(".index.json") and source.name != RECIPE:
                copy_file(source, run_dir.model_files / source.name)


def carry_out(run: Assembled, stop: StopRequest, options: TrainOptions, heart: Heart) -> TrainResult:
    """Do with an assembled run what the options ask for."""
    if options.debug:
        show_run(run)
    with debugging(run, options.debug):
        if options.overfit_one_step:
            result = overfit_one_step(run)
            note_end(run.run_dir, "stopped", 0, "self-check")
            run.run_dir.write_state("stopped", 0, "self-check")
            return TrainResult("finished", run.run_dir.root, 0, "self-check", result)
        if run.parallel.is_main:  # whose clock decides
            stop.heed(read_deadline(lambda: run.writer.expected_seconds))
        with heart.watching():
            reason = run_steps(run, stop)
        complete_save(run)
        return end_run(run, reason)


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
def failures_recorded(run_dir: RunDir, parallel: Parallel, heart: Heart) -> Iterator[list[Assembled]]:
    """Leave failures/rank_N.json behind if the work in it raises; the work adds its run to the list when it has one.

    The error of a collective becomes one that names the rank to blame.
    """
    so_far: list[Assembled] = []
    try:
        yield so_far
    except BaseException as error:
        step = so_far[0].progress.step if so_far else 0
        explained = heart.explain(error)
        record_failure(run_dir, parallel.rank, step, explained, was_running=bool(so_far))
        if explained is not error:
            raise explained from error
        raise


def read_run_dir(run_dir: RunDir, options: TrainOptions) -> tuple[RunConfig | None, dict[str, Any]]:
    """Return the config and the state of the run that is to go on: (None, {}) if there is none. Rank 0 only."""
    if not options.is_anew:
        recover(run_dir.checkpoints)
    if options.is_anew or not has_started(run_dir):
        return None, {}
    return read_saved_config(run_dir), run_dir.read_state()


def end_run(run: Assembled, stop_reason: str) -> TrainResult:
    """Write how the run ended; a finished one with its metrics."""
    metrics: dict[str, Any] = {}
    if not stop_reason:
        assert run.progress.best is not None, "the end of a run always evaluates"
        metrics = {
            **run.progress.best,
            "seconds": run.progress.seconds,
            "skipped_steps": run.progress.skipped_steps,
            "class_shares": run.class_shares,
        }
    state: Literal["finished", "stopped"] = "stopped" if stop_reason else "finished"
    reason = stop_reason or why_ended_early(run)
    on_main(run.parallel, "The end of the run", lambda: write_end(run, state, reason, metrics))
    return TrainResult(state, run.run_dir.root, run.progress.step, reason, metrics, run.parallel.is_main)


def write_end(run: Assembled, state: Literal["finished", "stopped"], reason: str, metrics: dict[str, Any]) -> None:
    if metrics:
        # What was said of other weights goes with the metrics that it belongs to.
        (run.run_dir.root / WORST_ROWS).unlink(missing_ok=True)
        write_json(run.run_dir.metrics, metrics)
    write_config(run.config, run.run_dir)
    note_end(run.run_dir, state, run.progress.step, reason)
    run.run_dir.write_state(state, run.progress.step, reason)
    run.run_dir.stop_file.unlink(missing_ok=True)
