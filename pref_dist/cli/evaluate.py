"""`pref-dist evaluate`."""

import json
from pathlib import Path
from typing import Any

import click

from pref_dist.cli.options import as_json, checkpoint, data_format, overrides, run_folder, show_set_aside

FILE = click.Path(path_type=Path, dir_okay=False)
SOURCE = click.Path(path_type=Path)


@click.command()
@run_folder
@click.option("--data", type=SOURCE, help="Labelled rows: a file, folder or pattern; left out: the run's own.")
@data_format
@checkpoint
@click.option("--reference", "references", type=FILE, multiple=True, help="A submission file to score beside the run.")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Fit and score simple baselines.")
@overrides
@as_json
def evaluate(
    run_dir: Path,
    data: Path | None,
    data_format: str | None,
    checkpoint: str | None,
    references: tuple[Path, ...],
    baselines: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score a trained run: log loss and accuracy over every row, exactly, on any number of ranks.

    \b
    Example: pref-dist evaluate runs/demo --data runs/demo_data/test_labels.csv
    """
    from pref_dist.cli.build_watch import TerminalWatch
    from pref_dist.evaluate.run import EvaluateOptions
    from pref_dist.evaluate.run import evaluate as evaluate_run

    with TerminalWatch() as watch:
        options = EvaluateOptions(data, checkpoint, references, baselines, watch, data_format)
        result = evaluate_run(run_dir, options, overrides)
    if not result.is_main:
        return
    if as_json:
        click.echo(json.dumps(result.metrics))
        return
    click.echo(f"{'':<24} {'log loss':>9} {'accuracy':>9}   ({result.metrics['num_rows']:,} rows)")
    for name, scores in list_scores(result.metrics):
        click.echo(f"{name:<24} {scores['log_loss']:>9.4f} {scores['accuracy']:>9.3f}")
    show_set_aside(result.set_aside)
    click.echo(f"written: {result.folder / 'metrics.json'}")


def list_scores(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the model, the references and the baselines, each with its name."""
    beside = {**metrics.get("references", {}), **metrics.get("baselines", {})}
    return [(f"model (step {metrics['step']})", metrics), *beside.items()]
