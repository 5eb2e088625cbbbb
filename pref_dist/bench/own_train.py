"""Our own training, measured: the very function that `pref-dist train` calls, on a run config as a user's."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pref_dist.bench.clock import Clock
from pref_dist.bench.matrix_work import DTYPES, TIMES_IN_TRAINING, count_linear_work, measure_matmul_rate
from pref_dist.bench.measurement import Measurement
from pref_dist.bench.own_config import own_config
from pref_dist.bench.parts import TrainQuestion
from pref_dist.bench.rows import read_rows
from pref_dist.config.schema import RunConfig
from pref_dist.data.batches import build_batch
from pref_dist.errors import BenchError
from pref_dist.models.model_config import read_model_config
from pref_dist.runtime.parallel import stand_alone
from pref_dist.train.assemble import PlannedRows, TrainOptions, plan_rows
from pref_dist.train.resume import settle_config
from pref_dist.train.run import train


class StepRecords:
    """Hears of every step as a user's terminal does; the clock runs from the first step's beginning to the last's end.

    The rehearsal of the largest micro-batch, which every run does before its first step, is the warm-up.
    """

    def __init__(self, clock: Clock, num_steps: int) -> None:
        self._clock, self._num_steps = clock, num_steps
        self.records: list[dict[str, Any]] = []

    def hear(self, record: dict[str, Any]) -> None:
        if not self.records:
            self._clock.start(seconds_ago=record["seconds"])
        self.records.append(record)
        if len(self.records) == self._num_steps:
            self._clock.stop()

    def sum(self, name: str) -> int:
        return int(sum(record[name] for record in self.records))

    @property
    def num_padded_tokens(self) -> int:
        return sum(round(record["tokens"] / (1.0 - record["padding"])) for record in self.records)


def measure(question: TrainQuestion) -> dict[str, Any]:
    """Return a Measurement as plain values. Raises PrefDistError as training does."""
    from transformers import AutoTokenizer  # noqa: F401 - seconds of import, which are not the rows'

    config = own_config(question)
    parallel = stand_alone()
    settled = settle_config(config, None, parallel, False)
    started = time.perf_counter()
    rows = plan_rows(settled, parallel, None)  # builds the token cache, which the training then finds
    prepare_seconds = time.perf_counter() - started
    clock = Clock(parallel.device)
    heard = StepRecords(clock, rows.plan.num_steps)
    result = train(config, TrainOptions(lines_to_stderr=True, show_step=heard.hear))
    if result.state != "finished" or len(heard.records) != rows.plan.num_steps:
        raise BenchError(f"The run is {result.state} after {len(heard.records)} of {rows.plan.num_steps} steps.")
    found = asdict(describe(settled, rows, heard, clock, parallel.device))
    if question.with_log_loss:
        found["log_loss"] = read_log_loss(result.metrics, question, rows.plan.num_steps)
    return found if not question.with_preparation else found | prepared(rows, prepare_seconds)


def read_log_loss(metrics: dict[str, Any], question: TrainQuestion, last_step: int) -> float:
    """Return the run's at its end; BenchError if it is of an earlier step, or left out rows that the peers answer."""
    if metrics["step"] != last_step:
        raise BenchError(
            f"Our log loss is that of its best step, {metrics['step']:,} of {last_step:,}, and the peers' that of "
            "their last. Leave evaluate.every_steps and evaluate.every_epochs out of --set."
        )
    num_rows = len(read_rows(Path(question.valid_csv)))
    if metrics["num_rows"] != num_rows:
        raise BenchError(
            f"--valid has {num_rows:,} rows, of which {num_rows - metrics['num_rows']:,} cannot be used (no winner, an "
            "empty response, ...). Leave them out: `pref-dist inspect` names them."
        )
    return float(metrics["log_loss"])


def describe(
    config: RunConfig, rows: PlannedRows, heard: StepRecords, clock: Clock, device: torch.device
) -> Measurement:
    precision = config.train.precision
    work = count_linear_work(read_model_config(config.model, rows.folder))
    num_padded, num_batches = heard.num_padded_tokens, heard.sum("micro_batches")
    return Measurement(
        rows=heard.sum("rows"),
        steps=len(heard.records),
        tokens=heard.sum("tokens"),
        padded_tokens=num_padded,
        linear_flops=TIMES_IN_TRAINING * work.flops(heard.sum("tokens"), heard.sum("rows")),
        matmul_flops_per_second=measure_matmul_rate(work, num_padded // num_batches, DTYPES[precision], device),
        precision=precision,
        **clock.figures(),
        data_seconds=time_batches(rows),
    )


def time_batches(rows: PlannedRows) -> float:
    """Return the seconds that planning and making all batches takes alone, the most that training can wait for them."""
    started = time.perf_counter()
    for planned in rows.plan.steps():
        for micro_batch in planned.micro_batches:
            build_batch(rows.prepared.train_table, micro_batch, rows.layout)
    return time.perf_counter() - started


def prepared(rows: PlannedRows, seconds: float) -> dict[str, Any]:
    """Return what reading, checking and tokenising all rows took, for the cost of a token by number of rows."""
    return {"prepare_seconds": seconds, "prepared_tokens": rows.prepared.train.num_tokens}
