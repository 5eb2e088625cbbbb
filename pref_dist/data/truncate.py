"""Truncation `fair`: a long row loses the middle of its long segments, never a whole segment.

Plain right truncation of the joined text takes response B first, and with it the answer. Here the
three segments (prompt, A, B) share the budget: what one does not need goes to the others, and a
segment that must be cut keeps its head and its tail. A and B are treated alike to the token, so
that swapping them swaps the result, and a row's result depends on nothing but the row.

In this file S is the axis of the three segments, in the order prompt, A, B.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

SEGMENTS = ("prompt", "response_a", "response_b")


class Cuts(NamedTuple):
    """What is kept of each segment: `head` first and `tail` last tokens, (rows, S) each."""

    head: Ints
    tail: Ints
    has_marker: Bools  # the cut marker stands between head and tail


def cut_fair(ids: Int32s, starts: Ints, lengths: Ints, budget: int, num_marker: int, is_inside: Bools) -> Cuts:
    """Return what to keep of segments `ids[start : start + length]`, all rows at once.

    `starts` and `lengths` are (rows, S); head, marker (`num_marker` tokens) and tail of the three
    segments together never exceed `budget`. `is_inside[id]` says that a token begins inside a
    character: no cut is made before such a token.
    """
    shares = share_fairly(lengths, budget)
    # A share too small for the marker and a token on both sides keeps its head alone.
    has_marker = (shares < lengths) & (shares >= num_marker + 2)
    kept = shares - num_marker * has_marker
    tail = np.where(has_marker, kept // 2, 0)
    head_ends = starts + move_to_border(ids, starts, kept - tail, lengths, is_inside, step=-1)
    tail_starts = starts + move_to_border(ids, starts, lengths - tail, lengths, is_inside, step=+1)
    return Cuts(head_ends - starts, np.where(has_marker, starts + lengths - tail_starts, 0), has_marker)


def move_to_border(ids: Int32s, starts: Ints, cuts: Ints, lengths: Ints, is_inside: Bools, step: int) -> Ints:
    """Move each cut (a position in its segment) by `step`s, until it is at a border of characters."""
    cuts = cuts.copy()
    movable = np.nonzero((cuts > 0) & (cuts < lengths)) if is_inside.any() else (np.zeros(0, int),) * 2
    while len(movable[0]):
        splits = is_inside[ids[starts[movable] + cuts[movable]]]
        cuts[movable] += step * splits
        stays_within = splits & (cuts[movable] > 0) & (cuts[movable] < lengths[movable])
        movable = (movable[0][stays_within], movable[1][stays_within])
    return cuts


def share_fairly(lengths: Ints, budget: int) -> Ints:
    """Fill the segments of each row like vessels until `budget` tokens are out; (rows, S) -> (rows, S).

    All segments are cut to one level, those below it stay whole. Of the one or two tokens that
    three do not divide, an odd one goes to the prompt; two go to A and B, which never differ.
    """
    low, middle, _ = np.moveaxis(np.sort(lengths, axis=1), 1, 0)
    level = np.select(
        [3 * low >= budget, low + 2 * middle >= budget],
        [np.full_like(low, budget // 3), (budget - low) // 2],
        budget - low - middle,
    )
    shares: Ints = np.minimum(lengths, level[:, None])
    spare = budget - shares.sum(axis=1)
    has_room = lengths > shares
    shares[:, 0] += (spare == 1) & has_room[:, 0]
    # Two are over only where all three are cut.
    shares[:, 1:] += ((spare == 2) & has_room.all(axis=1))[:, None]
    return shares


def audit_truncation(full_lengths: Int32s, kept_lengths: Int32s, extra: "Extra", max_tokens: int) -> dict[str, Any]:
    """Say what truncation did to a table: the content of `truncation.json`.

    `full_lengths` and `kept_lengths` are (rows, S): tokens of each segment's text before and
    after. Beside it stands what plain right truncation of the same rows would have done, and
    the `data.max_tokens` with which 95 and 99 % of the rows would stay whole.
    """
    lost = (full_lengths - kept_lengths).astype(np.int64)
    totals = full_lengths.sum(axis=1, dtype=np.int64) + extra.total
    num_rows = len(totals)
    return {
        "max_tokens": max_tokens,
        "num_rows": num_rows,
        "rows_cut": int((lost > 0).any(axis=1).sum()),
        "share_of_rows_cut": share(int((lost > 0).any(axis=1).sum()), num_rows),
        "share_of_rows_cut_by_segment": by_segment((lost > 0).mean(axis=0) if num_rows else np.zeros(3)),
        "tokens_before": int(full_lengths.sum(dtype=np.int64)),
        "tokens_lost": int(lost.sum()),
        "tokens_lost_by_segment": by_segment(lost.sum(axis=0)),
        "rows_without_response_b": count_rows_without_b(full_lengths[:, 2], kept_lengths[:, 2]),
        "rows_without_response_b_under_right_truncation": count_rows_without_b(
            full_lengths[:, 2], keep_b_right(full_lengths, extra, max_tokens)
        ),
        "longest_row": int(totals.max(initial=0)),
        "max_tokens_for_95_percent": smallest_cap(totals, 0.95),
        "max_tokens_for_99_percent": smallest_cap(totals, 0.99),
    }


class Extra(NamedTuple):
    """Tokens of a row that are not its text: headers and special tokens."""

    before_b: int  # what stands before the text of B
    total: int


def keep_b_right(full_lengths: Int32s, extra: Extra, max_tokens: int) -> Ints:
    """Tokens of B that are left if the joined row is cut at its right end; the last special token stays."""
    start = full_lengths[:, :2].sum(axis=1, dtype=np.int64) + extra.before_b
    kept: Ints = np.clip(max_tokens - 1 - start, 0, full_lengths[:, 2])
    return kept


def count_rows_without_b(full: npt.NDArray[Any], kept: npt.NDArray[Any]) -> int:
    return int(((full > 0) & (kept <= 0)).sum())


def smallest_cap(totals: Ints, wanted: float) -> int:
    """The smallest row length that at least the `wanted` share of rows does not exceed."""
    return int(np.quantile(totals, wanted, method="inverted_cdf")) if len(totals) else 0


def by_segment(values: npt.NDArray[Any]) -> dict[str, Any]:
    return dict(zip(SEGMENTS, values.tolist(), strict=True))


def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
