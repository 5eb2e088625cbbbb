"""`bench train`: our training beside the seed's Trainer, Trainer at its best, and sentence-transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.bench.children import run_child
from pref_dist.bench.estimate import guess_seconds, say_duration
from pref_dist.bench.interleave import measure_in_turns
from pref_dist.bench.measurement import Column, Comparison, pair_columns
from pref_dist.bench.own_config import check_overrides
from pref_dist.bench.parts import TrainQuestion
from pref_dist.bench.request import SEED, SEED_DROPOUT, BenchRequest, describe_machine, is_installed, scratch_folder
from pref_dist.bench.rows import NUM_VALID_ROWS, draw_rows, read_rows, write_rows
from pref_dist.errors import ConfigError


@dataclass(frozen=True)
class TrainAsked:
    """steps: of the first number in rows_per_step; the others train on as many rows. dropouts: of ours and of best.

    valid: a labelled CSV file whose log loss all but sentence-transformers say after the training, each repeat with
    another seed.
    """

    request: BenchRequest
    steps: int = 24
    rows_per_step: Sequence[int] = (8,)
    dropouts: Sequence[float] = (0.0, 0.1)
    valid: Path | None = None

    @property
    def num_rows(self) -> int:
        return self.steps * self.rows_per_step[0]


def bench_train(asked: TrainAsked) -> Comparison:
    """Measure training, pipelines taking turns. Raises PrefDistError; a pipeline that fails is kept in its column."""
    request = asked.request
    check(asked)
    machine = describe_machine()
    columns = list_columns(asked)
    request.say(announce(asked, columns))
    with scratch_folder() as folder:
        rows_csv, valid_csv = write_files(asked, folder)
        model = request.make_model(folder)

        def measure(column: Column, place: Path) -> dict[str, Any]:
            assert column.dropout is not None
            seed = SEED if asked.valid is None else SEED + len(column.measurements)
            question = TrainQuestion(
                str(place), str(rows_csv), str(valid_csv), model, request.max_tokens, column.rows_per_step,
                column.dropout, request.precision, seed, list(request.overrides), with_log_loss=asked.valid is not None,
            )  # fmt: skip
            return run_child(f"{column.pipeline.replace('-', '_')}_train", question)

        measure_in_turns(columns, request.repeats, measure, folder, request.say)
    about = {
        "verb": "train", "machine": machine, **request.describe(), "rows": asked.num_rows,
    }  # fmt: skip
    if asked.valid is not None:
        about |= {"valid": str(asked.valid), "seed": [SEED + repeat for repeat in range(request.repeats)]}
    return Comparison(columns, pair_columns(columns, equal_dropout=("best",)), about)


def write_files(asked: TrainAsked, folder: Path) -> tuple[Path, Path]:
    """Write the rows to train on and those to hold out; return the files. Raises DataError."""
    if asked.valid is not None:
        rows, valid = draw_rows(asked.request.data, asked.num_rows, folder, SEED), read_rows(asked.valid)
    else:
        drawn = draw_rows(asked.request.data, asked.num_rows + NUM_VALID_ROWS, folder, SEED)
        rows, valid = drawn[: asked.num_rows], drawn[asked.num_rows :]
    return write_rows(folder / "rows.csv", rows), write_rows(folder / "valid.csv", valid)


def check(asked: TrainAsked) -> None:
    """Raise ConfigError for what cannot be measured."""
    check_overrides(asked.request.overrides)
    asked.request.check_positions(asked.request.max_tokens)
    if not asked.rows_per_step or min(asked.rows_per_step) < 1 or asked.steps < 1:
        raise ConfigError(f"--rows-per-step={list(asked.rows_per_step)} and --steps={asked.steps} must be 1 or more.")
    if not all(0.0 <= dropout < 1.0 for dropout in asked.dropouts) or not asked.dropouts:
        raise ConfigError(f"--dropout={list(asked.dropouts)}: each must be at least 0 and less than 1.")


def list_columns(asked: TrainAsked) -> list[Column]:
    """Return the columns in the order in which they take turns."""
    columns = []
    for rows_per_step in asked.rows_per_step:
        columns += [Column("own", dropout, rows_per_step) for dropout in asked.dropouts]
        for peer in asked.request.peers:
            dropouts = asked.dropouts if peer == "best" else (SEED_DROPOUT,)
            columns += [Column(peer, dropout, rows_per_step, is_absent=not is_installed(peer)) for dropout in dropouts]
    return columns


def announce(asked: TrainAsked, columns: Sequence[Column]) -> str:
    """Return what will be done, and about how long it takes."""
    request, values = asked.request, asked.request.read_model_values()
    shares = {"seed": 1.0, "best": 0.6, "own": 0.5, "sentence-transformers": 0.8}  # of the padded tokens, in work
    present = [column for column in columns if not column.is_absent]
    tokens = asked.num_rows * request.max_tokens
    seconds = sum(guess_seconds(values, shares[column.pipeline] * tokens, times=3) for column in present)
    if asked.valid is not None:
        valid_tokens = len(read_rows(asked.valid)) * request.max_tokens
        seconds += sum(guess_seconds(values, shares[column.pipeline] * valid_tokens, times=1) for column in present)
    return (
        f"training {request.model_name} on {asked.num_rows:,} rows of {request.data_name}, at most "
        f"{request.max_tokens:,} tokens each, {request.repeats} x {len(present)} processes, one after another; "
        f"{say_duration(request.repeats * seconds)} on these cores"
    )
