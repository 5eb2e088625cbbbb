"""Both orders of A and B: which rows are shown a second time, exchanged, and what is made of the two answers.

A judge prefers what stands first or second (position bias: Zheng et al. 2023, "Judging LLM-as-a-Judge"); the mean of
both orders' probabilities does not. A row that is uncertain gains most by it.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pref_dist.data.pairs import swap_classes
from pref_dist.data.plan import MicroBatch, Rows, plan_evaluation
from pref_dist.evaluate.answers import Answers, Logits, pieces
from pref_dist.evaluate.deadline import Pace
from pref_dist.evaluate.infer import Forward, InferenceTask, Pass, plan_pass, run_pass
from pref_dist.evaluate.parts import Work
from pref_dist.metrics import uncertainty
from pref_dist.runtime.parallel import Parallel

# Under a deadline the second order is run in so many slices, unless there are too few batches for them.
NUM_SLICES, BATCHES_A_SLICE = 20, 8


def answer_rows(task: InferenceTask, forward: Forward, parallel: Parallel, work: Work | None = None) -> Answers:
    """Return what the model says of the task's rows, in the orders that it asks for, on every rank; collective.

    With `work` finished batches are kept in its folder and found again.
    Raises TrainingError if a logit is not finite, OutOfMemoryError on the rank where a batch does not fit.
    """
    answers = answer_first(task, forward, parallel, work)
    return answer_second(task, answers, forward, parallel, work)


def answer_first(
    task: InferenceTask, forward: Forward, parallel: Parallel, work: Work | None, pace: Pace | None = None
) -> Answers:
    """Run all rows as they stand in their file; where a row is encoded once for both orders, in both."""
    planned = pair_orders(plan_pass(task)) if shares_orders(task) else plan_pass(task)
    outcome = run_pass(task, planned, forward, parallel, work)
    if pace is not None:
        pace.note(outcome.num_batches, outcome.seconds, parallel)
    if not planned.are_pairs:
        return Answers(outcome.logits, first_seconds=outcome.seconds, num_batches=outcome.num_batches)
    first, second = np.split(outcome.logits, 2, axis=1)
    return Answers(np.ascontiguousarray(first), put_back(second), outcome.seconds, num_batches=outcome.num_batches)


def answer_second(
    task: InferenceTask,
    answers: Answers,
    forward: Forward,
    parallel: Parallel,
    work: Work | None,
    pace: Pace | None = None,
) -> Answers:
    """Add the second order of the rows that the task asks for, as far as it is not there and there is time.

    pace: measured in the first order; past its deadline nothing more is begun. None: there is time for all.
    """
    if not wants_second(task, answers):
        return answers
    second, seconds, num_batches = np.full_like(answers.first, np.nan), 0.0, answers.num_batches
    for places, planned in plan_second(task, choose_places(task, answers.first, parallel, pace), pace):
        if pace is not None and not pace.allows(len(planned.batches), parallel):
            break
        outcome = run_pass(task, planned, forward, parallel, work)
        second[places] = put_back(outcome.logits)
        seconds += outcome.seconds
        num_batches += outcome.num_batches
        if pace is not None:
            pace.note(outcome.num_batches, outcome.seconds, parallel)
    return replace(answers, second=second, second_seconds=seconds, num_batches=num_batches)


def shares_orders(task: InferenceTask) -> bool:
    """Whether the model encodes a row once for both orders, so that the second one costs nothing."""
    return task.swap != "none" and task.layout.num_sequences == 2


def wants_second(task: InferenceTask, answers: Answers) -> bool:
    """Whether a pass in the second order is still to come."""
    return task.swap != "none" and answers.second is None


def pair_orders(planned: Pass) -> Pass:
    """Show each row of a pass in both orders, one beside the other, as training with train.swap=paired does."""
    pairs = (
        MicroBatch(batch.index, batch.rows.repeat(2), np.tile([False, True], len(batch.rows)))
        for batch in planned.batches
    )
    return Pass("both", planned.rows, tuple(pairs), are_pairs=True)


def put_back(logits: Logits) -> Logits:
    """Return logits (n, 3) of rows shown with A and B exchanged as those of the row's own A and B."""
    return np.asarray(swap_classes(logits, np.ones(len(logits), np.bool_)))


def choose_places(task: InferenceTask, first: Logits, parallel: Parallel, pace: Pace | None) -> Rows:
    """Return the places (m,), in the task, of the rows that get the second order; the most uncertain ones first.

    Rank 0 decides: another CPU may round the last bit of an entropy otherwise. Collective.
    """
    if task.swap == "full" and pace is None:
        return np.arange(len(first), dtype=np.int64)
    num_places = len(first) if task.swap == "full" else math.ceil(task.swap_share * len(first))
    return parallel.broadcast(most_uncertain(first)[:num_places] if parallel.is_main else np.empty(0, np.int64))


def most_uncertain(logits: Logits) -> Rows:
    """Return the places (n,) of rows by falling entropy of logits (n, 3); of equal ones the first comes first."""
    entropies = np.concatenate([uncertainty(logits[piece].astype(np.float64)) for piece in pieces(len(logits))])
    return np.argsort(-entropies, kind="stable")


def plan_second(task: InferenceTask, places: Rows, pace: Pace | None) -> Iterator[tuple[Rows, Pass]]:
    """Yield (places, the pass of these rows with A and B exchanged): one, or slices between which one can stop."""
    slices = [places] if pace is None else cut_slices(task, places)
    for number, part in enumerate(slices):
        rows = task.rows[part]
        batches = plan_evaluation(rows, task.lengths[part], task.token_budget)
        swapped = (replace(batch, is_swapped=np.ones(len(batch.rows), np.bool_)) for batch in batches)
        yield part, Pass(f"second_{number:02d}", rows, tuple(swapped))


def cut_slices(task: InferenceTask, places: Rows) -> list[Rows]:
    """Cut places (m,) into runs of about equally many tokens; not by the ranks, so that any number finds its parts."""
    ends = np.cumsum(task.lengths[places], dtype=np.int64)
    num_batches = int(ends[-1]) // task.token_budget
    num_slices = max(1, min(NUM_SLICES, num_batches // BATCHES_A_SLICE))
    borders = np.searchsorted(ends, ends[-1] * np.arange(1, num_slices) / num_slices)
    return [part for part in np.split(places, borders) if len(part)]
