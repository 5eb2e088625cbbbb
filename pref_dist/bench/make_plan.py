"""The batch plan of very many rows, measured. Lengths are drawn; the texts behind them do not matter to a plan."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pref_dist.bench.parts import PlanQuestion
from pref_dist.data.plan import Lengths, Plan, plan_evaluation

SEED = 1
EVALUATION_BUDGET = 2  # times the training's, as the defaults are


def measure(question: PlanQuestion) -> dict[str, Any]:
    """Return seconds: of the plan with its digest, of its first 100 steps, of all of an epoch, and of an evaluation."""
    rows = np.arange(question.num_rows, dtype=np.int64)
    lengths = draw_lengths(question)
    seconds: dict[str, float] = {}
    plan = timed(seconds, "made, with digest", lambda: make(question, rows, lengths))
    timed(seconds, "first 100 steps", lambda: first_steps(plan, 100))
    num_planned = timed(seconds, "all steps of an epoch", lambda: sum(step.num_rows for step in plan.steps()))
    batches = timed(
        seconds, "evaluation", lambda: plan_evaluation(rows, lengths, EVALUATION_BUDGET * question.token_budget)
    )
    assert num_planned == question.num_rows == sum(len(batch.rows) for batch in batches), "every row once"
    import torch

    from pref_dist.runtime.memory_meter import highest_bytes

    peak = highest_bytes(torch.device("cpu"))
    return {"seconds": seconds, "steps": plan.num_steps, "rows": num_planned, "peak_bytes": peak}


def draw_lengths(question: PlanQuestion) -> Lengths:
    """(n,) tokens of each row: log-normal, as real rows are, and cut at max_tokens."""
    drawn = np.random.default_rng(SEED).lognormal(mean=6.0, sigma=0.9, size=question.num_rows)
    return np.clip(drawn, 16, question.max_tokens).astype(np.int32)


def make(question: PlanQuestion, rows: Any, lengths: Lengths) -> Plan:
    plan = Plan(
        rows=rows, lengths=lengths, rows_per_step=question.rows_per_step, token_budget=question.token_budget,
        micro_batch_multiple=1, seed=SEED, epochs=1,
    )  # fmt: skip
    assert plan.digest
    return plan


def first_steps(plan: Plan, count: int) -> int:
    return sum(1 for _, _ in zip(range(count), plan.steps(), strict=False))


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    found = work()
    seconds[name] = time.perf_counter() - started
    return found
