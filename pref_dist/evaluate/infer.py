"""Distributed inference: every row once, on whichever rank, and the logits the same bits on any number of ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pref_dist.config.schema import EvaluateSection, EvaluateSwap
from pref_dist.data.batches import build_batch, move_inputs
from pref_dist.data.layout import BatchLayout, TokenRows
from pref_dist.data.plan import Lengths, MicroBatch, Rows, check_budget, plan_evaluation, share_out
from pref_dist.errors import OutOfMemoryError, TrainingError
from pref_dist.evaluate.answers import Logits
from pref_dist.evaluate.parts import PartWriter, PassParts, Piece, Work
from pref_dist.runtime.log import Stopwatch
from pref_dist.runtime.memory import first_line, is_out_of_memory
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.pipeline import HostCopy, build_ahead, pin

Forward = Callable[[Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class InferenceTask:
    """Rows (n,) of one token table and their padded lengths (n,), to be cut by a token budget (padding included).

    swap, swap_share: which rows are to be shown with A and B exchanged, too, see `evaluate/orders.py`.
    """

    table: TokenRows
    rows: Rows
    lengths: Lengths
    layout: BatchLayout
    token_budget: int
    swap: EvaluateSwap = "none"
    swap_share: float = 1.0

    def __post_init__(self) -> None:
        """Raise PlanError before any work if a row does not fit."""
        numbers, num_sequences = self.table.row_numbers[self.rows], self.layout.num_sequences
        check_budget(numbers, self.lengths, self.token_budget, "evaluate.token_budget", num_sequences)


@dataclass(frozen=True)
class Pass:
    """Batches that go through the model together. rows: (n,) in the order in which their logits are wanted.

    are_pairs: each batch holds its rows in both orders, one beside the other.
    """

    name: str
    rows: Rows
    batches: tuple[MicroBatch, ...]
    are_pairs: bool = False


class Outcome(NamedTuple):
    """Logits of a pass: (n, 3), or (n, 6) of pairs. num_batches: how many all ranks together have run for it now."""

    logits: Logits
    num_batches: int
    seconds: float


def build_task(
    table: TokenRows, rows: Rows, layout: BatchLayout, token_budget: int, settings: EvaluateSection | None = None
) -> InferenceTask:
    """Return the task of answering `rows` of a table, in the orders that `settings` ask for; None: as they stand."""
    settings = settings or EvaluateSection()
    lengths = layout.padded_lengths(table)[rows]
    return InferenceTask(table, rows, lengths, layout, token_budget, settings.swap, settings.swap_share)


def infer_logits(task: InferenceTask, forward: Forward, parallel: Parallel) -> Logits:
    """Return the logits (n, 3) in the order of `task.rows`, as they stand in their file, on every rank; collective.

    The cut into batches does not depend on the number of ranks, and every rank runs equally many.
    Raises TrainingError if a logit is not finite, OutOfMemoryError on the rank where a batch does not fit.
    """
    return run_pass(task, plan_pass(task), forward, parallel).logits


def plan_pass(task: InferenceTask) -> Pass:
    """Return the pass of all rows as they stand in their file."""
    return Pass("first", task.rows, plan_evaluation(task.rows, task.lengths, task.token_budget))


def run_pass(
    task: InferenceTask, planned: Pass, forward: Forward, parallel: Parallel, work: Work | None = None
) -> Outcome:
    """Return the logits of the pass's rows, in their order, on every rank; collective.

    With `work` finished batches are kept in its folder, and those that are there already are not run again.
    Raises as `infer_logits`.
    """
    watch = Stopwatch()
    if work is None:
        joined = join_parts(run_in_memory(task, planned, forward, parallel), planned.rows)
        num_batches = len(planned.batches)
    else:
        parts = work.of_pass(planned.name, planned.batches)
        joined, num_batches = run_on_disk(task, planned, forward, parallel, parts)
    check_finite(joined, task.table.row_numbers[planned.rows])
    return Outcome(joined, num_batches, watch.seconds())


def run_in_memory(
    task: InferenceTask, planned: Pass, forward: Forward, parallel: Parallel
) -> list[tuple[list[Rows], list[Logits]]]:
    piece = Piece()
    for micro_batch, logits in answer_batches(task, planned.batches, forward, parallel):
        piece.add(micro_batch.index, *shape_answer(planned, micro_batch, logits))
    return parallel.gather((piece.rows, piece.logits))


def run_on_disk(
    task: InferenceTask, planned: Pass, forward: Forward, parallel: Parallel, parts: PassParts
) -> tuple[Logits, int]:
    """Run the batches that no part holds; rank 0 joins all parts. Return the logits, and how many were run."""
    found = parallel.broadcast(parts.find() if parallel.is_main else {})
    done = {batch for batches in found.values() for batch in batches}
    if done:
        parts.say(f"Going on: {len(done):,} of {len(planned.batches):,} batches are in {parts.folder} already.")
    left = tuple(batch for batch in planned.batches if batch.index not in done)
    writer = PartWriter(parts)
    for micro_batch, logits in answer_batches(task, left, forward, parallel):
        writer.add(micro_batch.index, *shape_answer(planned, micro_batch, logits))
    written = parallel.gather(writer.close())
    joined = None
    if parallel.is_main:
        whole = parts.read([*found, *(name for names in written for name in names)])
        joined = join_parts([(whole.rows, whole.logits)], planned.rows)
    joined = parallel.broadcast(joined)
    assert joined is not None
    return joined, len(left)


def shape_answer(planned: Pass, micro_batch: MicroBatch, logits: Logits) -> tuple[Rows, Logits]:
    """Return a batch's rows, each once, and their logits in a line."""
    if planned.are_pairs:
        return micro_batch.rows[::2], logits.reshape(len(logits) // 2, -1)
    return micro_batch.rows, logits


def answer_batches(
    task: InferenceTask, batches: Sequence[MicroBatch], forward: Forward, parallel: Parallel
) -> Iterator[tuple[MicroBatch, Logits]]:
    """Yield this rank's batches with their logits; spare ones are run, and not yielded. Collective.

    While a batch runs, the next one is built by a thread; a result is read when the batch after it is under way.
    """

    def build(micro_batch: MicroBatch) -> tuple[MicroBatch, dict[str, Any]]:
        inputs = build_batch(task.table, micro_batch, task.layout).inputs
        return micro_batch, move_inputs(inputs, lambda tensor: pin(tensor, parallel.device))

    late: tuple[MicroBatch, HostCopy] | None = None
    mine = share_out(tuple(batches), parallel.rank, parallel.world_size)
    for place, (micro_batch, inputs) in enumerate(build_ahead(build, mine)):
        parallel.whereabouts.at("evaluation")
        parallel.note_batches(place, len(mine))
        moved = move_inputs(inputs, lambda tensor: tensor.to(parallel.device, non_blocking=True))
        result = HostCopy(answer(forward, moved, task.token_budget))
        if late is not None:
            yield late[0], late[1].read()
        late = (micro_batch, result) if len(micro_batch.rows) else None
    if late is not None:
        yield late[0], late[1].read()
    parallel.note_batches(len(mine), len(mine))


def answer(forward: Forward, inputs: Mapping[str, Any], token_budget: int) -> Tensor:
    """Return one batch's logits (R, C), where the model is."""
    try:
        # Not compiled, where a run trains so: then every evaluation and prediction gives the same bits.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return forward(inputs)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"There is no memory for a batch of evaluate.token_budget={token_budget:,} tokens ({first_line(error)}). "
            f"Lower it, for example by --set evaluate.token_budget={token_budget // 2}."
        ) from error


def join_parts(parts: Sequence[tuple[list[Rows], list[Logits]]], wanted: Rows) -> Logits:
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


def check_finite(logits: Logits, row_numbers: NDArray[np.int64]) -> None:
    """Raise TrainingError, alike on every rank, if the model gave a row no number."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise TrainingError(
            f"The model's logits of {len(bad):,} of {len(logits):,} rows are not finite (first: row "
            f"{row_numbers[bad[0]]} of its file). Lower train.learning_rate, or use another train.precision."
        )
