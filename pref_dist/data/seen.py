"""Where a key was first seen in a stream of up to a hundred million: 16 bytes a key, plus a tenth to grow.

A Python dict takes over 100 bytes a key. Here new keys wait in a small dict, which is flushed into
sorted arrays. They are merged geometrically, as in a log-structured merge tree (O'Neil et al. 1996),
so a key moves a few dozen times at most and a look-up searches a handful of arrays.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]

NUM_RECENT = 2**16  # keys that wait in the dict
SIZE_RATIO = 12  # a run takes in the next once it is at most so many times longer: more merging, fewer runs to search
MERGE_PIECE = 2**18  # keys that are merged at once


def key_of(text: str) -> int:
    """Return the 64-bit BLAKE2b key of a text. Among 100 million, two share one with probability 3e-4."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class SeenKeys:
    """A growing map from keys to the row at which each was first seen.

    `num_recent` keys wait in a dict of about 170 bytes each.
    """

    def __init__(self, num_recent: int = NUM_RECENT) -> None:
        self._num_recent = num_recent
        self._recent: dict[int, int] = {}
        self._runs: list[SortedRun] = []  # each much longer than the next; no key stands in two

    def __len__(self) -> int:
        return len(self._recent) + sum(len(run) for run in self._runs)

    def find_or_add(self, keys: Keys, rows: Rows) -> Rows:
        """Return (N,) the row at which each key was first seen, 0 for a new one, which is then added.

        `rows` (N,) are 1 or more. A key that stands twice in one call is found at its second place.
        """
        assert len(keys) == len(rows)
        assert not len(rows) or rows.min() > 0
        found = np.zeros(len(keys), dtype=np.int64)
        for start in range(0, len(keys), self._num_recent):
            piece = slice(start, start + self._num_recent)
            for run in self._runs:
                run.find(keys[piece], found[piece])
            self._find_or_add_recent(keys[piece], rows[piece], found[piece])
            if len(self._recent) >= self._num_recent:
                self._flush()
        return found

    def _find_or_add_recent(self, keys: Keys, rows: Rows, found: Rows) -> None:
        places = np.flatnonzero(found == 0)
        for place, key, row in zip(places.tolist(), keys[places].tolist(), rows[places].tolist(), strict=True):
            first = self._recent.get(key)
            if first is None:
                self._recent[key] = row
            else:
                found[place] = first

    def _flush(self) -> None:
        """Turn the recent keys into a run, and merge runs until each is much longer than the next."""
        self._runs.append(SortedRun.of(self._recent))
        self._recent = {}
        while len(self._runs) > 1 and len(self._runs[-2]) <= SIZE_RATIO * len(self._runs[-1]):
            smaller = self._runs.pop()
            self._runs[-1].take_in(smaller)


class SortedRun:
    """Keys in rising order, each with its row."""

    def __init__(self, keys: Keys, rows: Rows) -> None:
        self.keys, self.rows = keys, rows

    @classmethod
    def of(cls, row_of_key: dict[int, int]) -> "SortedRun":
        keys = np.fromiter(row_of_key.keys(), dtype=np.uint64, count=len(row_of_key))
        rows = np.fromiter(row_of_key.values(), dtype=np.int64, count=len(row_of_key))
        order = np.argsort(keys)
        return cls(keys[order], rows[order])

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Keys, found: Rows) -> None:
        """Write the rows of those of `keys` (N,) that stand here into `found` (N,)."""
        places = np.searchsorted(self.keys, keys)
        places[places == len(self)] = 0
        is_here = self.keys[places] == keys
        found[is_here] = self.rows[places[is_here]]

    def take_in(self, other: "SortedRun") -> None:
        """Merge the other run into this one in place, a piece at a time from the back.

        A second copy of the longer run would double the peak. What is written never reaches what
        is still to be read, since a key only moves towards the back.
        """
        places = np.searchsorted(self.keys, other.keys) + np.arange(len(other))
        self._grow(len(other))
        for start, end, first, last in plan_pieces(places, len(self)):
            is_other = np.zeros(end - start, dtype=bool)
            is_other[places[first:last] - start] = True
            for mine, theirs in ((self.keys, other.keys), (self.rows, other.rows)):
                piece = np.empty_like(mine, shape=end - start)
                piece[~is_other] = mine[start - first : end - last]
                piece[is_other] = theirs[first:last]
                mine[start:end] = piece

    def _grow(self, num_added: int) -> None:
        # Memory is extended where it lies, without a copy. No view of these arrays ever leaves the class.
        self.keys.resize(len(self) + num_added, refcheck=False)
        self.rows.resize(len(self.keys), refcheck=False)


def plan_pieces(places: Rows, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield from the back (start, end, first, last): what is merged into [start, end) holds `places[first:last]`.

    It stops where no place is left, because everything before stays where it is.
    """
    last = len(places)
    while last:
        start = max(0, end - MERGE_PIECE)
        first = int(np.searchsorted(places, start))
        yield start, end, first, last
        end, last = start, first
