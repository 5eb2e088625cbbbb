"""The checks that need all rows at once: pairs that stand twice, contradict each other, or will be predicted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pref_dist.data.duplicates import find_contradictions, find_duplicate_pairs, find_shared
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.findings import Policies

Positions = npt.NDArray[np.int64]

NUM_ROWS_NAMED = 3  # in an error message
DETAILS = {
    "duplicate_pair": "an earlier row holds the same prompt, responses and label",
    "contradictory_labels": "another row holds the same prompt and responses, but another label",
    "in_test": "data.test holds the same prompt and responses",
}


@dataclass(frozen=True)
class CrossFindings:
    """kept: positions of the rows that stay, rising. counts: kind -> rows found, kept ones included."""

    kept: Positions
    counts: dict[str, int]
    set_aside: list[dict[str, Any]]  # {file, row, id, kind, detail}
    first: dict[str, list[dict[str, Any]]]  # kind -> {file, row, id} of the first ones


def check_rows_together(table: TokenTable, test: TokenTable | None, policies: Policies) -> CrossFindings:
    """Find and, where a policy says so, set aside training rows by what stands in other rows.

    Raises DataError under the policy `fail`.
    """
    found = {
        "duplicate_pair": find_duplicate_pairs(table.pairs, table.is_mirrored, table.training_targets),
        "contradictory_labels": find_contradictions(table.pairs, table.is_mirrored, table.training_targets),
        "in_test": find_shared(table.pairs, test.pairs) if test is not None else np.zeros(0, dtype=np.int64),
    }
    set_aside: dict[int, str] = {}
    for kind, positions in found.items():
        policy = policies.of(kind)
        if policy == "fail" and len(positions):
            raise DataError(explain_failure(table, kind, positions, policies))
        if policy == "set_aside":
            set_aside |= {int(position): kind for position in positions if int(position) not in set_aside}
    kept = np.delete(np.arange(len(table)), sorted(set_aside))
    if not len(kept):
        raise DataError(f"The checks of data.checks={policies.checks} leave no training row. Keep some kind.")
    records = [
        {**table.describe(position), "kind": kind, "detail": DETAILS[kind]}
        for position, kind in sorted(set_aside.items())
    ]
    first = {kind: [table.describe(int(at)) for at in positions[:NUM_ROWS_NAMED]] for kind, positions in found.items()}
    return CrossFindings(kept, {kind: len(positions) for kind, positions in found.items()}, records, first)


def explain_failure(table: TokenTable, kind: str, positions: Positions, policies: Policies) -> str:
    named = [table.describe(int(position)) for position in positions[:NUM_ROWS_NAMED]]
    rows = "; ".join(f"{row['file']}, row {row['row']}, id {row['id']!r}" for row in named)
    return (
        f"{len(positions):,} training rows: {DETAILS[kind]} (first: {rows}), and {policies.setting_of(kind)}. Correct "
        f"them, or go on without them by data.checks.{kind}=set_aside."
    )
