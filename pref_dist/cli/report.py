"""`pref-dist report`."""

from pathlib import Path

import click

from pref_dist.cli.options import run_folder

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@run_folder
@click.option("--out", type=FILE, help="The page to write; left out: report.html in the run folder.")
def report(run_dir: Path, out: Path | None) -> None:
    """Write one self-contained page about a run, finished or not: scores, curves, data, configuration.

    \b
    Example: pref-dist report runs/demo
    """
    from pref_dist.report import write_report

    click.echo(f"written: {write_report(run_dir, out)}")
