"""`pref-dist blend`."""

import json
from pathlib import Path
from typing import Any

import click

from pref_dist.cli.options import as_json, data_format, overrides, show_set_aside

FOLDER = click.Path(path_type=Path, file_okay=False)
SOURCE = click.Path(path_type=Path)


@click.command()
@click.argument("run_dirs", type=FOLDER, nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--out", type=FOLDER, required=True, help="Folder for weights.json, oof_logits.parquet, submission.csv.")
@click.option("--data", type=SOURCE, help="Rows to predict by all members: a file, folder or pattern.")
@data_format
@overrides
@as_json
def blend(
    run_dirs: tuple[Path, ...],
    out: Path,
    data: Path | None,
    data_format: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fit weights of runs or folds on rows that none of them has seen, and write one submission of all.

    \b
    Examples:
      pref-dist blend runs/a runs/b --out runs/blend --data test.csv
      bash launch/node.sh ddp 2 blend runs/a runs/b --out runs/blend --data test.csv
    """
    from pref_dist.blend.run import BlendOptions
    from pref_dist.blend.run import blend as blend_runs
    from pref_dist.cli.terminal import Terminal

    with Terminal(as_json) as terminal:
        result = blend_runs(run_dirs, out, BlendOptions(data, data_format, overrides, terminal, terminal.show_batches))
    if not result.is_main:
        return
    if as_json:
        num_predicted = None if result.predicted is None else len(result.predicted.ids)
        click.echo(json.dumps({**result.summary, "out": str(out), "num_predicted": num_predicted}))
        return
    show_summary(result.summary)
    click.echo(f"written: {out / 'weights.json'}, {out / 'oof_logits.parquet'}")
    if result.predicted is not None:
        show_set_aside(result.predicted.set_aside)
        click.echo(f"written: {out / 'submission.csv'}, {len(result.predicted.ids):,} rows")


def show_summary(summary: dict[str, Any]) -> None:
    num_rows = summary["fitted"]["num_rows"]
    click.echo(f"{'':<32} {'weight':>8} {'log loss':>9} {'accuracy':>9}   ({num_rows:,} rows)")
    for member in summary["members"]:
        show_line(member["run"], f"{member['weight']:.3f}", member)
    show_line("equal weights", "", summary["equal_weights"])
    show_line("blend, on the rows it was fitted", "", summary["fitted"])
    show_line("blend, on others (cross-fitted)", "", summary["cross_fitted"])
    click.echo(say_temperature(summary["temperature"], summary["temperature_gain"]))
    click.echo(
        f"gain over {summary['best_member']}: {summary['gain']:+.4f} nats, {say_interval(summary['gain_interval'])}"
    )


def say_temperature(temperature: float, gain: float) -> str:
    worth = f"{gain:+.4f} nats on others (cross-fitted)"
    if gain > 0:
        return f"temperature {temperature:.3f}: {worth}"
    return f"no temperature: a fitted one would gain {worth}"


def say_interval(interval: list[float] | None) -> str:
    if interval is None:
        return "no interval, since all rows are of one prompt"
    low, high = interval
    return f"95 % interval {low:+.4f} to {high:+.4f}"


def show_line(name: str, weight: str, scores: dict[str, Any]) -> None:
    click.echo(f"{name:<32} {weight:>8} {scores['log_loss']:>9.4f} {scores['accuracy']:>9.3f}")
