"""`bench growth`: how the time a token of our training grows with the number of rows, or with their length."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pref_dist.bench.children import run_child
from pref_dist.bench.own_config import check_overrides
from pref_dist.bench.parts import TrainQuestion
from pref_dist.bench.request import SEED, BenchRequest, describe_machine, scratch_folder
from pref_dist.bench.rows import NUM_VALID_ROWS, Row, draw_rows, read_rows, repeat_rows, stretch_rows, write_rows
from pref_dist.errors import BenchError, ConfigError

Over = Literal["rows", "tokens"]
DEFAULT_SIZES: dict[Over, tuple[int, ...]] = {"rows": (1024, 4096, 16384, 65536), "tokens": (256, 512, 1024, 2048)}
NUM_SOURCE_ROWS = 2000  # from which longer or more rows are made


@dataclass
class Point:
    """One size with one choice of settings.

    training: seconds a token of each repeat. preparing: seconds a token of reading and tokenising all rows.
    """

    size: int
    settings: tuple[str, ...]
    training: list[float] = field(default_factory=list)
    preparing: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    tokens: int = 0  # of all timed steps
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        known = {"size": self.size, "settings": list(self.settings), "failure": self.failure}
        if not self.training:
            return known
        return known | {
            "training_seconds_a_token": median(self.training),
            "training_spread": [min(self.training), max(self.training)],
            "preparing_seconds_a_token": median(self.preparing),
            "tokens": self.tokens,
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class Growth:
    points: list[Point]
    about: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {**self.about, "points": [point.to_json() for point in self.points]}


@dataclass(frozen=True)
class GrowthAsked:
    """over: rows (of the data set, the same steps timed) or tokens (of each row, all equally long).

    each: SECTION.KEY=A,B,... settings of which every combination is measured at every size.
    """

    request: BenchRequest
    over: Over
    sizes: Sequence[int] = ()
    each: Sequence[str] = ()
    steps: int = 8
    rows_per_step: int = 8
    dropout: float = 0.0

    @property
    def all_sizes(self) -> Sequence[int]:
        return self.sizes or DEFAULT_SIZES[self.over]

    @property
    def choices(self) -> list[tuple[str, ...]]:
        """Every combination of the settings in `each`, as overrides; one empty one where there is none."""
        return list(product(*(split_choice(choice) for choice in self.each)))


def split_choice(choice: str) -> list[str]:
    """Return `KEY=A` and `KEY=B` of `KEY=A,B`. Raises ConfigError if it is not so."""
    key, separator, values = choice.partition("=")
    if not separator or not all(values.split(",")):
        raise ConfigError(f"--each takes SECTION.KEY=VALUE,VALUE,... and not '{choice}'.")
    return [f"{key}={value}" for value in values.split(",")]


def bench_growth(asked: GrowthAsked) -> Growth:
    """Measure every size with every choice, taking turns. Raises PrefDistError."""
    check(asked)
    request, machine = asked.request, describe_machine()
    points = [Point(size, choice) for size in asked.all_sizes for choice in asked.choices]
    sizes = ", ".join(f"{size:,}" for size in asked.all_sizes)
    request.say(
        f"training {request.model_name} for {asked.steps} steps of {asked.rows_per_step} rows at each of {sizes} "
        f"{asked.over}, {request.repeats} x {len(points)} processes, one after another"
    )
    with scratch_folder() as folder:
        model = longest_request(asked).make_model(folder)
        source = find_source(asked, folder)
        for _ in range(request.repeats):
            for point in points:
                with scratch_folder() as place:
                    measure(point, asked, source, model, place)
    about = {"verb": "growth", "machine": machine, **request.describe(), "over": asked.over}
    return Growth(points, {**about, "steps": asked.steps, "rows_per_step": asked.rows_per_step})


def check(asked: GrowthAsked) -> None:
    for choice in asked.choices:
        check_overrides([*asked.request.overrides, *choice])
    longest = longest_request(asked)
    longest.check_positions(longest.max_tokens)
    needed = asked.steps * asked.rows_per_step
    if asked.over == "rows" and min(asked.all_sizes) < needed:
        raise ConfigError(
            f"--sizes begins with {min(asked.all_sizes):,} rows, and {asked.steps} steps of {asked.rows_per_step} need "
            f"{needed:,}. Lower --steps, or begin larger."
        )


def longest_request(asked: GrowthAsked) -> BenchRequest:
    """Return the request with as long rows as any size has, so that one model serves all of them."""
    return replace(asked.request, max_tokens=max(asked.all_sizes)) if asked.over == "tokens" else asked.request


def find_source(asked: GrowthAsked, folder: Path) -> list[Row]:
    if asked.request.data is not None:
        return read_rows(asked.request.data)
    largest = max(asked.all_sizes) + NUM_VALID_ROWS if asked.over == "rows" else NUM_SOURCE_ROWS
    return draw_rows(None, largest, folder, SEED)


def write_source(point: Point, asked: GrowthAsked, source: Sequence[Row], folder: Path) -> tuple[str, str]:
    """Write the rows of one size and a few to end with; return both paths."""
    if asked.over == "rows":
        rows = list(repeat_rows(source, point.size + NUM_VALID_ROWS))
    else:
        # A word is at least a token, so that every row is cut to exactly the cap.
        rows = stretch_rows(source, asked.steps * asked.rows_per_step + NUM_VALID_ROWS, num_words=point.size)
    train, valid = rows[:-NUM_VALID_ROWS], rows[-NUM_VALID_ROWS:]
    return str(write_rows(folder / "rows.csv", train)), str(write_rows(folder / "valid.csv", valid))


def measure(point: Point, asked: GrowthAsked, source: Sequence[Row], model: str, folder: Path) -> None:
    if point.failure:
        return
    rows_csv, valid_csv = write_source(point, asked, source, folder)
    max_tokens = point.size if asked.over == "tokens" else asked.request.max_tokens
    question = TrainQuestion(
        str(folder), rows_csv, valid_csv, model, max_tokens, asked.rows_per_step, asked.dropout,
        asked.request.precision, SEED, [f"train.max_steps={asked.steps}", *asked.request.overrides, *point.settings],
        with_preparation=True,
    )  # fmt: skip
    try:
        found = run_child("own_train", question)
    except BenchError as error:
        point.failure = str(error)
        asked.request.say(f"  {point.size:,} {asked.over} {' '.join(point.settings)}: FAILED")
        return
    point.training.append(found["seconds"] / found["tokens"])
    point.preparing.append(found["prepare_seconds"] / found["prepared_tokens"])
    point.tokens = found["tokens"]
    point.peak_bytes = max(point.peak_bytes, found["peak_bytes"])
    asked.request.say(
        f"  {point.size:,} {asked.over} {' '.join(point.settings)}: {1e6 * point.training[-1]:.1f} us a token"
    )


def raise_failures(points: Sequence[Point]) -> None:
    """Raise BenchError, naming every size without an answer."""
    failed = [point for point in points if point.failure]
    if failed:
        reasons = [f"{point.size:,} {' '.join(point.settings)}: {point.failure}" for point in failed]
        raise BenchError("\n\n".join((f"{len(failed)} of {len(points)} could not be measured.", *reasons)))
