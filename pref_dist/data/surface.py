"""The surface of texts: how long they are and how they are laid out, before anything is cut.

A cut row cannot tell how long its texts were, and most tokenizers of encoders drop line ends. Both say much about which
answer people, and judges even more, prefer.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pref_dist.data.rows import Turn

# Of each text, all turns together: log2(1 + count), shifted so that a common chat answer has about 0.
SURFACE_FEATURES = ("characters", "line_ends", "list_items", "bold_marks", "digits", "code_fences", "number_signs")
USUAL = np.array([8.0, 3.0, 2.0, 2.0, 3.0, 0.0, 0.0])
NUM_TEXTS = 3  # prompt, A, B

LIST_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]", re.MULTILINE)
DIGITS = b"0123456789"


def measure_surface(rows: Sequence[Sequence[Turn]]) -> npt.NDArray[np.float32]:
    """Return (R, 3 * F): the surface of prompt, A and B of each row, given as its turns."""
    counts = [count_marks("\n".join(column)) for turns in rows for column in zip(*turns, strict=True)]
    surface: Any = np.log2(1.0 + np.array(counts, dtype=np.float64).reshape(-1, len(SURFACE_FEATURES))) - USUAL
    return np.asarray(surface.reshape(len(rows), NUM_TEXTS * len(SURFACE_FEATURES)), dtype=np.float32)


def count_marks(text: str) -> list[int]:
    """Return the counts of SURFACE_FEATURES in a text."""
    encoded = text.encode("utf-8", "surrogatepass")
    return [
        len(text),
        text.count("\n"),
        len(LIST_ITEM.findall(text)),
        text.count("**"),
        len(encoded) - len(encoded.translate(None, DIGITS)),
        text.count("```"),
        text.count("#"),
    ]
