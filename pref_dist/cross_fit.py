"""Fitting on some prompts and judging on others: parts of a table that no prompt stands in two of."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.mixing import mix64

Groups = NDArray[np.uint64]

NUM_PARTS = 5
PART_SALT = np.uint64(0x626C656E64)  # so that parts do not follow the folds, which hash the same groups


def part_of(groups: Groups) -> NDArray[np.int64]:
    """Return the part (N,), 0 to 4, of each prompt group (N,)."""
    return (mix64(groups ^ PART_SALT) % np.uint64(NUM_PARTS)).astype(np.int64)


def iterate_parts(groups: Groups) -> Iterator[NDArray[np.bool_]]:
    """Yield for each part which rows (N,) are in it; what is fitted on the others may be judged on them.

    Nothing is yielded where all rows are in one part, so that there are no others.
    """
    parts = part_of(groups)
    present = np.unique(parts)
    if len(present) > 1:
        yield from (parts == part for part in present)
