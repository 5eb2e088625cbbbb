"""`pref-dist predict`."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pref_dist.cli.options import as_json, checkpoint, data_format, overrides, show_set_aside

if TYPE_CHECKING:
    from pref_dist.predict import PredictResult

FILE = click.Path(path_type=Path, dir_okay=False)
SOURCE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("run_dirs", type=FOLDER, metavar="RUN_DIR...", nargs=-1, required=True)
@click.option(
    "--data", type=SOURCE, required=True, help="A file, folder or pattern of rows to predict; labels are passed over."
)
@click.option("--out", type=FILE, required=True, help="The submission file to write.")
@click.option("--sample-submission", type=FILE, help="A file whose columns and ids the submission must have.")
@click.option(
    "--time-limit-minutes",
    type=float,
    help="From the start of the command; the second order of A and B (evaluate.swap) is dropped where time runs short, "
    "most uncertain rows last. Never a row.",
)
@click.option(
    "--soft-labels", type=FILE, help="Also write the rows with soft labels, a .parquet file for data.sources."
)
@data_format
@checkpoint
@overrides
@as_json
def predict(
    run_dirs: tuple[Path, ...],
    data: Path,
    out: Path,
    sample_submission: Path | None,
    time_limit_minutes: float | None,
    soft_labels: Path | None,
    data_format: str | None,
    checkpoint: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write id, winner_model_a, winner_model_b, winner_tie for every row of a file, in its order.

    Several runs: the mean of their probabilities. A folder that `export` has written serves as a run. Killed, the same
    command goes on where it was.

    \b
    Examples:
      pref-dist predict runs/demo --data runs/demo_data/test.csv --out submission.csv
      pref-dist predict runs/a runs/b --data test.csv --out submission.csv --set evaluate.swap=full
      bash launch/node.sh ddp 2 predict runs/demo --data test.csv --out submission.csv
    """
    from pref_dist.cli.terminal import Terminal
    from pref_dist.predict import PredictOptions
    from pref_dist.predict import predict as predict_rows
    from pref_dist.runtime.preempt import seconds_since_start

    started = time.monotonic() - seconds_since_start()

    with Terminal(as_json) as terminal:
        options = PredictOptions(
            checkpoint,
            overrides,
            data_format,
            terminal,
            soft_labels,
            sample_submission,
            time_limit_minutes,
            started,
            terminal.show_batches,
        )
        result = predict_rows(run_dirs, data, out, options)
    if not result.is_main:
        return
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
        return
    say_result(result)
    show_set_aside(result.set_aside)
    if result.num_left_out:
        click.echo(f"WARNING: {result.num_left_out:,} rows of {data} have no id or a repeated one and were left out")
    click.echo(f"written: {result.out}")
    if soft_labels is not None:
        click.echo(f"soft labels: {soft_labels} (a source of data.sources)")


def say_result(result: "PredictResult") -> None:
    several = f" by the mean of {len(result.runs)} runs" if len(result.runs) > 1 else ""
    both = f", {result.num_both_orders:,} of them in both orders of A and B" if result.num_both_orders else ""
    click.echo(f"predicted {result.num_rows:,} rows{several}{both}")
    if result.num_prior:
        click.echo(
            f"WARNING: {result.num_prior:,} of them failed a check and got the class shares of the training rows"
        )
    if result.num_partly:
        click.echo(f"WARNING: {result.num_partly:,} of them failed a check of some runs: the mean of the others alone")
