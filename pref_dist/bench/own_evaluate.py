"""Our own evaluation, measured: a trained run is restored and answers rows, as `pref-dist evaluate` lets it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pref_dist.bench.clock import Clock
from pref_dist.bench.matrix_work import DTYPES, count_linear_work, measure_matmul_rate
from pref_dist.bench.measurement import Measurement
from pref_dist.bench.own_config import own_config
from pref_dist.bench.parts import EvaluateQuestion, TrainQuestion
from pref_dist.evaluate.infer import InferenceTask, plan_pass
from pref_dist.evaluate.restore import RestoredRun, read_run_config, restore_run
from pref_dist.models.model_config import read_model_config
from pref_dist.run_dir import RunDir
from pref_dist.runtime.parallel import start_parallel
from pref_dist.runtime.precision import resolve_precision
from pref_dist.train.assemble import TrainOptions
from pref_dist.train.run import train

NUM_WARM_ROWS = 16  # as the peer's


def make_run(question: TrainQuestion) -> dict[str, Any]:
    """Train as shortly as the question says, so that there is a run to evaluate; return its folder."""
    result = train(own_config(question), TrainOptions(lines_to_stderr=True))
    return {"run_dir": str(result.run_dir)}


def measure(question: EvaluateQuestion) -> dict[str, Any]:
    """Return a Measurement as plain values; reading and tokenising the rows comes before the clock's start."""
    run_dir = RunDir(Path(question.run_dir))
    config = read_run_config(run_dir, question.overrides)
    parallel = start_parallel(config.parallel, config.run.deterministic)
    run = restore_run(config, run_dir, "best", parallel)
    table = run.open_rows(Path(question.rows_csv))
    rows = np.arange(len(table), dtype=np.int64)
    run.infer(table, rows[:NUM_WARM_ROWS])
    clock = Clock(parallel.device)
    clock.start()
    answers = run.infer(table, rows)
    clock.stop()
    return asdict(describe(run, run.build_task(table, rows), answers.num_batches, clock))


def describe(run: RestoredRun, task: InferenceTask, num_batches: int, clock: Clock) -> Measurement:
    device, precision = run.parallel.device, resolve_precision(run.config.train.precision, run.parallel.device)
    work = count_linear_work(read_model_config(run.config.model, run.run_dir.model_files))
    num_tokens, num_padded = int(task.table.lengths[task.rows].sum()), count_padded(task)
    return Measurement(
        rows=len(task.rows),
        steps=num_batches,
        tokens=num_tokens,
        padded_tokens=num_padded,
        linear_flops=work.flops(num_tokens, len(task.rows)),
        matmul_flops_per_second=measure_matmul_rate(work, num_padded // num_batches, DTYPES[precision], device),
        precision=precision,
        **clock.figures(),
    )


def count_padded(task: InferenceTask) -> int:
    """Return the tokens of all planned batches, each row padded to the longest of its batch."""
    places = {int(row): int(length) for row, length in zip(task.rows, task.lengths, strict=True)}
    return sum(len(batch.rows) * max(places[int(row)] for row in batch.rows) for batch in plan_pass(task).batches)
