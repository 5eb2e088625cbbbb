"""Which rows tell one story: repeated, contradicting each other, or standing in two files.

Everything works on whole columns: `pairs` (N,) are 64-bit hashes of a prompt and its two
responses in sorted order, `is_mirrored` (N,) says where A and B were exchanged for that (never
where they are identical), and `targets` (N, 3) are the probabilities of A, B and tie as the file
has them, NaN in a row without a label. Answers are positions in these columns, in rising order.
The time is that of a sort; the memory is a few words a row, and more only where pairs repeat.
"""

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.pairs import swap_classes

Pairs = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Targets = NDArray[np.floating]
Rows = NDArray[np.int64]


def find_duplicate_pairs(pairs: Pairs, is_mirrored: Bools, targets: Targets) -> Rows:
    """Return the rows that say what an earlier one says: same pair, in either order, and same target.

    A row without a label repeats any row with its pair. A labelled one repeats only labelled ones,
    so that no label is lost with the rows found.
    """
    rows, numbers = list_repeats(pairs)
    labels = swap_classes(targets[rows], is_mirrored[rows])
    is_labelled = find_labelled(labels)
    repeats = ~starts_group(numbers)
    repeats[is_labelled] = repeats_earlier(np.column_stack((numbers, labels))[is_labelled])
    return np.sort(rows[repeats])


def find_contradictions(pairs: Pairs, is_mirrored: Bools, targets: Targets) -> Rows:
    """Return all labelled rows whose pair stands with different labels.

    A label is the most probable class of a target, after A and B are put into the pair's order.
    """
    rows, numbers = list_repeats(pairs)
    labels = swap_classes(targets[rows], is_mirrored[rows])
    is_labelled = find_labelled(labels)
    rows, numbers, classes = rows[is_labelled], numbers[is_labelled], labels[is_labelled].argmax(axis=1)
    starts = np.flatnonzero(starts_group(numbers))
    if not len(starts):
        return rows
    differ = np.minimum.reduceat(classes, starts) != np.maximum.reduceat(classes, starts)
    return np.sort(rows[np.repeat(differ, np.diff(starts, append=len(rows)))])


def find_shared(pairs: Pairs, other_pairs: Pairs) -> Rows:
    """Return the rows whose pair stands among `other_pairs` (M,) too, such as test rows that are in train."""
    if not len(other_pairs):
        return np.empty(0, dtype=np.int64)
    # Both are sorted, because a search for keys in order is quick; np.isin takes twenty times as long among 10 M.
    order, others = np.argsort(pairs), np.sort(other_pairs)
    ordered = pairs[order]
    places = np.minimum(np.searchsorted(others, ordered), len(others) - 1)
    return np.sort(order[others[places] == ordered])


def list_repeats(pairs: Pairs) -> tuple[Rows, Rows]:
    """Return the rows (n,) whose pair stands more than once, and the number (n,) of the pair of each.

    They come pair by pair, rising within each.
    """
    order = np.argsort(pairs, kind="stable")
    starts = starts_group(pairs[order])
    repeats = ~(starts & np.append(starts[1:], True))
    return order[repeats], np.cumsum(starts[repeats])


def starts_group(ordered: NDArray[np.generic]) -> Bools:
    """Return (n,) where a value differs from the one before it."""
    starts = np.ones(len(ordered), dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return starts


def repeats_earlier(lines: NDArray[np.number]) -> Bools:
    """Return (n,) which lines of (n, K) equal an earlier one."""
    order = np.lexsort(lines.T)  # stable, so equal lines stay in their order
    repeats = np.zeros(len(lines), dtype=bool)
    repeats[order[1:]] = (lines[order[1:]] == lines[order[:-1]]).all(axis=1)
    return repeats


def find_labelled(targets: Targets) -> Bools:
    return np.asarray(~np.isnan(targets).any(axis=1))
