"""Micro-batches on their way to the model: a thread builds them before they are due, also those of the next step."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

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

    An error in the thread is raised where its batch is due. The plan is pure, so that the thread walks it for itself.
    """
    start = run.progress.step
    due = (micro_batch for planned in run.plan.steps(start) for micro_batch in share_of(run, planned))
    with closing(build_ahead(lambda micro_batch: build_on_host(run, micro_batch), due, NUM_AHEAD)) as built:
        for planned in run.plan.steps(start):
            micro_batches = share_of(run, planned)
            yield FedStep(planned, micro_batches, islice(built, len(micro_batches)))


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
