"""`pref-dist report`."""

import json
from pathlib import Path

import click

from pref_dist.cli.options import as_json

PLACE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("run_dirs", type=FOLDER, nargs=-1, required=True, metavar="RUN_DIR...")
@click.option(
    "--out", type=PLACE, help="One run: the page to write, else report.html in its folder. Several: a folder."
)
@as_json
def report(run_dirs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write one self-contained page about a run, finished or not, or about several side by side.

    \b
    Examples:
      pref-dist report runs/demo
      pref-dist report runs/demo runs/other --out runs/compared
    """
    check_out(out, len(run_dirs))
    from pref_dist.report import write_comparison, write_report

    if len(run_dirs) == 1:
        written = {"page": write_report(run_dirs[0], out)}
    else:
        assert out is not None
        page = write_comparison(run_dirs, out)
        written = {"comparison": out / "comparison.json", "page": page}
    if as_json:
        click.echo(json.dumps(written, default=str))
        return
    for path in written.values():
        click.echo(f"written: {path}")


def check_out(out: Path | None, num_runs: int) -> None:
    """Raise click.UsageError if --out is not what so many runs need."""
    if num_runs > 1 and out is None:
        raise click.UsageError(f"{num_runs} runs need --out DIR, the folder for report.html and comparison.json.")
    if num_runs > 1 and out is not None and out.is_file():
        raise click.UsageError(
            f"--out {out} is a file. Name a folder: {num_runs} runs give report.html and comparison.json."
        )
    if num_runs == 1 and out is not None and out.is_dir():
        raise click.UsageError(f"--out {out} is a folder. Name the page, such as {out / 'report.html'}.")
