"""The verb `doctor`, of one process."""

from collections.abc import Sequence
from pathlib import Path

from pref_dist.doctor.children import TOTAL_SECONDS, iterate_groups, run_groups
from pref_dist.doctor.finding import Finding, Question


def examine(
    run_yaml: Path | None = None, overrides: Sequence[str] = (), total_seconds: float = TOTAL_SECONDS
) -> list[Finding]:
    """Return what was found on this machine, and of a run config if one is given, within `total_seconds`."""
    question = Question(None if run_yaml is None else str(run_yaml), tuple(overrides))
    return run_groups(list(iterate_groups(run_yaml is not None)), question, total_seconds)
