"""`bench evaluate`: rows a second of our evaluation beside Trainer.predict, as the seed has it and sorted by length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.bench.children import run_child
from pref_dist.bench.estimate import guess_seconds, say_duration
from pref_dist.bench.interleave import measure_in_turns
from pref_dist.bench.measurement import Column, Comparison, pair_columns
from pref_dist.bench.own_config import check_overrides
from pref_dist.bench.parts import EvaluateQuestion, TrainQuestion
from pref_dist.bench.request import SEED, BenchRequest, describe_machine, scratch_folder
from pref_dist.bench.rows import NUM_VALID_ROWS, draw_rows, write_rows
from pref_dist.errors import ConfigError

PEERS = ("seed", "best")
PEER_BATCH = 16

# Our ways to evaluate one trained run: their column's name, and the settings that make each. The run of one step is
# nobody's to judge, so that its int8 passes whatever gate.
OWN_WAYS: Mapping[str, Sequence[str]] = {
    "own": (),
    "own int8": ("evaluate.quantize=int8", "evaluate.quantize_tolerance=10"),
}


@dataclass(frozen=True)
class EvaluateAsked:
    request: BenchRequest
    num_rows: int = 256
    with_int8: bool = False


def bench_evaluate(asked: EvaluateAsked) -> Comparison:
    """Measure evaluation of the same rows, pipelines taking turns. Raises PrefDistError."""
    request = asked.request
    check(asked)
    machine = describe_machine()
    peers = [peer for peer in PEERS if peer in request.peers]
    own_ways = [name for name in OWN_WAYS if asked.with_int8 or name != "own int8"]
    columns = [Column(name, None, PEER_BATCH) for name in (*own_ways, *peers)]
    request.say(announce(asked, len(columns)))
    with scratch_folder() as folder:
        rows = draw_rows(request.data, asked.num_rows + 2 * NUM_VALID_ROWS, folder, SEED)
        rows_csv = write_rows(folder / "rows.csv", rows[: asked.num_rows])
        model = request.make_model(folder)
        run_dir = make_run(request, rows[asked.num_rows :], model, folder)

        def measure(column: Column, place: Path) -> dict[str, Any]:
            is_own = column.pipeline in OWN_WAYS
            question = EvaluateQuestion(
                str(place), str(rows_csv), model, request.max_tokens, request.precision, run_dir,
                list(OWN_WAYS[column.pipeline]) if is_own else [],
            )  # fmt: skip
            return run_child("own_evaluate" if is_own else f"{column.pipeline}_evaluate", question)

        measure_in_turns(columns, request.repeats, measure, folder, request.say)
    about = {"verb": "evaluate", "machine": machine, **request.describe(), "rows": asked.num_rows}
    return Comparison(columns, pair_columns(columns, (), own=tuple(own_ways)), about)


def check(asked: EvaluateAsked) -> None:
    check_overrides(asked.request.overrides)
    unknown = sorted(set(asked.request.peers) - set(PEERS))
    if unknown:
        raise ConfigError(f"bench evaluate does not measure {', '.join(unknown)}. --peers takes {' and '.join(PEERS)}.")
    asked.request.check_positions(asked.request.max_tokens)
    if asked.num_rows < PEER_BATCH:
        raise ConfigError(f"--rows={asked.num_rows} must be at least {PEER_BATCH}, one batch of Trainer.predict.")


def make_run(request: BenchRequest, rows: Sequence[dict[str, str]], model: str, folder: Path) -> str:
    """Train one step on a few rows, so that there is a run to evaluate; return its folder."""
    train_csv = write_rows(folder / "train.csv", rows[:NUM_VALID_ROWS])
    valid_csv = write_rows(folder / "valid.csv", rows[NUM_VALID_ROWS:])
    question = TrainQuestion(
        str(folder), str(train_csv), str(valid_csv), model, request.max_tokens, NUM_VALID_ROWS, 0.0, request.precision,
        SEED, list(request.overrides),
    )  # fmt: skip
    return str(run_child("make_run", question)["run_dir"])


def announce(asked: EvaluateAsked, num_columns: int) -> str:
    request = asked.request
    tokens = asked.num_rows * request.max_tokens
    seconds = request.repeats * num_columns * guess_seconds(request.read_model_values(), 0.7 * tokens, times=1)
    return (
        f"evaluating {request.model_name} on {asked.num_rows:,} rows of {request.data_name}, at most "
        f"{request.max_tokens:,} tokens each, {request.repeats} x {num_columns} processes, one after another, after a "
        f"training of one step; {say_duration(seconds)} on these cores"
    )
