"""`pref-dist train`."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pref_dist.cli.options import as_json, overrides, run_config
from pref_dist.errors import STOPPED_EXIT_CODE

if TYPE_CHECKING:
    from pref_dist.train.run import TrainResult


@click.command()
@run_config
@overrides
@click.option("--fresh", is_flag=True, help="Delete what an earlier run left in the run folder and start anew.")
@click.option("--accept-changes", is_flag=True, help="Go on although settings or rows changed since the first start.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows of each side.")
@click.option("--debug", is_flag=True, help="One process, 64 rows, everything shown, NaN traced; works under pdb.")
@click.option("--overfit-one-step", is_flag=True, help="Self-check: learn the first step's rows by heart, or fail.")
@as_json
def train(
    run_yaml: Path,
    overrides: tuple[str, ...],
    fresh: bool,
    accept_changes: bool,
    limit: int | None,
    debug: bool,
    overfit_one_step: bool,
    as_json: bool,
) -> int:
    """Train a run, or go on with it: the same command resumes from the newest checkpoint.

    \b
    Examples:
      pref-dist train configs/demo.yaml
      bash launch/node.sh zero2 8 train RUN.yaml --set train.epochs=2
      accelerate launch --config_file configs/accelerate/zero2.yaml -m pref_dist train RUN.yaml

    A TERM or USR1 signal, Ctrl-C, or a file `stop` in the run folder saves at the next step and leaves.
    """
    from pref_dist.cli.build_watch import TerminalWatch
    from pref_dist.config.load import load_config
    from pref_dist.train.assemble import TrainOptions
    from pref_dist.train.run import train as train_run

    config = load_config(run_yaml, overrides)
    watch = TerminalWatch()
    options = TrainOptions(
        fresh,
        accept_changes,
        limit,
        debug,
        overfit_one_step,
        lines_to_stderr=as_json,
        show_step=show_nothing if as_json else show_step,
        watch_build=watch,
    )
    with watch:
        result = train_run(config, options)
    if result.is_main:
        show_result(result, as_json)
    return STOPPED_EXIT_CODE if result.state == "stopped" else 0


def show_result(result: "TrainResult", as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"state": result.state, "step": result.step, "reason": result.reason} | result.metrics))
        return
    reason = f" ({result.reason})" if result.reason else ""
    click.echo(f"{result.state} at step {result.step}{reason}")
    if "log_loss" in result.metrics:
        click.echo(
            f"best valid log loss {result.metrics['log_loss']:.4f}, accuracy {result.metrics['accuracy']:.3f} "
            f"at step {result.metrics['step']}"
        )
    click.echo(f"run folder: {result.run_dir}")


def show_nothing(record: dict[str, Any]) -> None:
    """Standard output is for the result alone."""


def show_step(record: dict[str, Any]) -> None:
    """One line a step on a terminal, overwritten; every tenth step as a line in a log."""
    line = (
        f"step {record['step']:>6}  loss {record['loss']:.4f}  grad norm {record['grad_norm']:.3f}  "
        f"rate {record['learning_rate']:.2e}  {record['rows'] / record['seconds']:.1f} rows/s"
    )
    # As with Speaker: a full disk under the log must not end a run on rank 0 alone.
    with suppress(OSError):
        if sys.stdout.isatty():
            click.echo(f"\r{line}\x1b[K", nl=False)
        elif record["step"] % 10 == 0 or record["step"] == 1:
            click.echo(line)
