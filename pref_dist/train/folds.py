"""The verb `train --folds`: one run a fold in RUN_DIR/fold_K, one after another or one job each."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from pref_dist.config.load import with_values
from pref_dist.config.schema import RunConfig
from pref_dist.errors import ConfigError
from pref_dist.files import read_json
from pref_dist.run_dir import RunDir
from pref_dist.runtime.agreement import on_main
from pref_dist.runtime.checkpoint import list_steps
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.memory import release
from pref_dist.runtime.parallel import Parallel, start_parallel
from pref_dist.runtime.preempt import StopRequest, remove_left_over, stop_files
from pref_dist.runtime.trackers import check_trackers
from pref_dist.train.assemble import TrainOptions
from pref_dist.train.describe import describe_folds, describe_run
from pref_dist.train.out_of_fold import (
    FoldPlan,
    all_have_finished,
    join_folds,
    plan_folds,
    remove_joined,
    write_folds_state,
)
from pref_dist.train.resume import read_saved_config, remove_run
from pref_dist.train.run import TrainResult, prepare_for_debugging, train_among
from pref_dist.train.start import has_started


@dataclass(frozen=True)
class FoldsResult:
    """How this start ended. runs: of the folds that it went through, in order.

    metrics: the content of RUN_DIR/metrics.json, empty until all folds have finished. reason: why it stopped.
    """

    state: Literal["finished", "stopped"]
    run_dir: Path
    runs: list[TrainResult]
    reason: str
    metrics: dict[str, Any]
    is_main: bool


def train_folds(config: RunConfig, options: TrainOptions | None = None, only: int | None = None) -> FoldsResult:
    """Train all folds, or go on with them, or train fold `only` alone; every rank calls it.

    Finished folds are skipped. Whoever finishes the last one writes oof_logits.parquet and metrics.json.
    Raises PrefDistError as `train` does; ConfigError if the config has no folds or not this one.
    """
    options = options or TrainOptions()
    folds = check_request(config, options, only)
    checked = prepare_for_debugging(config, options)
    root = RunDir(Path(config.run.dir))
    parallel = start_parallel(checked.parallel, checked.run.deterministic, options.watch_batches)
    check_trackers(config.run.trackers, parallel)
    # A job of one fold leaves alone what is meant for the jobs of all.
    files = stop_files(root.stop_file, parallel.is_main and only is None)
    with StopRequest(files, is_main=parallel.is_main) as stop:
        plan = plan_folds(config, options.num_rows, options.watch_build)
        on_main(parallel, "The folder of the folds", lambda: begin(root, plan, folds, options, only is None))
        runs, reason = train_each(parallel, config, options, folds, stop)
    parallel.stop()
    # From here on rank 0 works alone; the others are done.
    metrics = finish(root, plan) if parallel.is_main and not is_trial(options) else {}
    if metrics and not options.is_partial:
        metrics = describe_all(root, config, metrics, plan, options)
    if parallel.is_main and only is None:
        root.stop_file.unlink(missing_ok=True)
    return FoldsResult("stopped" if reason else "finished", root.root, runs, reason, metrics, parallel.is_main)


def describe_all(
    root: RunDir, config: RunConfig, joined: dict[str, Any], plan: FoldPlan, options: TrainOptions
) -> dict[str, Any]:
    """Describe the rows out of fold, and those of each fold; return the metrics of the former."""
    say = Speaker(True, sys.stderr if options.lines_to_stderr else sys.stdout).say
    folds = [(plan.trained_by(fold), plan.scored_by(fold)) for fold in range(plan.num_folds)]
    metrics = describe_folds(root, config, joined, plan.table, folds, say)
    for fold in range(plan.num_folds):
        describe_run(root.fold(fold), say, f"fold {fold}")
    return metrics


def check_request(config: RunConfig, options: TrainOptions, only: int | None) -> Sequence[int]:
    """Return the folds to train. Raises ConfigError."""
    num_folds, root = config.data.num_folds, RunDir(Path(config.run.dir))
    if num_folds is None:
        raise ConfigError(
            "--folds and --fold need data.num_folds, which is null. Set it, as in --set data.num_folds=5."
        )
    if only is not None and not 0 <= only < num_folds:
        raise ConfigError(f"--fold {only}: data.num_folds={num_folds} makes the folds 0 to {num_folds - 1}.")
    if only is None and is_trial(options):
        raise ConfigError("--debug and --overfit-one-step take one run. Name a fold: --fold 0.")
    if root.config.is_file():
        raise ConfigError(f"{root.root} holds a single run. Choose another run.dir for the folds.")
    return range(num_folds) if only is None else [only]


def is_trial(options: TrainOptions) -> bool:
    """Whether nothing of this start is to stay."""
    return options.debug or options.overfit_one_step


def begin(root: RunDir, plan: FoldPlan, folds: Sequence[int], options: TrainOptions, are_all: bool) -> None:
    """Say that the folder is one of folds; rank 0 only. What was joined of other runs goes."""
    if is_trial(options):
        return
    root.root.mkdir(parents=True, exist_ok=True)
    with FileLock(root.lock):
        if not options.is_anew and not options.accept_changes:
            check_number(root, plan.num_folds)
        if are_all:
            remove_left_over(root.stop_file, root.lock)
        are_finished = all(root.fold(fold).read_state().get("state") == "finished" for fold in folds)
        if options.fresh or options.accept_changes or not are_finished:
            remove_joined(root)
        write_folds_state(root, plan.num_folds, is_joined=root.oof_logits.is_file())


def check_number(root: RunDir, num_folds: int) -> None:
    """Raise ConfigError, before folds.json is written, if some of another number of folds were begun here."""
    before = read_json(root.folds) if root.folds.is_file() else {"num_folds": num_folds}
    if before["num_folds"] == num_folds:
        return
    begun = [fold for fold in range(before["num_folds"]) if has_started(root.fold(fold))]
    if begun:
        raise ConfigError(
            f"{root.root} holds {before['num_folds']} folds, {len(begun)} of them begun, and data.num_folds is "
            f"{num_folds}. Set data.num_folds={before['num_folds']} (launch/submission.sh: --folds "
            f"{before['num_folds']}), choose another run.dir, or start anew with --fresh."
        )


def train_each(
    parallel: Parallel, config: RunConfig, options: TrainOptions, folds: Sequence[int], stop: StopRequest
) -> tuple[list[TrainResult], str]:
    """Train the folds one after another; return their results, and why not all are finished, or an empty string."""
    root, runs = RunDir(Path(config.run.dir)), list[TrainResult]()
    for fold in folds:
        saved = parallel.broadcast(find_settled(root, config, fold, options) if parallel.is_main else None)
        own = prepare_for_debugging(config_of_fold(config, fold, saved), options)
        runs.append(train_among(parallel, own, options, stop))
        release()
        if not is_trial(options):
            on_main(parallel, root.folds.name, lambda: say_how_far(root, config))
        if fold == folds[0] and options.fresh and len(folds) > 1:
            # Not earlier: a start that is refused leaves everything as it was.
            on_main(parallel, "The folder of the folds", lambda: remove_others(root, keep=folds[0]))
        if runs[-1].state == "stopped":
            return runs, runs[-1].reason
        (stops,) = parallel.sum(bool(stop.reason()))
        if stops and fold != folds[-1]:
            return runs, stop.reason() or "another rank was asked to stop"
    return runs, ""


SETTLED_ALIKE = (
    ("train", "precision"),
    ("train", "micro_batch_multiple"),
    ("train", "token_budget"),
    ("evaluate", "token_budget"),
)


def config_of_fold(config: RunConfig, fold: int, saved: RunConfig | None) -> RunConfig:
    """Return the config of one fold's run; what is `auto` is as in `saved`, so that all folds are alike."""
    changes: dict[str, Any] = {"run__dir": str(RunDir(Path(config.run.dir)).fold(fold).root), "data__fold": fold}
    for section, key in SETTLED_ALIKE:
        if saved is not None and getattr(getattr(config, section), key) == "auto":
            changes[f"{section}__{key}"] = getattr(getattr(saved, section), key)
    return with_values(config, **changes)


def find_settled(root: RunDir, config: RunConfig, fold: int, options: TrainOptions) -> RunConfig | None:
    """Return the settled config of another fold, unless this one has its own or nothing before counts."""
    assert config.data.num_folds is not None
    others = range(fold) if options.is_anew else range(config.data.num_folds)
    # Without a checkpoint it settles anew, like the others.
    if not options.is_anew and list_steps(root.fold(fold).checkpoints):
        return None
    saved = (read_saved_config(root.fold(other)) for other in others if other != fold)
    return next((found for found in saved if found is not None), None)


def say_how_far(root: RunDir, config: RunConfig) -> None:
    assert config.data.num_folds is not None
    with FileLock(root.lock):
        write_folds_state(root, config.data.num_folds, is_joined=root.oof_logits.is_file())


def remove_others(root: RunDir, keep: int) -> None:
    """Delete what earlier starts have left of the other folds, also of folds that there are no longer."""
    for folder in root.root.glob("fold_*"):
        if folder == root.fold(keep).root:
            continue
        if folder.is_symlink():  # to whatever: what lies there is not of these folds
            folder.unlink()
        else:
            remove_run(RunDir(folder))


def finish(root: RunDir, plan: FoldPlan) -> dict[str, Any]:
    """Join the folds if all have finished, and say how far they are; return the metrics, {} if some are missing."""
    # Jobs of single folds may end at the same time; each looks after the one before has written.
    with FileLock(root.lock):
        is_complete = all_have_finished(root, plan.num_folds)
        if is_complete:
            # Also what was joined before: a folder may have been replaced since.
            remove_joined(root)
        metrics = join_folds(root, plan) if is_complete else {}
        write_folds_state(root, plan.num_folds, is_joined=is_complete)
        return metrics
