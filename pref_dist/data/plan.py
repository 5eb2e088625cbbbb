"""The batch plan: which rows make which optimiser step, and which micro-batch runs on which rank.

A pure function of (lengths, rows_per_step, token_budget, micro_batch_multiple, seed, epoch). The
number of ranks only decides who runs a micro-batch, never what is in it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.mixing import mix64
from pref_dist.errors import PlanError

Rows = NDArray[np.int64]
Lengths = NDArray[np.int32]

_NO_ROWS: Rows = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together; no rows: a spare one, run with weight 0.

    index is its place in the step, the same on any number of ranks (dropout is seeded by it).
    """

    index: int
    rows: Rows


@dataclass(frozen=True)
class PlannedStep:
    """One optimiser step. step counts from 0 over the whole run, index within its epoch."""

    step: int
    epoch: int
    index: int
    micro_batches: tuple[MicroBatch, ...]
    num_rows: int
    num_tokens: int
    num_padded_tokens: int

    def for_rank(self, rank: int, world_size: int) -> list[MicroBatch]:
        """Return the micro-batches of one rank; short ranks get spare ones at the end.

        Every rank receives the same number of micro-batches in every step, because ZeRO-3 and FSDP
        gather weights in forward and would hang otherwise.
        """
        return share_out(self.micro_batches, rank, world_size)


def share_out(micro_batches: tuple[MicroBatch, ...], rank: int, world_size: int) -> list[MicroBatch]:
    """Deal micro-batches to ranks in turn, then fill up with spare ones so that all have equally many."""
    mine = list(micro_batches[rank::world_size])
    rounds = -(-len(micro_batches) // world_size)
    return mine + [MicroBatch(len(micro_batches) + rank, _NO_ROWS)] * (rounds - len(mine))


@dataclass(frozen=True)
class Plan:
    """All steps of a run over `rows` (n,), whose token counts are `lengths` (n,).

    Raises PlanError where a single row is longer than the token budget.
    """

    rows: Rows
    lengths: Lengths
    rows_per_step: int
    token_budget: int
    micro_batch_multiple: int
    seed: int
    epochs: int
    max_steps: int | None = None

    def __post_init__(self) -> None:
        check_budget(self.rows, self.lengths, self.token_budget, "train.token_budget")

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.rows_per_step)

    @property
    def num_steps(self) -> int:
        total = self.steps_per_epoch * self.epochs
        return total if self.max_steps is None else min(total, self.max_steps)

    @cached_property
    def digest(self) -> str:
        """Names everything that the order of rows depends on."""
        settings = (self.rows_per_step, self.token_budget, self.micro_batch_multiple, self.seed)
        content = hashlib.sha256(repr(settings).encode())
        content.update(np.ascontiguousarray(self.rows).tobytes())
        content.update(np.ascontiguousarray(self.lengths).tobytes())
        return content.hexdigest()

    def steps(self, start: int = 0) -> Iterator[PlannedStep]:
        """Yield the planned steps from step `start` on, without planning the ones before it."""
        epoch, order = -1, _NO_ROWS
        for step in range(start, self.num_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = plan_order(len(self.rows), self.seed, epoch)
            yield self._plan_step(step, epoch, order)

    def _plan_step(self, step: int, epoch: int, order: Rows) -> PlannedStep:
        index = step - epoch * self.steps_per_epoch
        chosen = order[index * self.rows_per_step : (index + 1) * self.rows_per_step]
        # Ties in length are broken by row, so that the cut does not depend on the sort's whims.
        chosen = chosen[np.lexsort((chosen, -self.lengths[chosen]))]
        lengths = self.lengths[chosen]
        borders = cut_step(lengths, self.token_budget, self.micro_batch_multiple)
        parts = [self.rows[chosen[start:end]] for start, end in pairwise(borders)]
        return PlannedStep(
            step=step,
            epoch=epoch,
            index=index,
            micro_batches=tuple(MicroBatch(number, rows) for number, rows in enumerate(parts)),
            num_rows=len(chosen),
            num_tokens=int(lengths.sum()),
            num_padded_tokens=int(padded_tokens(lengths, borders).sum()),
        )


def check_budget(rows: Rows, lengths: Lengths, token_budget: int, setting: str) -> None:
    """Raise PlanError if there is no row, or a single one does not fit. `rows` (n,) name them, as in their file."""
    if len(rows) == 0:
        raise PlanError("There is no row to plan: every row was set aside or held out. Check data.train.")
    too_long = np.flatnonzero(lengths > token_budget)
    if len(too_long):
        first, longest = too_long[0], int(lengths.max())
        raise PlanError(
            f"{len(too_long):,} of {len(rows):,} rows exceed {setting}={token_budget:,} "
            f"(first: row {rows[first]} with {lengths[first]:,} tokens).\n"
            f"Lower data.max_tokens to {token_budget:,} or raise {setting} to {longest:,}."
        )


def plan_order(num_rows: int, seed: int, epoch: int) -> Rows:
    """Return a random order of `num_rows` rows that is the same on every machine and numpy version.

    Rows are sorted by a 64-bit hash of (seed, epoch, row): SplitMix64, Steele et al. 2014.
    """
    keys = mix64(np.arange(num_rows, dtype=np.uint64) ^ mix64(np.uint64(seed) ^ mix64(np.uint64(epoch))))
    return np.argsort(keys, kind="stable").astype(np.int64)


def cut_step(lengths: Lengths, token_budget: int, multiple: int) -> Rows:
    """Return the borders (n + 1,) that cut rows sorted by length into n micro-batches.

    They are near-equal in tokens; n is the smallest multiple of `multiple` (never more than the
    rows) for which none holds more than `token_budget` tokens, padding included.
    """
    num_rows = len(lengths)
    needed = -(-int(lengths.sum()) // token_budget)
    while True:
        count = min(-(-needed // multiple) * multiple, num_rows)
        borders = cut_evenly(lengths, count)
        if count == num_rows or padded_tokens(lengths, borders).max() <= token_budget:
            return borders
        needed = count + 1


def cut_evenly(lengths: Lengths, count: int) -> Rows:
    """Return borders (count + 1,) of non-empty runs of rows whose token sums are as equal as cuts allow."""
    ends = np.cumsum(lengths, dtype=np.int64)
    goals = ends[-1] * np.arange(1, count) / count
    cuts = np.searchsorted(ends - lengths / 2, goals)
    places = np.arange(1, count)
    # Every run holds a row: no cut before its place from the left, nor after its place from the right.
    cuts = np.maximum.accumulate(np.maximum(cuts, places) - places) + places
    cuts = np.minimum(cuts, len(lengths) - count + places)
    return np.concatenate(([0], cuts, [len(lengths)])).astype(np.int64)


def padded_tokens(lengths: Lengths, borders: Rows) -> Rows:
    """Return (n,) tokens of each micro-batch with every row padded to its longest (rows sorted, longest first)."""
    return np.diff(borders) * lengths[borders[:-1]].astype(np.int64)


def plan_evaluation(rows: Rows, lengths: Lengths, token_budget: int) -> tuple[MicroBatch, ...]:
    """Cut all rows, longest first, into batches of at most `token_budget` tokens, padding included.

    The longest batch comes first, so that a lack of memory shows at once. The cut does not depend
    on the number of ranks, hence neither do the logits.
    """
    check_budget(rows, lengths, token_budget, "evaluate.token_budget")
    order = np.lexsort((rows, -lengths))
    batches: list[MicroBatch] = []
    start = 0
    while start < len(order):
        end = start + token_budget // int(lengths[order[start]])
        batches.append(MicroBatch(len(batches), rows[order[start:end]]))
        start = end
    return tuple(batches)
