"""Micro-batches on their way to the model: a thread builds them before they are due, also those of the next step."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

from torch import Tensor

from pref_dist.data.batches import Batch, build_batch
from pref_dist.data.plan import MicroBatch, PlannedStep
from pref_dist.runtime.pipeline import build_ahead, pin
from pref_dist.train.assemble import Assembled

# One waits while one is built. A batch takes a few milliseconds, its forward and backward many times that.
NUM_AHEAD = 2


@dataclass(frozen=True)
class FedStep:
    """A step with this rank's micro-batches and, one for each, their batches on the host, to be taken once in order."""

    planned: PlannedStep
    micro_batches: list[MicroBatch]
    batches: Iterator[Batch]


def feed_steps(run: Assembled) -> Generator[FedStep, None, None]:
    """Yield the steps that are left. All batches of a step are to be taken before the next one; close it at the end.

    The thread walks the plan, too, so that nobody waits for an epoch's order. Its errors are raised where their batch
    is due.
    """
    due = (
        (planned, micro_batches, micro_batch)
        for planned in run.plan.steps(run.progress.step)
        for micro_batches in (share_of(run, planned),)
        for micro_batch in micro_batches
    )

    def build(item: tuple[PlannedStep, list[MicroBatch], MicroBatch]) -> tuple[PlannedStep, list[MicroBatch], Batch]:
        planned, micro_batches, micro_batch = item
        return planned, micro_batches, build_on_host(run, micro_batch)

    with closing(build_ahead(build, due, NUM_AHEAD)) as built:
        # Every rank has a micro-batch in every step, if only a spare one.
        for planned, micro_batches, first in built:
            others = (batch for _, _, batch in islice(built, len(micro_batches) - 1))
            yield FedStep(planned, micro_batches, chain((first,), others))


def feed_again(run: Assembled, planned: PlannedStep) -> FedStep:
    """Return one step, whose batches are built when they are asked for."""
    micro_batches = share_of(run, planned)
    return FedStep(planned, micro_batches, (build_on_host(run, micro_batch) for micro_batch in micro_batches))


def share_of(run: Assembled, planned: PlannedStep) -> list[MicroBatch]:
    return planned.for_rank(run.parallel.rank, run.parallel.world_size)


def build_on_host(run: Assembled, micro_batch: MicroBatch) -> Batch:
    """Return a batch in memory from which the device fetches it without being waited for."""

    def pinned(tensor: Tensor) -> Tensor:
        return pin(tensor, run.parallel.device)

    teacher = None if run.rows.teacher is None else run.rows.teacher.logits
    return build_batch(run.train_table, micro_batch, run.layout, teacher).through(pinned)
