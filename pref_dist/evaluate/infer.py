"""Distributed inference: every row once, on whichever rank, and the logits the same bits on any number of ranks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pref_dist.data.batches import build_batch
from pref_dist.data.layout import BatchLayout, TokenRows
from pref_dist.data.plan import Lengths, Rows, check_budget, plan_evaluation, share_out
from pref_dist.errors import OutOfMemoryError, TrainingError
from pref_dist.runtime.memory import first_line, is_out_of_memory
from pref_dist.runtime.parallel import Parallel


@dataclass(frozen=True)
class InferenceTask:
    """Rows (n,) of one token table and their padded lengths (n,), to be cut by a token budget (padding included)."""

    table: TokenRows
    rows: Rows
    lengths: Lengths
    layout: BatchLayout
    token_budget: int

    def __post_init__(self) -> None:
        """Raise PlanError before any work if a row does not fit."""
        numbers, num_sequences = self.table.row_numbers[self.rows], self.layout.num_sequences
        check_budget(numbers, self.lengths, self.token_budget, "evaluate.token_budget", num_sequences)


def build_task(table: TokenRows, rows: Rows, layout: BatchLayout, token_budget: int) -> InferenceTask:
    """Return the task of answering `rows` of a table."""
    return InferenceTask(table, rows, layout.padded_lengths(table)[rows], layout, token_budget)


def infer_logits(
    task: InferenceTask, forward: Callable[[Mapping[str, Tensor]], Tensor], parallel: Parallel
) -> NDArray[np.float32 | np.float64]:
    """Return the logits (n, 3) in the order of `task.rows`, on every rank; collective.

    The cut into batches does not depend on the number of ranks, and every rank runs equally many.
    Raises TrainingError if a logit is not finite, OutOfMemoryError on the rank where a batch does not fit.
    """
    batches = plan_evaluation(task.rows, task.lengths, task.token_budget)
    rows, logits = [], []
    for micro_batch in share_out(batches, parallel.rank, parallel.world_size):
        parallel.whereabouts.at("evaluation")
        batch = build_batch(task.table, micro_batch, task.layout).to(parallel.device)
        result = answer(forward, batch.inputs, task.token_budget)
        if len(micro_batch.rows):
            rows.append(micro_batch.rows)
            logits.append(result.numpy())
    joined = join_parts(parallel.gather((rows, logits)), task.rows)
    check_finite(joined, task.table.row_numbers[task.rows])
    return joined


def answer(
    forward: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], token_budget: int
) -> Tensor:
    """Return one batch's logits (R, C), on the host."""
    try:
        # Not compiled, where a run trains so: then every evaluation and prediction gives the same bits.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return forward(inputs).cpu()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"There is no memory for a batch of evaluate.token_budget={token_budget:,} tokens ({first_line(error)}). "
            f"Lower it, for example by --set evaluate.token_budget={token_budget // 2}."
        ) from error


def join_parts(
    parts: list[tuple[list[Rows], list[NDArray[np.float32]]]], wanted: Rows
) -> NDArray[np.float32 | np.float64]:
    """Put the ranks' logits into the order of `wanted`, after proving that each row is there exactly once."""
    rows = np.concatenate([piece for pieces, _ in parts for piece in pieces])
    logits = np.concatenate([piece for _, pieces in parts for piece in pieces])
    order, place = np.argsort(wanted, kind="stable"), np.argsort(rows, kind="stable")
    if not np.array_equal(rows[place], wanted[order]):
        missing = np.setdiff1d(wanted, rows)
        raise RuntimeError(
            f"Evaluation returned {len(rows)} rows for {len(wanted)}; missing: {len(missing)} (first: {missing[:3]}), "
            f"twice: {len(rows) - len(np.unique(rows))}. This is a bug."
        )
    result = np.empty_like(logits)
    result[order] = logits[place]
    return result


def check_finite(logits: NDArray[np.float32 | np.float64], row_numbers: NDArray[np.int64]) -> None:
    """Raise TrainingError, alike on every rank, if the model gave a row no number."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise TrainingError(
            f"The model's logits of {len(bad):,} of {len(logits):,} rows are not finite (first: row "
            f"{row_numbers[bad[0]]} of its file). Lower train.learning_rate, or use another train.precision."
        )
