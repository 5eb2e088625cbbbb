"""What truncation did to a table, and what another length or another policy would have done.

In this file S is the axis of a row's segments, over all its sequences.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pref_dist.data.truncate import Int32s, Ints

RESPONSES = ("response_a", "response_b")


class Extra(NamedTuple):
    """Tokens of a row that are not its text: headers and special tokens.

    A seed template's header may share a token with the text beside it; it is counted here as it
    stands beside a plain word, so a row's own count may be a token or two off.
    """

    names: tuple[str, ...]  # (S,) of the segments
    before: tuple[int, ...]  # (S,) what stands before the text of each segment, in its sequence
    total: int  # of one sequence
    num_sequences: int = 1
    num_closing: int = 1  # special tokens that end a sequence; right truncation leaves them


def audit_truncation(full_lengths: Int32s, kept_lengths: Int32s, extra: Extra, max_tokens: int) -> dict[str, Any]:
    """Say what truncation did to a table: the content of `truncation.json`.

    `full_lengths` and `kept_lengths` are (rows, S): tokens of each segment's text before and
    after. Beside it stands what plain right truncation of the same rows would have done, and
    the `data.max_tokens` with which 95 and 99 % of the rows would stay whole. Where a row is two
    sequences, `max_tokens`, `longest_row` and the advised lengths are those of one sequence (the
    longer one), and the prompt is counted once for each.
    """
    lost = (full_lengths - kept_lengths).astype(np.int64)
    totals = count_tokens(full_lengths, extra)
    num_rows = len(totals)
    is_lost = {
        "": lose_all(full_lengths, kept_lengths),
        "_under_right_truncation": lose_all(full_lengths, keep_right(full_lengths, extra, max_tokens)),
    }
    a, b = (extra.names.index(name) for name in RESPONSES)
    return {
        "max_tokens": max_tokens,
        "num_rows": num_rows,
        "rows_cut": int((lost > 0).any(axis=1).sum()),
        "share_of_rows_cut": share(int((lost > 0).any(axis=1).sum()), num_rows),
        "share_of_rows_cut_by_segment": by_segment(
            extra, (lost > 0).mean(axis=0) if num_rows else np.zeros(len(extra.names))
        ),
        "tokens_before": int(full_lengths.sum(dtype=np.int64)),
        "tokens_lost": int(lost.sum()),
        "tokens_lost_by_segment": by_segment(extra, lost.sum(axis=0)),
        **{f"rows_without_response_b{how}": int(is_lost_RS[:, b].sum()) for how, is_lost_RS in is_lost.items()},
        **{
            f"rows_without_a_response{how}": int((is_lost_RS[:, a] | is_lost_RS[:, b]).sum())
            for how, is_lost_RS in is_lost.items()
        },
        "longest_row": int(totals.max(initial=0)),
        "max_tokens_for_95_percent": smallest_cap(totals, 0.95),
        "max_tokens_for_99_percent": smallest_cap(totals, 0.99),
    }


def describe_cuts(audits: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in a line how many of all sources' rows were cut, and what they lost; empty if none was."""
    rows, cut, before, lost = (
        sum(audit[name] for audit in audits.values())
        for name in ("num_rows", "rows_cut", "tokens_before", "tokens_lost")
    )
    if not cut:
        return ""
    length = max(audit["max_tokens"] for audit in audits.values())
    enough = max(audit["max_tokens_for_95_percent"] for audit in audits.values())
    whole = f"{enough:,} would leave 95 % of the rows whole" if enough > length else "the others are whole"
    return f"{cut:,} of {rows:,} rows at {length:,} tokens, {100 * lost / before:.0f} % of all their tokens; {whole}"


def count_tokens(full_lengths: Int32s, extra: Extra) -> Ints:
    """Return (rows,) the tokens of each row's longest sequence if nothing is cut."""
    by_sequence = split_sequences(full_lengths, extra).sum(axis=2)
    totals: Ints = by_sequence.max(axis=1) + extra.total
    return totals


def keep_right(full_lengths: Int32s, extra: Extra, max_tokens: int) -> Ints:
    """Return (rows, S) the tokens that are left if each joined sequence is cut at its right end."""
    lengths = split_sequences(full_lengths, extra)
    starts = (lengths.cumsum(axis=2) - lengths).reshape(full_lengths.shape) + np.array(extra.before)
    kept: Ints = np.clip(max_tokens - extra.num_closing - starts, 0, full_lengths)
    return kept


def split_sequences(lengths: Int32s, extra: Extra) -> Ints:
    """(rows, S) -> (rows, sequences, segments of a sequence)"""
    return lengths.astype(np.int64).reshape(-1, extra.num_sequences, len(extra.names) // extra.num_sequences)


def lose_all(full: npt.NDArray[Any], kept: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return (rows, S) whether a segment had text and has none left."""
    is_lost: npt.NDArray[np.bool_] = (full > 0) & (kept <= 0)
    return is_lost


def smallest_cap(totals: Ints, wanted: float) -> int:
    """The smallest row length that at least the `wanted` share of rows does not exceed."""
    return int(np.quantile(totals, wanted, method="inverted_cdf")) if len(totals) else 0


def by_segment(extra: Extra, values: npt.NDArray[Any]) -> dict[str, Any]:
    return dict(zip(extra.names, values.tolist(), strict=True))


def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
