"""Before the first step: the largest micro-batch forward and backward, so that a lack of memory shows at once."""

from pref_dist.data.batches import Batch, build_batch
from pref_dist.data.plan import Lengths, MicroBatch, Plan
from pref_dist.errors import OutOfMemoryError
from pref_dist.files import render_bytes
from pref_dist.losses import cross_entropy, share_of_step
from pref_dist.runtime.agreement import on_main
from pref_dist.runtime.memory import first_line, is_out_of_memory, release
from pref_dist.runtime.memory_meter import free_bytes, measure_growth
from pref_dist.train.assemble import Assembled
from pref_dist.train.memory import (
    REMEDY,
    budgets_of,
    fit_rows,
    halve,
    masks_differ,
    shrink,
    write_budgets,
)


def rehearse(run: Assembled) -> None:
    """Halve train.token_budget until the largest micro-batch fits on every rank; collective.

    Nothing is updated: the micro-batch has weight 0. Where a rank fails by itself all of them learn it and try
    again with less. Where the others would wait for it in a collective (a back-end that shares the weights) it
    leaves the smaller budget to the next start. Raises OutOfMemoryError, also where no smaller budget is left.
    """
    while True:
        free = free_bytes(run.parallel.device, run.parallel.num_local_ranks)
        outcomes = run.parallel.gather(try_largest(run))
        failures = [failure for failure, _ in outcomes if failure]
        if not failures:
            left = run.parallel.gather(free - outcomes[run.parallel.rank][1])
            run.speaker.say(describe_peak(run, max(growth for _, growth in outcomes), min(left)))
            return
        release()
        budget, smaller = run.plan.token_budget, halve(run, "train.token_budget")
        what = f"train.token_budget={budget:,} does not fit in memory ({'; '.join(failures)})."
        if smaller is None:
            raise OutOfMemoryError(f"{what} It holds but the longest row. {REMEDY}")
        run.rows = fit_rows(run.rows, budgets_of(run) | {"train.token_budget": smaller})
        on_main(
            run.parallel,
            run.run_dir.fitted_budgets.name,
            lambda: write_budgets(run.config, run.run_dir, budgets_of(run)),
        )
        run.speaker.say(f"WARNING: {what} Trying {smaller:,}.{masks_differ(run.config)}")


def describe_peak(run: Assembled, growth: int, left: int) -> str:
    """Return the line about the rank that needs most.

    growth: bytes of a first forward and backward, which gathers weights and makes the gradients.
    """
    state = run.state_bytes
    counted, made = state.counted_on(run.parallel.device.type), state.gradients + state.gathered
    peak = counted - made + max(growth, made)
    return (
        f"memory     about {render_bytes(peak)} a rank at the peak, {render_bytes(counted)} of it for model and "
        f"optimiser; {render_bytes(max(0, left))} are left then"
    )


def try_largest(run: Assembled) -> tuple[str, int]:
    """Return why this rank cannot run the largest micro-batch, or an empty string; and the bytes that it takes."""
    run.parallel.whereabouts.at("the rehearsal of the largest micro-batch")
    micro_batch = find_largest(run.plan, run.layout.padded_lengths(run.train_table), run.progress.step)
    try:
        growth = measure_growth(run.parallel.device, lambda: run_batch(run, micro_batch))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if not run.parallel.fails_alone:
            raise shrink(run, "train.token_budget", error) from error
        return f"rank {run.parallel.rank}: {first_line(error)}", 0
    return "", growth


def run_batch(run: Assembled, micro_batch: MicroBatch) -> None:
    """Run a micro-batch forward and backward with weight 0."""
    run_without_trace(run, build_batch(run.train_table, micro_batch, run.layout).to(run.parallel.device))


def run_without_trace(run: Assembled, batch: Batch) -> None:
    logits = run.engine.forward(batch.inputs, is_last=False)
    # 0 times infinity would leave a trace; the step that holds these rows will say what is wrong with them.
    if bool(logits.isfinite().all()):
        row_losses = cross_entropy(logits, batch.target)
        loss = share_of_step(row_losses, batch.weight.new_zeros(batch.weight.shape), global_weight=1.0)
        run.engine.backward(loss, is_last=False)


def find_largest(plan: Plan, lengths: Lengths, start: int) -> MicroBatch:
    """Return the micro-batch with the most tokens, padding included, of all steps from `start` on.

    lengths: padded ones of all rows of the table. Among equals the one with longer rows needs more memory for its
    attention.
    """

    def size(micro_batch: MicroBatch) -> tuple[int, int]:
        longest = int(lengths[micro_batch.rows[0]])  # the first one is
        return len(micro_batch.rows) * longest, longest

    return max((part for planned in plan.steps(start) for part in planned.micro_batches), key=size)
