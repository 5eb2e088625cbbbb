"""`pref-dist bench train | evaluate | cache | plan | scaling | growth`."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pref_dist.cli.bench_options import Numbers, out_option, repeats_option, shared_options, show, teller
from pref_dist.cli.options import as_json
from pref_dist.cli.verbs import VerbGroup

if TYPE_CHECKING:
    from pref_dist.bench.request import BenchRequest

DEFAULT_PEERS = "seed,best,sentence-transformers"


@click.group(cls=VerbGroup)
def bench() -> None:
    """Measure this machine: our pipeline beside what users would pick, each measurement in a fresh process.

    \b
    Examples:
      pref-dist bench train --data train.csv --rows-per-step 8,32,64 --out bench.json
      pref-dist bench train --shape deberta-v3-small --max-tokens 1024 --steps 8
      pref-dist bench evaluate --data train.csv
      pref-dist bench cache --data train.csv
      pref-dist bench plan
      pref-dist bench scaling
      pref-dist bench growth --over tokens --shape deberta-v3-xsmall

    What each figure means stands in docs/performance.md. Leave the machine alone while it runs.
    """
    # As Ctrl-C: no measuring process goes on by itself, and no folder is left.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)


@bench.command("train")
@click.option(
    "--steps",
    default=24,
    show_default=True,
    type=click.IntRange(min=1),
    help="Steps of the first of --rows-per-step; the others train on the same rows.",
)
@click.option(
    "--rows-per-step",
    type=Numbers(int),
    default="8",
    show_default=True,
    metavar="N,N,...",
    help="Rows of an optimiser step, which are a peer's batch.",
)
@click.option(
    "--dropout",
    "dropouts",
    type=Numbers(float),
    default="0,0.1",
    show_default=True,
    metavar="P,P,...",
    help="Of ours and of 'best'; the other peers keep their own .1.",
)
@click.option("--peers", default=DEFAULT_PEERS, show_default=True, help="Which of them; empty: ours alone.")
@click.option(
    "--valid",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Labelled CSV whose log loss all but sentence-transformers say after training, each repeat by another seed.",
)
@repeats_option(3)
@shared_options
def train(
    request: "BenchRequest",
    steps: int,
    rows_per_step: tuple[int, ...],
    dropouts: tuple[float, ...],
    valid: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Training: rows a second, data, optimiser and logging included, beside the seed's Trainer and Trainer's best.

    \b
    Examples:
      pref-dist bench train --data train.csv --rows-per-step 8,32,64 --out bench.json
      pref-dist bench train --data train.csv --steps 200 --valid valid.csv
    """
    from pref_dist.bench.interleave import raise_failures
    from pref_dist.bench.train import TrainAsked, bench_train
    from pref_dist.cli.bench_tables import render_comparison

    found = bench_train(TrainAsked(request, steps, rows_per_step, dropouts, valid))
    show(found, as_json, out, render_comparison)
    raise_failures(found.columns)


@bench.command("evaluate")
@click.option("--rows", default=256, show_default=True, type=click.IntRange(min=16), help="Rows to evaluate.")
@click.option("--peers", default="seed,best", show_default=True, help="Which of them; empty: ours alone.")
@click.option("--int8", is_flag=True, help="Ours in 8-bit integers, too (evaluate.quantize; on a CPU).")
@repeats_option(3)
@shared_options
def evaluate(request: "BenchRequest", rows: int, int8: bool, as_json: bool, out: Path | None) -> None:
    """Evaluation: rows a second of a trained run beside Trainer.predict (batches of 16).

    \b
    Examples:
      pref-dist bench evaluate --data train.csv --rows 512 --int8
    """
    from pref_dist.bench.evaluate import EvaluateAsked, bench_evaluate
    from pref_dist.bench.interleave import raise_failures
    from pref_dist.cli.bench_tables import render_comparison

    found = bench_evaluate(EvaluateAsked(request, rows, int8))
    show(found, as_json, out, render_comparison)
    raise_failures(found.columns)


@bench.command("cache")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Of the file; left out: all of --data, or 20,000 synthetic "
    "ones. More than --data has: they repeat, each marked.",
)
@click.option("--processes", type=click.IntRange(min=1), help="Of a second datasets.map; left out: a core each.")
@repeats_option(3)
@shared_options
def cache(request: "BenchRequest", rows: int | None, processes: int | None, as_json: bool, out: Path | None) -> None:
    """The token cache: reading, checking, tokenising and writing beside datasets.map; and a warm start.

    \b
    Examples:
      pref-dist bench cache --data train.csv --processes 2
    """
    from pref_dist.bench.cache import bench_cache, raise_failures
    from pref_dist.cli.bench_tables import render_cache

    found = bench_cache(request, rows, processes)
    show(found, as_json, out, render_cache)
    raise_failures(found.ways)


@bench.command("plan")
@click.option("--rows", default=10_000_000, show_default=True, type=click.IntRange(min=1), help="Rows to plan.")
@click.option("--rows-per-step", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--token-budget", default=8192, show_default=True, type=click.IntRange(min=32))
@click.option("--max-tokens", default=1024, show_default=True, type=click.IntRange(min=32), help="Longest row.")
@repeats_option(3)
@out_option
@as_json
def plan(
    rows: int, rows_per_step: int, token_budget: int, max_tokens: int, repeats: int, out: Path | None, as_json: bool
) -> None:
    """The batch plan of very many rows: seconds and memory.

    \b
    Examples:
      pref-dist bench plan --rows 1000000 --json
    """
    from pref_dist.bench.parts import PlanQuestion
    from pref_dist.bench.plan import bench_plan
    from pref_dist.cli.bench_tables import render_plan

    if max_tokens > token_budget:
        raise click.UsageError(f"--max-tokens {max_tokens:,} does not fit into --token-budget {token_budget:,}.")
    found = bench_plan(PlanQuestion(rows, rows_per_step, token_budget, max_tokens), repeats, teller(as_json))
    show(found, as_json, out, render_plan)


@bench.command("scaling")
@click.option("--backends", default="ddp,zero2", show_default=True, help="As of launch/node.sh.")
@click.option("--ranks", default=2, show_default=True, type=click.IntRange(min=2), help="Beside one.")
@click.option("--steps", default=12, show_default=True, type=click.IntRange(min=1), help="Timed steps of each run.")
@click.option("--rows-per-step", default=32, show_default=True, type=click.IntRange(min=2))
@click.option("--valid-rows", default=128, show_default=True, type=click.IntRange(min=2), help="Rows to evaluate.")
@repeats_option(3)
@shared_options
def scaling(
    request: "BenchRequest",
    backends: str,
    ranks: int,
    steps: int,
    rows_per_step: int,
    valid_rows: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """One rank and several, one thread each, with the same work: which share of the ideal speed is reached.

    \b
    Examples:
      pref-dist bench scaling --backends ddp,zero2 --ranks 2
    """
    from pref_dist.bench.scaling import ScalingAsked, bench_scaling, raise_failures
    from pref_dist.cli.bench_tables import render_scaling

    found = bench_scaling(ScalingAsked(request, backends.split(","), ranks, steps, rows_per_step, valid_rows))
    show(found, as_json, out, render_scaling)
    raise_failures(found.runs)


@bench.command("growth")
@click.option(
    "--over",
    default="rows",
    show_default=True,
    type=click.Choice(["rows", "tokens"]),
    help="rows: of the data set, 1 k to 64 k; tokens: of each row, 256 to 2,048.",
)
@click.option("--sizes", type=Numbers(int), metavar="N,N,...", help="Other sizes.")
@click.option(
    "--each", multiple=True, metavar="SECTION.KEY=A,B", help="Measure every size with each of these settings."
)
@click.option("--steps", default=8, show_default=True, type=click.IntRange(min=1), help="Timed steps at each size.")
@click.option("--rows-per-step", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--dropout", default=0.0, show_default=True, type=click.FloatRange(0, 1, max_open=True))
@repeats_option(3)
@shared_options
def growth(
    request: "BenchRequest",
    over: Any,
    sizes: Sequence[int] | None,
    each: tuple[str, ...],
    steps: int,
    rows_per_step: int,
    dropout: float,
    as_json: bool,
    out: Path | None,
) -> None:
    """How the time a token of our training grows with the number of rows, or with their length.

    \b
    Examples:
      pref-dist bench growth --over tokens --shape deberta-v3-xsmall
    """
    from pref_dist.bench.growth import GrowthAsked, bench_growth, raise_failures
    from pref_dist.cli.bench_tables import render_growth

    found = bench_growth(GrowthAsked(request, over, sizes or (), each, steps, rows_per_step, dropout))
    show(found, as_json, out, render_growth)
    raise_failures(found.points)
