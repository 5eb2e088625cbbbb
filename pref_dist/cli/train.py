"""`pref-dist train`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pref_dist.cli.options import as_json, overrides, run_config
from pref_dist.errors import STOPPED_EXIT_CODE

if TYPE_CHECKING:
    from pref_dist.config.schema import RunConfig
    from pref_dist.train.assemble import TrainOptions
    from pref_dist.train.folds import FoldsResult
    from pref_dist.train.run import TrainResult


@click.command()
@run_config
@overrides
@click.option("--fresh", is_flag=True, help="Delete what an earlier run left in the run folder and start anew.")
@click.option("--accept-changes", is_flag=True, help="Go on although settings or rows changed since the first start.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows of each side.")
@click.option("--dry-run", is_flag=True, help="Plan it all, measure the memory of the largest micro-batch, and stop.")
@click.option("--debug", is_flag=True, help="One process, 64 rows, everything shown, NaN traced; works under pdb.")
@click.option("--overfit-one-step", is_flag=True, help="Self-check: learn the first step's rows by heart, or fail.")
@click.option("--folds", is_flag=True, help="One run a fold of data.num_folds, one after another, in RUN_DIR/fold_K.")
@click.option("--fold", type=click.IntRange(min=0), metavar="K", help="Only this fold, for one job a fold.")
@as_json
def train(
    run_yaml: Path,
    overrides: tuple[str, ...],
    fresh: bool,
    accept_changes: bool,
    limit: int | None,
    dry_run: bool,
    debug: bool,
    overfit_one_step: bool,
    folds: bool,
    fold: int | None,
    as_json: bool,
) -> int:
    """Train a run, or go on with it: the same command resumes from the newest checkpoint.

    \b
    Examples:
      pref-dist train configs/demo.yaml
      pref-dist train RUN.yaml --dry-run
      bash launch/node.sh zero2 8 train RUN.yaml --set train.epochs=2
      accelerate launch --config_file configs/accelerate/zero2.yaml -m pref_dist train RUN.yaml

    --dry-run prints what a rank's memory will hold, and ends with exit code 9 if the run does not fit. It writes
    nothing but the token cache; under a launcher it measures each rank, and with --folds the first fold.

    With --folds the run folder gets oof_logits.parquet, which `blend` reads, as soon as the last fold is finished.
    A TERM or USR1 signal, Ctrl-C, or a file `stop` in the run folder saves at the next step and leaves.
    """
    from pref_dist.cli.terminal import Terminal
    from pref_dist.config.load import load_config
    from pref_dist.train.assemble import TrainOptions

    if folds and fold is not None:
        raise click.UsageError("--folds trains all folds and --fold one of them: give one of the two.")
    if dry_run and (debug or overfit_one_step):
        raise click.UsageError("--dry-run trains nothing, --debug and --overfit-one-step do: give one of them.")

    config = load_config(run_yaml, overrides)
    terminal = Terminal(as_json, has_bar=not debug)
    options = TrainOptions(
        fresh,
        accept_changes,
        limit,
        debug,
        overfit_one_step,
        lines_to_stderr=as_json,
        show_step=terminal.show_step,
        show_scores=terminal.show_scores,
        watch_build=terminal,
        watch_batches=terminal.show_batches,
    )
    with terminal:
        if dry_run:
            return show_dry_run(config, options, 0 if folds else fold, as_json)
        state = (
            run_folds(config, options, fold, as_json) if folds or fold is not None else run(config, options, as_json)
        )
    return STOPPED_EXIT_CODE if state == "stopped" else 0


def show_dry_run(config: "RunConfig", options: "TrainOptions", fold: int | None, as_json: bool) -> int:
    """Measure the run's memory and show it. Raises OutOfMemoryError if the run does not fit."""
    from pref_dist.cli.memory_table import render_memory
    from pref_dist.train.dry_run import dry_run

    found = dry_run(config, options, fold)
    if found.is_main:
        click.echo(json.dumps(found.as_json()) if as_json else render_memory(found))
    found.check_fits()
    return 0


def run(config: "RunConfig", options: "TrainOptions", as_json: bool) -> str:
    """Train a single run, show how it ended, return its state."""
    from pref_dist.train.run import train as train_run

    result = train_run(config, options)
    if result.is_main:
        show_result(result, as_json)
    return result.state


def run_folds(config: "RunConfig", options: "TrainOptions", fold: int | None, as_json: bool) -> str:
    """Train all folds or one, show how that ended, return its state."""
    from pref_dist.train.folds import train_folds

    result = train_folds(config, options, fold)
    if result.is_main:
        show_folds(result, as_json)
    return result.state


def show_result(result: "TrainResult", as_json: bool) -> None:
    if as_json:
        how = {"state": result.state, "step": result.step, "reason": result.reason}
        click.echo(json.dumps(how | {"was_finished": result.was_finished} | result.metrics))
        return
    reason = f" ({result.reason})" if result.reason else ""
    if result.was_finished:
        click.echo(f"finished before, at step {result.step}{reason}; nothing was to be done")
    else:
        click.echo(f"{result.state} at step {result.step}{reason}")
    if "log_loss" in result.metrics:
        click.echo(
            f"best valid log loss {result.metrics['log_loss']:.4f}, accuracy {result.metrics['accuracy']:.3f} "
            f"at step {result.metrics['step']}"
        )
    click.echo(f"run folder: {result.run_dir}")
    if result.state == "stopped":
        click.echo("the same command goes on from there")


def show_folds(result: "FoldsResult", as_json: bool) -> None:
    if as_json:
        runs = [{"dir": str(run.run_dir), "state": run.state, "step": run.step} for run in result.runs]
        click.echo(json.dumps({"state": result.state, "reason": result.reason, "runs": runs} | result.metrics))
        return
    for run in result.runs:
        show_result(run, as_json)
    if result.metrics:
        scores = f"log loss {result.metrics['log_loss']:.4f}, accuracy {result.metrics['accuracy']:.3f}"
        click.echo(f"out of fold: {scores} over {result.metrics['num_rows']:,} rows")
        click.echo(f"written: {result.run_dir / 'oof_logits.parquet'}")
    elif result.state == "finished":
        click.echo("other folds are not finished yet; the last one writes oof_logits.parquet")
