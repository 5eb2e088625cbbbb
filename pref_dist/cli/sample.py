"""`pref-dist sample`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from pref_dist.cli.options import as_json

MEANINGS = {
    "the true probabilities, which nothing can beat": "bayes",
    "what they are expected to have over other labels": "expected_bayes",
    "the class shares of train.csv, without reading": "prior",
}


@click.command()
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--num-train", default=3000, show_default=True, type=click.IntRange(min=10), help="Rows of train.csv.")
@click.option("--num-test", default=600, show_default=True, type=click.IntRange(min=1), help="Rows of test.csv.")
@click.option("--seed", default=42, show_default=True, type=click.IntRange(min=0), help="Same seed, same bytes.")
@as_json
def sample(out_dir: Path, num_train: int, num_test: int, seed: int, as_json: bool) -> None:
    """Write a synthetic preference set whose Bayes-optimal log loss is known.

    \b
    Examples:
      pref-dist sample runs/demo_data
      pref-dist sample runs/large --num-train 60000 --seed 7
    """
    from pref_dist.data.synthetic import write_sample

    summary = write_sample(out_dir, num_train=num_train, num_test=num_test, seed=seed)
    if as_json:
        click.echo(json.dumps(asdict(summary), default=str))
        return
    click.echo(f"wrote {num_train:,} training and {num_test:,} test rows to {out_dir}")
    click.echo(f"{'log loss, nats a row':<51} train   test")
    for what, name in MEANINGS.items():
        train, test = (getattr(summary, f"{part}_{name}_log_loss") for part in ("train", "test"))
        click.echo(f"  {what:<48} {train:.4f} {test:.4f}")
