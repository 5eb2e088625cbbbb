"""What the checks found, kind by kind, in the words that the table and the page use."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pref_dist.findings import Policies
from pref_dist.inspection.read import DataSet

MEANINGS = {
    "wrong_cell_count": "more or fewer cells than the header has",
    "bad_line": "a line that holds no JSON object",
    "empty_id": "no id",
    "duplicate_id": "an id that an earlier row has",
    "winner_not_one_hot": "not exactly one winner",
    "unknown_winner": "a winner that is neither A, B nor a tie",
    "bad_soft_label": "no three probabilities whose sum is 1",
    "bad_json": "a text cell that is no list of texts",
    "bad_conversation": "messages without a role or a text",
    "prompts_differ": "A and B answer different prompts",
    "turn_count_differs": "prompt, A and B differ in their number of turns",
    "no_text": "neither prompt nor responses hold a character",
    "null_text": "a null where a text should be, read as an empty one",
    "empty_text": "a turn of prompt, A or B without a character",
    "lone_surrogate": "half of a character, read as U+FFFD",
    "control_characters": "control characters other than tab and line ends",
    "non_text_content": "an image or a file in a message, left out",
    "identical_responses": "A and B are the same text",
}


@dataclass(frozen=True)
class Problem:
    """Rows with one kind of finding.

    policy: what a run does with them by default. rows: numbers of the first of them (over all files); first:
    {file, row, id, kind, detail} of the first one that was set aside for it.
    """

    kind: str
    meaning: str
    num_rows: int
    num_set_aside: int
    policy: str
    rows: list[int]
    first: dict[str, Any] | None


def list_problems(data: DataSet) -> list[Problem]:
    """Return all kinds that were found: first those that cost rows, the most frequent first."""
    set_aside = Counter(record["kind"] for record in data.set_aside)
    first_of = {record["kind"]: record for record in reversed(data.set_aside)}
    problems = [
        Problem(
            kind,
            MEANINGS.get(kind, kind.replace("_", " ")),
            num_rows,
            set_aside[kind],
            Policies().of(kind),
            data.first_rows[kind],
            first_of.get(kind),
        )
        for kind, num_rows in data.findings.items()
    ]
    return sorted(problems, key=lambda problem: (-problem.num_set_aside, -problem.num_rows, problem.kind))
