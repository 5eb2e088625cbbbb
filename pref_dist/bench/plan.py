"""`bench plan`: seconds and memory of the batch plan of very many rows."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from pref_dist.bench.children import run_child
from pref_dist.bench.parts import PlanQuestion
from pref_dist.bench.request import Say, describe_machine


@dataclass(frozen=True)
class PlanTimes:
    """found: what each process measured; all of them planned the same."""

    found: list[dict[str, Any]]
    about: dict[str, Any]

    def median_seconds(self) -> dict[str, float]:
        """Return the median seconds of each part of the plan."""
        return {name: median(one["seconds"][name] for one in self.found) for name in self.found[0]["seconds"]}

    def spread(self, name: str) -> tuple[float, float]:
        values = [one["seconds"][name] for one in self.found]
        return min(values), max(values)

    @property
    def peak_bytes(self) -> int:
        return max(int(one["peak_bytes"]) for one in self.found)

    def to_json(self) -> dict[str, Any]:
        parts = {
            name: {"median": seconds, "spread": list(self.spread(name))}
            for name, seconds in self.median_seconds().items()
        }
        return {**self.about, "seconds": parts, "peak_bytes": self.peak_bytes, "steps": self.found[0]["steps"]}


def bench_plan(question: PlanQuestion, repeats: int, say: Say) -> PlanTimes:
    """Plan so many times, each in a fresh process. Raises BenchError."""
    say(f"planning {question.num_rows:,} rows, {question.rows_per_step} a step, {repeats} times")
    machine = describe_machine()
    found = [run_child("plan", question) for _ in range(repeats)]
    about = {
        "verb": "plan", "machine": machine, "rows": question.num_rows, "repeats": repeats,
        "rows_per_step": question.rows_per_step, "token_budget": question.token_budget,
    }  # fmt: skip
    return PlanTimes(found, about)
