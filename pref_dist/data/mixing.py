"""Pseudo-random 64-bit words that are the same on every machine and numpy version."""

import numpy as np
from numpy.typing import NDArray


def mix64(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood 2014): a bijection of 64-bit words that looks random."""
    with np.errstate(over="ignore"):
        word = np.asarray(value, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(word ^ (word >> np.uint64(31)))
