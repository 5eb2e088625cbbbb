"""Options that several verbs share."""

from pathlib import Path

import click

run_config = click.argument("run_yaml", type=click.Path(path_type=Path, dir_okay=False), metavar="RUN.yaml")
run_folder = click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False), metavar="RUN_DIR")
overrides = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."
)
checkpoint = click.option(
    "--checkpoint", default=None, metavar="best|last|STEP", help="Which weights; needed for an unfinished run."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
