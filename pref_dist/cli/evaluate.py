"""`pref-dist evaluate`."""

import json
from pathlib import Path
from typing import Any

import click

from pref_dist.cli.options import as_json, checkpoint, data_format, overrides, run_folder, show_set_aside
from pref_dist.run_dir import RunDir

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
    Examples:
      pref-dist evaluate runs/demo --data runs/demo_data/test_labels.csv
      pref-dist evaluate runs/demo --checkpoint last
      bash launch/node.sh ddp 2 evaluate runs/demo --data test_labels.csv
    """
    from pref_dist.cli.terminal import Terminal
    from pref_dist.evaluate.run import EvaluateOptions
    from pref_dist.evaluate.run import evaluate as evaluate_run

    with Terminal(as_json) as terminal:
        options = EvaluateOptions(data, checkpoint, references, baselines, terminal, data_format, terminal.show_batches)
        result = evaluate_run(run_dir, options, overrides)
    if not result.is_main:
        return
    if as_json:
        click.echo(json.dumps(result.metrics))
        return
    show_scores(result.metrics, name_fold(run_dir))
    show_set_aside(result.set_aside)
    click.echo(f"written: {result.folder / 'metrics.json'}")


def name_fold(run_dir: Path) -> str:
    """Return `fold K` if the run is a fold of several, which are often evaluated one after another; else nothing."""
    name, is_among_folds = run_dir.resolve().name, RunDir(run_dir.resolve().parent).folds.is_file()
    return name.replace("_", " ") if is_among_folds and name.startswith("fold_") else ""


def show_scores(metrics: dict[str, Any], name: str) -> None:
    """The model beside references and baselines, then what else one should know, a line each. name: of the table."""
    click.echo(f"{name:<24} {'log loss':>9}  {'95 % interval':<16} {'accuracy':>9}   ({metrics['num_rows']:,} rows)")
    for name, scores in list_scores(metrics):
        interval = scores.get("interval") or scores.get("intervals", {}).get("log_loss")
        between = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
        click.echo(f"{name:<24} {scores['log_loss']:>9.4f}  {between:<16} {scores['accuracy']:>9.3f}")
    lines = (describe_learnt(metrics), describe_gate(metrics), describe_temperature(metrics), describe_orders(metrics))
    for line in filter(None, lines):
        click.echo(line)


def describe_learnt(metrics: dict[str, Any]) -> str:
    from pref_dist.evaluate.analysis import warn_of_learnt

    warning = warn_of_learnt(metrics)
    return f"WARNING: {warning}" if warning else ""


def describe_gate(metrics: dict[str, Any]) -> str:
    gate = metrics.get("gate")
    if gate is None:
        return ""
    return gate["sentence"] if gate["passed"] and not gate["is_prior"] else f"WARNING: {gate['sentence']}"


def describe_temperature(metrics: dict[str, Any]) -> str:
    from pref_dist.evaluate.calibration_file import describe_gain

    found = metrics["calibration"]
    change = describe_gain(found["gain"], found["interval"])
    temperature = f"temperature {found['temperature']:.3f} would make the log loss {change}"
    return f"calibration: error {metrics['ece']:.4f}; {temperature}"


def describe_orders(metrics: dict[str, Any]) -> str:
    found = metrics.get("orders")
    if found is None:
        return ""
    return (
        f"both orders of {found['num_rows_both']:,} rows: {found['log_loss_ab']:.4f} as they stand, "
        f"{found['log_loss_ba']:.4f} exchanged, {found['log_loss_mean']:.4f} their mean; same answer in "
        f"{100 * found['consistency']:.1f} %"
    )


def list_scores(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the model, the references and the baselines, each with its name."""
    beside = [*metrics.get("references", {}).items(), *metrics.get("baselines", {}).items()]
    return [(f"model (step {metrics['step']})", metrics), *beside]
