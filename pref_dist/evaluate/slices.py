"""Where a model is good and where it is not: log loss and accuracy by what can be measured of a row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.bootstrap import bootstrap_mean, number_prompts
from pref_dist.data.rows import Row
from pref_dist.errors import DataError
from pref_dist.labels import CLASSES
from pref_dist.metrics import check_scored, row_log_losses, score_logits

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Groups = NDArray[np.uint64]

# Characters. A bound belongs to the slice above it. They are fixed, so that slices of two data sets can be compared.
LENGTH_BOUNDS = (500, 1_000, 2_000, 4_000, 8_000)
DIFFERENCE_BOUNDS = (1, 200, 1_000)


@dataclass(frozen=True)
class RowFacts:
    """What slices are made of, N rows.

    characters: (N, 3) of the prompt, A and B, over all turns. num_turns: (N,). is_cut: (N,) whether truncation took
    something. has_empty_response: (N,) whether A or B of some turn is null or holds nothing but white space.
    has_equal_responses: (N,) whether A is B in every turn.
    """

    characters: Ints
    num_turns: Ints
    is_cut: Bools
    has_empty_response: Bools
    has_equal_responses: Bools

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def differences(self) -> Ints:
        """Characters of A minus characters of B (N,)."""
        return np.asarray(self.characters[:, 1] - self.characters[:, 2])


def measure_rows(rows: Sequence[Row], is_cut: Bools) -> RowFacts:
    """Measure rows (N,), which may be none; is_cut (N,): whether truncation took something from each.

    Raises DataError if there are not as many of both.
    """
    if is_cut.shape != (len(rows),):
        raise DataError(f"{len(rows):,} rows and whether each is cut, of shape {is_cut.shape}: give one value a row.")
    characters = [[sum(map(len, texts)) for texts in zip(*row.turns, strict=True)] for row in rows]
    return RowFacts(
        characters=np.array(characters, dtype=np.int64).reshape(-1, 3),
        num_turns=np.array([len(row.turns) for row in rows], dtype=np.int64),
        is_cut=is_cut,
        has_empty_response=np.array([lacks_response(row) for row in rows], dtype=np.bool_),
        has_equal_responses=np.array([repeats_response(row) for row in rows], dtype=np.bool_),
    )


def lacks_response(row: Row) -> bool:
    return any(not turn.response_a.strip() or not turn.response_b.strip() for turn in row.turns)


def repeats_response(row: Row) -> bool:
    return all(turn.response_a == turn.response_b for turn in row.turns)


def join_facts(parts: Sequence[RowFacts]) -> RowFacts:
    """Return the facts of all parts, one after the other; rows may so be measured as they are read."""
    parts = parts or [measure_rows([], np.zeros(0, np.bool_))]
    return RowFacts(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(RowFacts)))


def score_slices(facts: RowFacts, logits: Array, targets: Array, groups: Groups, seed: int = 0) -> list[dict[str, Any]]:
    """Return {by, slice, num_rows, num_prompts, log_loss, accuracy, interval} of each slice that has rows.

    The slices of one `by` hold every row once. interval: 95 % of the log loss, by drawing the slice's prompts again;
    None with one prompt. Raises DataError for no rows, other shapes, or values that are not finite.
    """
    check_scored(logits, targets, groups)
    check_facts(facts, len(logits))
    losses = row_log_losses(logits, targets)
    scored = []
    for by, name, chosen in iterate_slices(facts, targets):
        if chosen.any():
            interval = bootstrap_mean(losses[chosen], groups[chosen], seed)
            scored.append(
                {
                    "by": by,
                    "slice": name,
                    "num_prompts": number_prompts(groups[chosen]).number,
                    **score_logits(logits[chosen], targets[chosen]),
                    "interval": None if interval is None else list(interval),
                }
            )
    return scored


def check_facts(facts: RowFacts, num_rows: int) -> None:
    """Raise DataError unless there are facts of each row."""
    if len(facts) != num_rows:
        raise DataError(f"Facts of {len(facts):,} rows and logits of {num_rows:,}: measure the rows that were scored.")


def iterate_slices(facts: RowFacts, targets: Array) -> Iterator[tuple[str, str, Bools]]:
    """Yield what a slice is by, its name, and which rows (N,) are in it."""
    turns = np.minimum(facts.num_turns, 3)
    is_tie = targets.argmax(axis=1) == CLASSES.index("tie")
    yield from cut_lengths(facts.characters.sum(axis=1))
    yield from cut_differences(facts.differences)
    yield from (("turns", name, turns == count) for count, name in ((1, "1"), (2, "2"), (3, "3 or more")))
    yield from split("truncation", facts.is_cut, "cut", "whole")
    yield from split("real class", is_tie, "tie", "no tie")
    yield from split("empty responses", facts.has_empty_response, "a response is empty", "none is empty")
    yield from split("identical responses", facts.has_equal_responses, "A and B are identical", "they differ")


def split(by: str, chosen: Bools, name: str, other: str) -> Iterator[tuple[str, str, Bools]]:
    yield by, name, chosen
    yield by, other, ~chosen


def cut_lengths(lengths: Ints) -> Iterator[tuple[str, str, Bools]]:
    places = np.searchsorted(LENGTH_BOUNDS, lengths, side="right")
    for place, name in enumerate(name_ranges((0, *LENGTH_BOUNDS))):
        yield "length in characters", name, places == place


def cut_differences(differences: Ints) -> Iterator[tuple[str, str, Bools]]:
    """From B much longer to A much longer; by how much is cut alike on both sides, so that no order is favoured."""
    places = np.sign(differences) * np.searchsorted(DIFFERENCE_BOUNDS, np.abs(differences), side="right")
    names = list(enumerate(name_ranges(DIFFERENCE_BOUNDS), start=1))
    ordered = [(-place, f"B longer by {name}") for place, name in reversed(names)]
    ordered += [(0, "equally long"), *((place, f"A longer by {name}") for place, name in names)]
    for place, name in ordered:
        yield "length difference in characters", name, places == place


def name_ranges(bounds: Sequence[int]) -> list[str]:
    """Return the name of the range from each bound to below the next one, the last one open."""
    closed = [f"{low:,} to {high - 1:,}" for low, high in pairwise(bounds)]
    return [*closed, f"{bounds[-1]:,} or more"]
