"""Which rows compare the same two answers, whichever of them stands first."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.rows import Turn

# The classes of a row whose answers are exchanged: what was A's is B's, and a tie stays a tie.
SWAPPED_CLASSES = (1, 0, 2)


def pair_of(turns: Sequence[Turn]) -> tuple[int, bool]:
    """Return the 64-bit hash of a conversation and its two answers, and whether the answers are mirrored.

    The hash does not depend on which answer is called A: a row and its swapped duplicate share it.
    Mirrored means that A's texts sort after B's, so of such two rows exactly one is mirrored;
    answers that are equal never are. Every character and every border between turns counts.
    """
    prompts, answers_a, answers_b = zip(*turns, strict=True)
    is_mirrored = answers_a > answers_b
    first, second = (answers_b, answers_a) if is_mirrored else (answers_a, answers_b)
    text = json.dumps([prompts, first, second])  # ASCII, so that half a surrogate pair can be hashed too
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "little"), is_mirrored


def swap_classes(values: NDArray[np.floating], is_swapped: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Return what belongs to the classes of rows (n, 3), with A's and B's exchanged where a row is swapped."""
    return np.where(is_swapped[:, None], values[:, SWAPPED_CLASSES], values)
