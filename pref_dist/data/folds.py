"""Which rows are held out: whole prompts, by a hash that never moves a row.

A prompt that stands on both sides would let the model remember instead of judge, so rows are
grouped by their normalised prompt and a group falls on one side as a whole.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pref_dist.data.mixing import mix64
from pref_dist.errors import DataError

Groups = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def group_of(prompt_turns: Iterable[str]) -> int:
    """Return the 64-bit group of a prompt; equal up to case, white space and punctuation is equal.

    All turns together are the prompt. One without a letter or digit is taken as it stands. The
    group does not depend on the seed, so it can be kept with the tokens.
    """
    text = "\n".join(prompt_turns)
    normalised = NEITHER_LETTER_NOR_DIGIT.sub("", text.casefold()) or text
    return int.from_bytes(hashlib.blake2b(normalised.encode("utf-8"), digest_size=8).digest(), "little")


def split_hold_out(groups: Groups, seed: int, valid_fraction: float) -> tuple[Rows, Rows]:
    """Return the positions of (train, valid) rows in `groups`, both in rising order.

    A row's side is a function of its group and the seed alone: adding rows moves no other row,
    and the share of valid rows is `valid_fraction` only on average. Raises DataError if a side
    would be empty.
    """
    is_valid = draw_uniform(groups, seed) < valid_fraction
    train, valid = np.flatnonzero(~is_valid), np.flatnonzero(is_valid)
    if not len(train) or not len(valid):
        side, change = ("train", "Lower") if not len(train) else ("valid", "Raise")
        raise DataError(
            f"data.valid_fraction={valid_fraction} leaves no {side} rows: {len(groups):,} rows with "
            f"{len(np.unique(groups)):,} different prompts. {change} data.valid_fraction, change run.seed, "
            f"or name a file of its own in data.valid."
        )
    return train, valid


def draw_uniform(groups: Groups, seed: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each group, the same in every process and on every machine."""
    mixed = mix64(groups ^ mix64(np.uint64(seed)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
