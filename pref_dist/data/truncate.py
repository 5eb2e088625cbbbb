"""Truncation `fair`: a long sequence loses the middle of its long segments, never a whole segment.

Plain right truncation of the joined text takes response B first, and with it the answer. Here the
segments share the budget: what one does not need goes to the others, and a segment that must be
cut keeps its head and its tail. Two responses are treated alike to the token, so that swapping
them swaps the result, and a row's result depends on nothing but the row.

In this file Q is the axis of sequences and K that of the segments of one sequence: prompt, A and
B, or prompt and one response.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


class Cuts(NamedTuple):
    """What is kept of each segment's text, (Q, K) each.

    `skip` tokens are dropped at its start, then `head` tokens are kept; `tail` tokens are kept at
    its end. Where head and tail meet, nothing between them is lost.
    """

    skip: Ints
    head: Ints
    tail: Ints
    has_marker: Bools  # the cut marker stands between head and tail


def keep_all(lengths: Ints) -> Cuts:
    return Cuts(np.zeros_like(lengths), lengths.copy(), np.zeros_like(lengths), np.zeros(lengths.shape, dtype=np.bool_))


def cut_fair(ids: Int32s, starts: Ints, lengths: Ints, budget: int | Ints, num_marker: int, is_inside: Bools) -> Cuts:
    """Return what to keep of segments `ids[start : start + length]`, all sequences at once.

    `starts` and `lengths` are (Q, K), `budget` is one number or (Q,): head, marker (`num_marker`
    tokens) and tail of a sequence's segments together never exceed it. `is_inside[id]` says that
    a token begins inside a character: no cut is made before such a token.
    """
    return cut_middles(ids, starts, lengths, share_fairly(lengths, budget), num_marker, is_inside)


def cut_middles(ids: Int32s, starts: Ints, lengths: Ints, shares: Ints, num_marker: int, is_inside: Bools) -> Cuts:
    """Cut each segment to its share of tokens, marker included, keeping head and tail."""
    # A share too small for the marker and a token on both sides keeps its head alone.
    has_marker = (shares < lengths) & (shares >= num_marker + 2)
    kept = np.minimum(shares, lengths) - num_marker * has_marker
    tail = np.where(has_marker, kept // 2, 0)
    head = move_to_border(ids, starts, kept - tail, lengths, is_inside, step=-1)
    tail_starts = move_to_border(ids, starts, lengths - tail, lengths, is_inside, step=+1)
    return Cuts(np.zeros_like(head), head, np.where(has_marker, lengths - tail_starts, 0), has_marker)


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


def share_fairly(lengths: Ints, budget: int | Ints) -> Ints:
    """Fill the segments of each sequence like vessels until `budget` tokens are out; (Q, K) -> (Q, K).

    All segments are cut to one level, those below it stay whole. Of the one or two tokens that
    the segments do not divide, an odd one goes to the prompt; two go to A and B, which never differ.
    """
    budgets = np.broadcast_to(np.asarray(budget, dtype=np.int64), len(lengths))
    shares: Ints = np.minimum(lengths, find_level(lengths, budgets)[:, None])
    spare = budgets - shares.sum(axis=1)
    has_room = lengths > shares
    shares[:, 0] += (spare == 1) & has_room[:, 0]
    # Two are over only where all three are cut.
    shares[:, 1:] += ((spare == 2) & has_room.all(axis=1))[:, None]
    return shares


def find_level(lengths: Ints, budgets: Ints) -> Ints:
    """Return (Q,) the most tokens that a segment may keep so that each budget suffices.

    If the k shortest segments stay whole, the others have (budget - their tokens) // (K - k) each.
    That grows with k while the next segment lies below the level, and shrinks from there on.
    """
    num_segments = lengths.shape[1]
    ordered = np.sort(lengths, axis=1)
    whole = np.cumsum(ordered, axis=1) - ordered
    levels: Ints = ((budgets[:, None] - whole) // np.arange(num_segments, 0, -1)).max(axis=1)
    return levels
