"""The batch plan: which rows make which optimiser step, in which order of A and B, and on which rank.

A pure function of (lengths, rows_per_step, token_budget, micro_batch_multiple, swap, seed, epoch). The
number of ranks only decides who runs a micro-batch, never what is in it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pref_dist.config.train_section import Swap
from pref_dist.data.mixing import mix64
from pref_dist.data.orders import orders_of
from pref_dist.errors import PlanError

Rows = NDArray[np.int64]
Lengths = NDArray[np.int32]

# So many rows are planned at once: enough to share numpy's cost a call, few enough to start quickly.
ROWS_A_BLOCK = 2**16

_NO_ROWS: Rows = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model together; no rows: a spare one, run with weight 0.

    index is its place in the step, the same on any number of ranks (dropout is seeded by it).
    is_swapped: (R,) whether a row is shown with A and B exchanged; None: none is. In training with both orders a row
    stands there twice.
    """

    index: int
    rows: Rows
    is_swapped: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
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
    """All steps of a run over `rows` (n,), which take up `lengths` (n,) tokens of a batch.

    num_tokens: (n,) tokens of each row without padding; None: `lengths`. The two sequences of a siamese row are padded
    to the longer one. shares_orders: the model reads a row once for both of its orders, so that `paired` costs nothing.
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
    swap: Swap = "none"
    shares_orders: bool = False
    num_tokens: Lengths | None = None

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
        orders = () if self.swap == "none" else (self.swap, self.shares_orders)
        content = hashlib.sha256(repr(settings + orders).encode())
        content.update(np.ascontiguousarray(self.rows).data)
        content.update(np.ascontiguousarray(self.lengths).data)
        return content.hexdigest()

    def steps(self, start: int = 0) -> Iterator[PlannedStep]:
        """Yield the planned steps from step `start` on, without planning the ones before it."""
        while start < self.num_steps:
            epoch, index = divmod(start, self.steps_per_epoch)
            end = min(self.steps_per_epoch, index + self.num_steps - start)
            yield from self._plan_epoch(epoch, index, end)
            start += end - index

    def _plan_epoch(self, epoch: int, index: int, end: int) -> Iterator[PlannedStep]:
        """Yield the steps [index, end) of one epoch; a block of them shares the cost of numpy's calls."""
        order = plan_order(len(self.rows), self.seed, epoch)
        steps_a_block = max(1, ROWS_A_BLOCK // self.rows_per_step)
        num_full = len(order) // self.rows_per_step
        while index < end:
            # The last step of an epoch may be shorter, so it makes a block of its own.
            num_steps = min(steps_a_block, end - index, max(1, num_full - index))
            chosen = order[index * self.rows_per_step : (index + num_steps) * self.rows_per_step]
            yield from self._plan_block(epoch, index, chosen.reshape(num_steps, -1))
            index += num_steps

    def _plan_block(self, epoch: int, index: int, chosen: Rows) -> Iterator[PlannedStep]:
        """Yield the steps from `index` on that are made of `chosen` (S, R), places in `rows`, a step a line."""
        num_rows = chosen.shape[1]
        chosen, lengths = sort_longest_first(chosen, self.lengths[chosen])
        copies = 2 if self.swap == "paired" else 1
        if not self.shares_orders:
            chosen, lengths = chosen.repeat(copies, axis=1), lengths.repeat(copies, axis=1)
        num_tokens = (lengths if self.num_tokens is None else self.num_tokens[chosen]).sum(axis=1).tolist()
        cuts = cut_steps(lengths, self.token_budget, self.micro_batch_multiple)
        if self.shares_orders:
            chosen = chosen.repeat(copies, axis=1)
            cuts = [cut._replace(borders=[copies * border for border in cut.borders]) for cut in cuts]
        rows = self.rows[chosen]
        orders = orders_of(rows, self.swap, self.seed, epoch)
        for place, cut in enumerate(cuts):
            yield PlannedStep(
                step=epoch * self.steps_per_epoch + index + place,
                epoch=epoch,
                index=index + place,
                micro_batches=deal(rows[place], None if orders is None else orders[place], cut.borders),
                num_rows=num_rows,
                num_tokens=num_tokens[place],
                num_padded_tokens=cut.num_padded_tokens,
            )


def deal(rows: Rows, orders: NDArray[np.bool_] | None, borders: list[int]) -> tuple[MicroBatch, ...]:
    """Return a step's micro-batches: its rows (R,), cut at `borders`."""
    return tuple(
        MicroBatch(number, rows[start:end], None if orders is None else orders[start:end])
        for number, (start, end) in enumerate(pairwise(borders))
    )


def check_budget(rows: Rows, lengths: Lengths, token_budget: int, setting: str, num_sequences: int = 1) -> None:
    """Raise PlanError if there is no row, or a single one does not fit. `rows` (n,) name them, as in their file."""
    if len(rows) == 0:
        raise PlanError("There is no row to plan: every row was set aside or held out. Check data.train.")
    too_long = np.flatnonzero(lengths > token_budget)
    if len(too_long):
        first, longest = too_long[0], int(lengths.max())
        raise PlanError(
            f"{len(too_long):,} of {len(rows):,} rows exceed {setting}={token_budget:,} "
            f"(first: row {rows[first]} with {lengths[first]:,} tokens).\n"
            f"Lower data.max_tokens to {token_budget // num_sequences:,} or raise {setting} to {longest:,}."
        )


def plan_order(num_rows: int, seed: int, epoch: int) -> Rows:
    """Return a random order of `num_rows` rows that is the same on every machine and numpy version.

    Rows are sorted by a 64-bit hash of (seed, epoch, row): SplitMix64, Steele et al. 2014. It is
    a bijection, so no two keys are equal and any sort gives the same order.
    """
    keys = mix64(np.arange(num_rows, dtype=np.uint64) ^ mix64(np.uint64(seed) ^ mix64(np.uint64(epoch))))
    return np.argsort(keys).astype(np.int64, copy=False)


def sort_longest_first(rows: Rows, lengths: Lengths) -> tuple[Rows, Rows]:
    """Sort rows (..., R) and their lengths along the last axis: longest first, ties by rising row.

    Row and length share one word, because one key sorts several times faster than two. Rows are
    0 or more; with lengths of up to 2^31 they may go up to 2^32.
    """
    longest, row_bits = int(lengths.max()), int(rows.max()).bit_length()
    assert rows.min() >= 0
    assert row_bits + longest.bit_length() < 64
    words = (longest - lengths).astype(np.int64) << row_bits | rows
    words.sort(axis=-1)
    return words & ((1 << row_bits) - 1), longest - (words >> row_bits)


class StepCut(NamedTuple):
    """Where one step is cut: micro-batch i holds the sorted rows [borders[i], borders[i + 1])."""

    borders: list[int]
    num_padded_tokens: int


def cut_steps(lengths: Rows, token_budget: int, multiple: int) -> list[StepCut]:
    """Cut each step of `lengths` (S, R), rows sorted longest first, into micro-batches near-equal in tokens.

    Their number is the smallest multiple of `multiple` (never more than the rows) for which none
    holds more than `token_budget` tokens, padding included.
    """
    num_steps, num_rows = lengths.shape
    needed = -(-lengths.sum(axis=1) // token_budget)
    counts = np.minimum(-(-needed // multiple) * multiple, num_rows)
    cuts = [StepCut([], 0)] * num_steps
    is_open = np.ones(num_steps, dtype=bool)
    while is_open.any():
        count = int(counts[is_open].min())
        steps = np.flatnonzero(is_open & (counts == count))
        borders = cut_evenly(lengths[steps], count)
        padded = padded_tokens(lengths[steps], borders)
        fits = (padded.max(axis=1) <= token_budget) | (count == num_rows)
        for step, places, total in zip(steps[fits], borders[fits].tolist(), padded[fits].sum(axis=1), strict=True):
            cuts[step] = StepCut(places, int(total))
        is_open[steps[fits]] = False
        counts[steps[~fits]] = min((count // multiple + 1) * multiple, num_rows)
    return cuts


def cut_evenly(lengths: Rows, count: int) -> Rows:
    """Return borders (S, count + 1) of non-empty runs of rows whose token sums are as equal as cuts allow."""
    num_steps, num_rows = lengths.shape
    ends = np.cumsum(lengths, axis=1, dtype=np.int64)
    places = np.arange(1, count)
    # A row falls before a cut if its middle does. Both are doubled, and goals rounded up, so that all is whole.
    middles = 2 * ends - lengths
    goals = -(-2 * ends[:, -1:] * places // count)
    cuts = search_each(middles, goals)
    # Every run holds a row: no cut before its place from the left, nor after its place from the right.
    cuts = np.maximum.accumulate(np.maximum(cuts, places) - places, axis=1) + places
    cuts = np.minimum(cuts, num_rows - count + places)
    first, last = np.zeros((num_steps, 1), np.int64), np.full((num_steps, 1), num_rows)
    return np.concatenate((first, cuts, last), axis=1)


def search_each(values: Rows, goals: Rows) -> Rows:
    """Return (S, G): in each line, how many of the rising `values` (S, R) are below each of `goals` (S, G)."""
    num_lines, width = values.shape
    lines = np.arange(num_lines)[:, None]
    # Shifted past one another, the lines are one rising sequence and need one search.
    shifts = lines * (int(values.max()) + int(goals.max(initial=0)) + 1)
    found: Rows = np.searchsorted((values + shifts).ravel(), goals + shifts) - lines * width
    return found


def padded_tokens(lengths: Rows, borders: Rows) -> Rows:
    """Return (S, n) tokens of each micro-batch with every row padded to its longest (rows sorted, longest first)."""
    return np.diff(borders, axis=1) * np.take_along_axis(lengths, borders[:, :-1], axis=1)


def plan_evaluation(rows: Rows, lengths: Lengths, token_budget: int) -> tuple[MicroBatch, ...]:
    """Cut all rows, longest first, into batches of at most `token_budget` tokens, padding included.

    The longest batch comes first, so that a lack of memory shows at once. The cut does not depend
    on the number of ranks, hence neither do the logits.
    """
    check_budget(rows, lengths, token_budget, "evaluate.token_budget")
    rows, sorted_lengths = sort_longest_first(rows, lengths)
    batches: list[MicroBatch] = []
    start = 0
    while start < len(rows):
        end = start + token_budget // int(sorted_lengths[start])
        batches.append(MicroBatch(len(batches), rows[start:end]))
        start = end
    return tuple(batches)
