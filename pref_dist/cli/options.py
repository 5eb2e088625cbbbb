"""Options that several verbs share."""

from pathlib import Path
from typing import Any

import click

from pref_dist.files import without_controls

run_config = click.argument("run_yaml", type=click.Path(path_type=Path, dir_okay=False), metavar="RUN.yaml")
run_folder = click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False), metavar="RUN_DIR")
overrides = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."
)
checkpoint = click.option(
    "--checkpoint", default=None, metavar="best|last|STEP", help="Which weights; needed for an unfinished run."
)
data_format = click.option(
    "--format",
    "data_format",
    type=click.Choice(["auto", "lmsys", "plain", "wsdm", "arena", "pairs"]),
    help="Layout of the columns; left out: the run's data.format.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")

NUM_ROWS_NAMED = 5


def show_set_aside(records: list[dict[str, Any]]) -> None:
    """Warn of the rows of a file that the model could not read, and name the first ones."""
    if not records:
        return
    click.echo(f"WARNING: {len(records):,} rows failed a check and were set aside:")
    for record in records[:NUM_ROWS_NAMED]:
        place = f"{record['file']}, row {record['row']}, id {record['id']}"
        click.echo(f"  {without_controls(place)}: {record['kind']} ({without_controls(record['detail'])})")
