"""`pref-dist export`."""

import json
from pathlib import Path

import click

from pref_dist.cli.options import as_json, checkpoint, run_folder

FOLDER = click.Path(path_type=Path)


@click.command()
@run_folder
@click.argument("out", type=FOLDER)
@checkpoint
@as_json
def export(run_dir: Path, out: Path, checkpoint: str | None, as_json: bool) -> None:
    """Write a run's weights, tokenizer and model card as a folder that stands by itself.

    \b
    Examples:
      pref-dist export runs/demo exported

    In Python: pref_dist.load("exported").predict(rows)

    Such a folder also serves as model.name of another run.
    """
    from pref_dist.export import export as export_run

    result = export_run(run_dir, out, checkpoint)
    if as_json:
        click.echo(json.dumps(result.as_values()))
        return
    click.echo(f"step {result.step}, {result.num_parameters / 1e6:.1f}M parameters; loads with {result.loads_with}")
    click.echo(f"written: {result.out}")
