"""`pref-dist predict`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from pref_dist.cli.options import as_json, checkpoint, data_format, overrides, run_folder, show_set_aside

FILE = click.Path(path_type=Path, dir_okay=False)
SOURCE = click.Path(path_type=Path)


@click.command()
@run_folder
@click.option(
    "--data", type=SOURCE, required=True, help="A file, folder or pattern of rows to predict; labels are passed over."
)
@click.option("--out", type=FILE, required=True, help="The submission file to write.")
@click.option(
    "--soft-labels", type=FILE, help="Also write the rows with soft labels, a .parquet file for data.sources."
)
@data_format
@checkpoint
@overrides
@as_json
def predict(
    run_dir: Path,
    data: Path,
    out: Path,
    soft_labels: Path | None,
    data_format: str | None,
    checkpoint: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write id, winner_model_a, winner_model_b, winner_tie for every row of a file, in its order.

    \b
    Example: pref-dist predict runs/demo --data runs/demo_data/test.csv --out submission.csv
    """
    from pref_dist.cli.build_watch import TerminalWatch
    from pref_dist.predict import predict as predict_rows

    with TerminalWatch() as watch:
        result = predict_rows(run_dir, data, out, checkpoint, overrides, data_format, watch, soft_labels)
    if not result.is_main:
        return
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
        return
    click.echo(f"predicted {result.num_rows:,} rows")
    if result.num_prior:
        click.echo(
            f"WARNING: {result.num_prior:,} of them failed a check and got the class shares of the training rows"
        )
    show_set_aside(result.set_aside)
    if result.num_left_out:
        click.echo(f"WARNING: {result.num_left_out:,} rows of {data} have no id or a repeated one and were left out")
    click.echo(f"written: {result.out}")
    if soft_labels is not None:
        click.echo(f"soft labels: {soft_labels} (a source of data.sources)")
