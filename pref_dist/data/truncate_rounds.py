"""Truncation `last_rounds`: the end of a conversation stays, its beginning goes.

Whole rounds are kept from the end while they fit. The first one, going backwards, that does not fit
gets what is left, if that is worth reading, and keeps its head and tail; all before it is dropped.
The last round is always kept. Each round carries its number, so a reader sees that some are missing.

In this file Q is the axis of sequences, K that of the segments of one sequence.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pref_dist.data.sequences import ChunkTokens
from pref_dist.data.truncate import Bools, Cuts, Ints, cut_fair, cut_middles, keep_all

# With less than this left, a round that does not fit is dropped with all before it.
SMALLEST_ROUND_TOKENS = 80
# How prompt and responses share a round that is cut: 20/40/40 % beside two responses, 1/3 : 2/3 beside one.
WEIGHTS = (1, 2, 2)


def cut_last_rounds(tokens: ChunkTokens, budgets: Ints, num_marker: int, is_inside: Bools) -> Cuts:
    """Return what to keep of each sequence's texts; `budgets` (Q,) are tokens of text and markers.

    A sequence that would lose a whole segment this way (its rounds that stay have no text there,
    or a share too small for one character) is cut by `fair` instead.
    """
    cuts = keep_all(tokens.texts.lengths)
    too_long = np.flatnonzero(tokens.texts.lengths.sum(axis=1) > budgets)
    if not len(too_long):
        return cuts
    starts, lengths = tokens.texts.starts[too_long], tokens.texts.lengths[too_long]
    fair = cut_fair(tokens.pool, starts, lengths, budgets[too_long], num_marker, is_inside)
    plans = [plan_rounds(tokens.rounds_of(sequence), int(budgets[sequence])) for sequence in too_long.tolist()]
    skip, cut_lengths, shares = np.moveaxis(np.array(plans, dtype=np.int64), 1, 0)
    part = cut_middles(tokens.pool, starts + skip, cut_lengths, shares, num_marker, is_inside)
    rounds = Cuts(skip, part.head, part.tail + lengths - skip - cut_lengths, part.has_marker)
    is_emptied = ((rounds.head + rounds.tail == 0) & (lengths > 0)).any(axis=1)
    for whole, by_fair, by_rounds in zip(cuts, fair, rounds, strict=True):
        whole[too_long] = np.where(is_emptied[:, None], by_fair, by_rounds)
    return cuts


def plan_rounds(rounds: npt.NDArray[np.int64], budget: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return what becomes of a sequence that is too long: three numbers for each of its K segments.

    `rounds` is (K, number of rounds), in tokens. The numbers: tokens of the rounds that are dropped,
    tokens of the round that is cut, and how many of these it may keep. Rounds after it stay whole.
    """
    totals = rounds.sum(axis=0).tolist()
    cut, left = len(totals) - 1, budget
    while totals[cut] <= left:  # ends, as all rounds together exceed the budget
        left -= totals[cut]
        cut -= 1
    needs = rounds[:, cut].tolist()
    is_last = cut == len(totals) - 1
    if is_last or left >= SMALLEST_ROUND_TOKENS:
        return rounds[:, :cut].sum(axis=1).tolist(), needs, share_by_weight(needs, left)
    return rounds[:, : cut + 1].sum(axis=1).tolist(), [0] * len(needs), [0] * len(needs)


def share_by_weight(needs: Sequence[int], budget: int) -> list[int]:
    """Share `budget` tokens by WEIGHTS; what one segment does not need goes to the others.

    The rest that does not divide is given out evenly too, or left: two responses never differ.
    """
    shares = list(needs)
    unmet, left = list(range(len(needs))), budget
    while unmet:
        unit = left // sum(WEIGHTS[segment] for segment in unmet)
        met = [segment for segment in unmet if needs[segment] <= unit * WEIGHTS[segment]]
        if not met:
            break
        left -= sum(needs[segment] for segment in met)
        unmet = [segment for segment in unmet if segment not in met]
    if unmet:
        rest = left - unit * sum(WEIGHTS[segment] for segment in unmet)
        for segment in unmet:
            shares[segment] = unit * WEIGHTS[segment] + rest // len(unmet)
    return shares
