"""Steps that changed nothing because a gradient was not finite: counted, explained, and ended when too many."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pref_dist.data.plan import PlannedStep
from pref_dist.errors import TrainingError
from pref_dist.runtime.engine import StepOutcome
from pref_dist.train.assemble import Assembled
from pref_dist.train.feed import feed_again
from pref_dist.train.step import TakenStep, take_step

SMALLEST_LOSS_SCALE = 1.0  # below it gradients are not lifted out of fp16's rounding any more, but pushed into it
MOST_ROWS_NAMED = 5


def check_skips(run: Assembled, planned: PlannedStep, taken: TakenStep, outcome: StepOutcome) -> None:
    """Count a skipped step and say whose rows made it so; collective then.

    Raises TrainingError on every rank when it no longer looks like a loss scale finding its place.
    """
    progress = run.progress
    if not outcome.skipped:
        progress.skipped_in_row = 0
        return
    progress.skipped_in_row, progress.skipped_steps = progress.skipped_in_row + 1, progress.skipped_steps + 1
    culprits = name_rows(run, find_bad_losses(taken))
    run.speaker.say(
        f"Step {progress.step} was skipped: its gradient is not finite ({outcome.grad_norm}). "
        + (culprits or "The losses of all its rows are finite.")
    )
    scale = run.engine.read_loss_scale()
    if scale is not None and scale.scale < SMALLEST_LOSS_SCALE:
        raise TrainingError(
            f"The loss scale of fp16 has fallen below {SMALLEST_LOSS_SCALE:g} at step {progress.step}, so it is not "
            f"the scale that overflows. {culprits or name_gradients(run, planned)} Use train.precision=bf16 or fp32."
        )
    if progress.skipped_in_row > run.config.train.max_skipped_steps:
        raise TrainingError(
            f"{progress.skipped_in_row} steps in a row (up to step {progress.step}) had a gradient that is not finite, "
            f"more than train.max_skipped_steps={run.config.train.max_skipped_steps}. "
            f"{culprits or name_gradients(run, planned)} Lower train.learning_rate, set train.clip_norm, look at these "
            "rows, or use another train.precision; the last checkpoint is from before them or goes on with them."
        )


def find_bad_losses(taken: TakenStep) -> list[int]:
    """Return this rank's rows, as places in the token table, whose loss is not finite."""
    bad: list[int] = []
    for micro_batch, losses in zip(taken.micro_batches, taken.row_losses, strict=True):
        places = np.flatnonzero(~torch.isfinite(losses).cpu().numpy())
        bad += [int(micro_batch.rows[place]) for place in places if place < len(micro_batch.rows)]
    return list(dict.fromkeys(bad))  # a row that is shown in both orders is named once


def name_rows(run: Assembled, rows: list[int], what: str = "loss") -> str:
    """Return a sentence that names every rank's `rows`, or an empty string where no rank has any; collective."""
    named = [run.train_table.name_row(row) for row in rows[:MOST_ROWS_NAMED]]
    everyone = enumerate(run.parallel.gather((len(rows), named)))
    parts = [
        f"{count} rows on rank {rank} ({', '.join(names)}{', ...' if count > len(names) else ''})"
        for rank, (count, names) in everyone
        if count
    ]
    return f"The {what} is not finite of {', '.join(parts)}." if parts else ""


def name_gradients(run: Assembled, planned: PlannedStep) -> str:
    """Take a step whose losses are finite once more, to see which rows' gradients are not; collective.

    Before an error only: the weights are not to be used after it.
    """
    with gradients_of_inputs(run) as finite:
        taken = take_step(run, feed_again(run, planned))
    if len(finite) != len(taken.micro_batches):  # frozen embeddings have no gradient, on any rank
        return "Which rows' gradient is not finite cannot be told: the input embeddings are not trained."
    bad = [
        int(row)
        for line_rows, lines_are_finite in zip(taken.line_rows, finite, strict=True)
        for row, is_finite in zip(line_rows, lines_are_finite, strict=True)
        if not is_finite and row >= 0  # a spare micro-batch has no row
    ]
    return name_rows(run, list(dict.fromkeys(bad)), "gradient") or "No single row's gradient is: only their sum."


@contextmanager
def gradients_of_inputs(run: Assembled) -> Iterator[list[list[bool]]]:
    """Collect, a micro-batch at a time, whether each line's gradient at the input embeddings is finite."""
    collected: list[list[bool]] = []
    lengths: list[int] = []

    def note_lengths(_: object, __: object, inputs: dict[str, Any]) -> None:
        lengths[:] = inputs["attention_mask"].sum(dim=1).tolist()

    def watch(_: object, __: object, output: Any) -> None:
        if output.requires_grad:
            of_lines = list(lengths)
            output.register_hook(lambda gradient: collected.append(are_lines_finite(gradient, of_lines)))

    handles = (
        run.built.module.register_forward_pre_hook(note_lengths, with_kwargs=True),
        run.built.input_embeddings.register_forward_hook(watch),
    )
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def are_lines_finite(gradient: Tensor, lengths: list[int]) -> list[bool]:
    """Return (L,) whether each line's gradient (L, T, H) is finite; packed, the lines are one, (1, N, H)."""
    finite = torch.isfinite(gradient).all(dim=-1)
    is_packed = finite.shape == (1, sum(lengths))
    lines = torch.split(finite[0], lengths) if is_packed else finite.unbind()
    return [bool(line.all()) for line in lines]
