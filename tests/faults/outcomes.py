"""What became of the injections: one by one, as a table, and in one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["survived", "NOT SURVIVED", "SILENTLY WRONG", "not run"]


@dataclass(frozen=True)
class Outcome:
    """One injection. said: what was done; why: what went wrong, or why it could not be done."""

    name: str
    number: int
    verdict: Verdict
    said: str
    why: str
    seconds: float

    def render(self) -> str:
        why = f": {self.why}" if self.why else ""
        return f"{self.name} {self.number}: {self.said}: {self.verdict}, {self.seconds:.0f} s{why}"


def count(outcomes: Sequence[Outcome], *verdicts: Verdict) -> int:
    return sum(outcome.verdict in verdicts for outcome in outcomes)


def render_table(outcomes: Sequence[Outcome]) -> str:
    """A line a class: how often it was tried, survived, silently wrong, not run here, and the seconds of all."""
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    lines = [f"{'class':<20}{'tried':>7}{'survived':>10}{'silent':>8}{'not run':>9}{'seconds':>9}"]
    for name in names:
        own = [outcome for outcome in outcomes if outcome.name == name]
        not_run = count(own, "not run")
        lines.append(
            f"{name:<20}{len(own) - not_run:>7}{count(own, 'survived'):>10}{count(own, 'SILENTLY WRONG'):>8}"
            f"{not_run:>9}{sum(outcome.seconds for outcome in own):>9.0f}"
        )
    return "\n".join(lines)


def render_closing(outcomes: Sequence[Outcome]) -> str:
    tried = len(outcomes) - count(outcomes, "not run")
    silent = count(outcomes, "SILENTLY WRONG")
    return f"faults: {count(outcomes, 'survived')}/{tried}, silent wrong results: {silent}"


def has_passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether everything that was tried was survived; nothing tried is no pass."""
    tried = len(outcomes) - count(outcomes, "not run")
    return tried > 0 and count(outcomes, "survived") == tried
