"""How a sequence of tokens is put together from ranges of one pool, and cut at one of its ends.

    opening | header text separator | header text separator | ... | header text closing

In this file Q is the axis of sequences (one or two a row) and K that of the segments of one
sequence. Opening, separator and closing are special tokens, none or some; a segment is its header,
its text and what ends it; the opening belongs to the first.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

from pref_dist.data.truncate import Bools, Cuts, Int32s, Ints, keep_all, move_to_border

# The ranges of a segment, in the order of reading.
OPENING, HEADER, HEAD, MARKER, TAIL, ENDING = range(6)
NUM_RANGES = 6


@dataclass(frozen=True)
class Frame:
    """The tokens that all sequences share."""

    opening: list[int]
    separator: list[int]
    closing: list[int]
    marker: list[int]  # stands where something was cut out
    headers: tuple[list[int], ...] = ()  # one for each segment; none where they are tokenised with the text

    @property
    def parts(self) -> list[list[int]]:
        return [self.opening, self.separator, self.closing, self.marker, *self.headers]

    @cached_property
    def starts(self) -> list[int]:
        """Where each of `parts` begins in the pool, which opens with them."""
        return list(accumulate(map(len, self.parts), initial=0))

    @cached_property
    def ids(self) -> list[int]:
        return list(chain.from_iterable(self.parts))

    def count_special(self, num_segments: int) -> int:
        return len(self.opening) + (num_segments - 1) * len(self.separator) + len(self.closing)


class Ranges(NamedTuple):
    """Places in a pool: `pool[start : start + length]`."""

    starts: Ints
    lengths: Ints


class ChunkTokens(NamedTuple):
    """The tokens of a chunk of rows, before anything is cut."""

    pool: Int32s  # the frame's ids, then all else
    headers: Ranges  # (Q, K)
    texts: Ranges  # (Q, K)
    num_rounds: Ints  # (Q,)
    round_lengths: Ints  # tokens of each round's text: for each sequence and segment, all its rounds

    def rounds_of(self, sequence: int) -> Ints:
        """Return (K, rounds) the tokens of each round of a sequence, round markers included."""
        num_segments = self.texts.lengths.shape[1]
        start = num_segments * int(self.num_rounds[:sequence].sum())
        stop = start + num_segments * int(self.num_rounds[sequence])
        return self.round_lengths[start:stop].reshape(num_segments, -1)


def lay_out(tokens: ChunkTokens, frame: Frame, cuts: Cuts) -> Ranges:
    """Return (Q, K, 6) the ranges that each segment is made of, in the order of reading."""
    starts = np.zeros((*cuts.head.shape, NUM_RANGES), dtype=np.int64)
    lengths = np.zeros_like(starts)
    opening, separator, closing, marker = frame.starts[:4]
    starts[:, 0, OPENING], lengths[:, 0, OPENING] = opening, len(frame.opening)
    starts[..., HEADER], lengths[..., HEADER] = tokens.headers
    starts[..., HEAD], lengths[..., HEAD] = tokens.texts.starts + cuts.skip, cuts.head
    starts[..., MARKER], lengths[..., MARKER] = marker, len(frame.marker) * cuts.has_marker
    starts[..., TAIL], lengths[..., TAIL] = tokens.texts.starts + tokens.texts.lengths - cuts.tail, cuts.tail
    starts[:, :-1, ENDING], lengths[:, :-1, ENDING] = separator, len(frame.separator)
    starts[:, -1, ENDING], lengths[:, -1, ENDING] = closing, len(frame.closing)
    return Ranges(starts, lengths)


def cut_one_end(tokens: ChunkTokens, frame: Frame, max_tokens: int, keeps_end: bool, is_inside: Bools | None) -> Ranges:
    """Return the ranges (Q, K, 6) of sequences cut at one end: policies `right` and, with `keeps_end`, `left`.

    Headers and separators are cut like text; opening and closing stay. What stands at the cut end
    suffers first, so by nature swapping A and B does not swap the result. `is_inside[id]` says that
    a token begins inside a character, and no cut is made before it; None: a cut may fall anywhere.
    """
    ranges = lay_out(tokens, frame, keep_all(tokens.texts.lengths))
    body = ranges.lengths.copy()
    body[:, 0, OPENING] = body[:, -1, ENDING] = 0
    kept = clip_to_window(body, max_tokens - len(frame.opening) - len(frame.closing), keeps_end)
    if is_inside is not None:
        kept[..., HEAD] = keep_characters(tokens, kept[..., HEAD], keeps_end, is_inside)
    lost = body - kept
    return Ranges(ranges.starts + lost if keeps_end else ranges.starts, ranges.lengths - lost)


def clip_to_window(lengths: Ints, room: int, keeps_end: bool) -> Ints:
    """Return (Q, K, 6) how much of each range lies in the first (or last) `room` tokens of its sequence."""
    flat = lengths.reshape(len(lengths), -1)
    ends = flat.cumsum(axis=1)
    start = np.maximum(ends[:, -1:] - room, 0) if keeps_end else 0
    inside: Ints = np.clip(ends, start, start + room) - np.clip(ends - flat, start, start + room)
    return inside.reshape(lengths.shape)


def keep_characters(tokens: ChunkTokens, kept: Ints, keeps_end: bool, is_inside: Bools) -> Ints:
    """Return (Q, K) how much of each text may stay if no character is to be cut."""
    starts, lengths = tokens.texts
    if keeps_end:
        return lengths - move_to_border(tokens.pool, starts, lengths - kept, lengths, is_inside, step=+1)
    return move_to_border(tokens.pool, starts, kept, lengths, is_inside, step=-1)


def gather_ranges(pool: Int32s, starts: Ints, lengths: Ints) -> Int32s:
    """Return `pool[start : start + length]` of all ranges, one after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    gathered: Int32s = pool[np.arange(total) + np.repeat(starts - (ends - lengths), lengths)]
    return gathered
