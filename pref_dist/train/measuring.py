"""What a run takes of each rank's memory: by arithmetic, from two small forwards and backwards, and from the largest.

See `runtime/memory_estimate.py` for the arithmetic and `runtime/memory_meter.py` for how memory is measured.
"""

from dataclasses import dataclass, replace

from pref_dist.data.plan import MicroBatch, Plan
from pref_dist.errors import OutOfMemoryError
from pref_dist.runtime.memory import first_line, is_out_of_memory
from pref_dist.runtime.memory_estimate import StateBytes
from pref_dist.runtime.memory_meter import free_bytes, held_bytes, measure_growth
from pref_dist.train.assemble import Assembled
from pref_dist.train.memory import REMEDY
from pref_dist.train.rehearsal import find_largest, run_batch

FREE_SHARE = 0.95  # of what is free: allocators lose some of it between their blocks


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank. state: of model and optimiser; state_measured: the same, as the process held them.

    activations: of the plan's largest micro-batch (num_rows, num_tokens), from two smaller ones; activations_measured:
    of that itself, None: it was not tried, because it would not fit. free: what the rank can take beside the state.
    largest_budget: the largest train.token_budget that fits; None: the batches are too small to tell. failure: why
    the rank could not run a batch, or an empty string.
    """

    state: StateBytes
    state_measured: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    activations: int = 0
    activations_measured: int | None = None
    free: int = 0
    largest_budget: int | None = None
    failure: str = ""

    @property
    def fits(self) -> bool:
        return not self.failure and self.activations_measured is not None


@dataclass(frozen=True)
class Growth:
    """Bytes that a batch takes, as a straight line: `fixed` and `per_token` for each of its tokens."""

    fixed: float
    per_token: float

    def of(self, num_tokens: int) -> int:
        return round(self.fixed + self.per_token * num_tokens)

    def tokens_within(self, num_bytes: float) -> int | None:
        """Return how many tokens take at most so many bytes; None where the measured batches were too small."""
        return None if self.per_token <= 0.0 else max(0, int((num_bytes - self.fixed) / self.per_token))


def measure_ranks(run: Assembled, held_before: int) -> list[RankMemory]:
    """Return what each rank's memory holds and has room for; collective. Nothing is updated.

    held_before: what this rank held before model and optimiser were there. Raises OutOfMemoryError where one rank
    alone cannot go on and the others would wait for it.
    """
    run.engine.train()
    largest = find_largest(run.plan, run.layout.padded_lengths(run.train_table), 0)
    memory = foresee(run, largest, held_before)
    everyone = run.parallel.gather(memory)
    # A CPU's memory is the machine's: what does not fit there ends other processes. A GPU's own error is harmless.
    is_tried = all(one.activations <= one.free or run.parallel.device.type == "cuda" for one in everyone)
    if is_tried and not any(one.failure for one in everyone):
        memory = try_it(run, memory, largest)
    return run.parallel.gather(memory)


def foresee(run: Assembled, largest: MicroBatch, held_before: int) -> RankMemory:
    """Measure what the state takes, and what the largest micro-batch will, from two smaller ones."""
    memory = RankMemory(
        run.state_bytes, num_rows=len(largest.rows), num_tokens=count_tokens(run, largest),
    )  # fmt: skip
    parts = [cut_rows(largest, count) for count in choose_sizes(len(largest.rows), run.plan)]
    try:
        run_batch(run, parts[-1])  # the gradients are there from now on, and whatever a first time takes
        state = held_bytes(run.parallel.device) - held_before
        growths = [(count_tokens(run, part), measure_batch(run, part)) for part in parts]
    except (RuntimeError, MemoryError) as error:
        return fail(run, memory, error)
    growth = fit_line(growths)
    free = free_bytes(run.parallel.device, run.parallel.num_local_ranks)
    return replace(
        memory,
        state_measured=state,
        activations=growth.of(memory.num_tokens),
        free=free,
        largest_budget=growth.tokens_within(FREE_SHARE * free),
    )


def try_it(run: Assembled, memory: RankMemory, largest: MicroBatch) -> RankMemory:
    try:
        measured = measure_batch(run, largest)
    except (RuntimeError, MemoryError) as error:
        return fail(run, replace(memory, largest_budget=None), error)  # what was foretold has proved wrong
    return replace(memory, activations_measured=measured, largest_budget=correct(memory, measured))


def correct(memory: RankMemory, measured: int) -> int | None:
    """Return the largest budget, where the largest batch took more than two smaller ones had foretold."""
    if memory.largest_budget is None or measured <= memory.activations:
        return memory.largest_budget
    by_measured = int(FREE_SHARE * memory.free * memory.num_tokens / measured)
    return min(memory.largest_budget, by_measured)


def fail(run: Assembled, memory: RankMemory, error: BaseException) -> RankMemory:
    """Return the failure where no other rank waits for this one; else raise OutOfMemoryError. Other errors go on."""
    if not is_out_of_memory(error):
        raise error
    if not run.parallel.fails_alone:
        raise OutOfMemoryError(
            f"Rank {run.parallel.rank} ran out of memory with train.token_budget={run.plan.token_budget:,} "
            f"({first_line(error)}). Lower it. {REMEDY}"
        ) from error
    return replace(memory, failure=first_line(error))


def measure_batch(run: Assembled, micro_batch: MicroBatch) -> int:
    """Return the higher of two measurements: what an allocator on the host keeps and gives back varies."""
    return max(measure_growth(run.parallel.device, lambda: run_batch(run, micro_batch)) for _ in range(2))


def choose_sizes(num_rows: int, plan: Plan) -> list[int]:
    """Return the rows of two smaller batches, a quarter and a half; of one, where there is but one row to take."""
    unit = 2 if plan.swap == "paired" else 1  # both orders of a row stay together
    units = num_rows // unit
    first = max(1, units // 4)
    second = min(units, max(first + 1, units // 2))
    return [unit * first] if second == first else [unit * first, unit * second]


def cut_rows(micro_batch: MicroBatch, count: int) -> MicroBatch:
    swapped = micro_batch.is_swapped
    return MicroBatch(micro_batch.index, micro_batch.rows[:count], None if swapped is None else swapped[:count])


def count_tokens(run: Assembled, micro_batch: MicroBatch) -> int:
    """Return the tokens that a batch holds in memory: padded ones too, but where rows are packed."""
    lengths = run.layout.padded_lengths(run.train_table)[micro_batch.rows]
    return int(lengths.sum()) if run.built.attention == "packed" else len(lengths) * int(lengths[0])


def fit_line(growths: list[tuple[int, int]]) -> Growth:
    """Return the line through (tokens, bytes) of two batches; of one, the line through it and nothing."""
    (tokens, taken), (more_tokens, more_taken) = growths[0], growths[-1]
    if tokens == more_tokens:
        return Growth(0.0, taken / tokens)
    per_token = (more_taken - taken) / (more_tokens - tokens)
    return Growth(taken - per_token * tokens, per_token)
