"""The texts of the two notebooks that started this project, to the letter, so that runs can be compared with theirs.

`seed_joint` is one string a row, `seed_siamese` is two, one for each response. Both are made of the
cells as `pandas.read_csv` gives them: a JSON list of turns stays JSON text, and a missing cell
formats as "nan". One thing is not imitated: a column in which every cell is a number (or every
one True or False) is text here, while pandas would rewrite 007 as 7.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

# What pandas.read_csv reads as missing (its STR_NA_VALUES; a test compares).
MISSING_CELLS = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
))  # fmt: skip

WHITE_SPACE = re.compile(r"\s+")
BEYOND_ASCII = re.compile(r"[^\x00-\x7F]+")


class Part(NamedTuple):
    """A segment of a sequence, as text."""

    header: str
    text: str


SeedSequence = list[Part]  # its headers and texts, joined, are the string that is tokenised


def render_seed_joint(cells: Sequence[str]) -> list[SeedSequence]:
    """Return the one sequence of a row; `cells` are prompt, A and B as `read_cell` gives them."""
    prompt, response_a, response_b = cells
    return [[Part("Prompt: ", prompt), Part(" \n Response A: ", response_a), Part(" \n Response B: ", response_b)]]


def render_seed_siamese(cells: Sequence[str], sep_token: str) -> list[SeedSequence]:
    """Return the two sequences of a row: the prompt with A, and with B."""
    prompt, *responses = cells
    return [[Part("Prompt: ", prompt), Part(f" {sep_token} Response: ", response)] for response in responses]


def render_string(sequence: SeedSequence) -> str:
    return "".join(header + text for header, text in sequence)


def read_cell(cell: str) -> str:
    """Return what pandas' value of a CSV cell formats as."""
    return "nan" if cell in MISSING_CELLS else cell


def clean_seed_ascii(text: str) -> str:
    """Collapse white space, put a space for each run of characters beyond ASCII, and strip.

    In this order: where such a run stands between spaces, two or three are left.
    """
    return BEYOND_ASCII.sub(" ", WHITE_SPACE.sub(" ", text)).strip()
