"""The joint template: how a row becomes text, in three segments: prompt, A, B.

Each segment opens with a header in plain words, so that any tokenizer can tell the three apart,
and is a list of pieces, one for each turn, so that a truncation policy can work by rounds:

    Prompt:             Response A:            Response B:
    Round 1:            Round 1:               Round 1:
    ...                 ...                    ...

A row with one turn has no round markers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pref_dist.data.rows import Turn

# A line of its own, since a byte-level tokenizer then reads what follows as the start of a line.
HEADERS = ("Prompt:\n", "Response A:\n", "Response B:\n")
# Of a sequence with one response, which does not know whether it is A or B.
SIAMESE_HEADERS = ("Prompt:\n", "Response:\n")
# Stands where something was cut out.
CUT_MARKER = " ... "


class Segments(NamedTuple):
    """The pieces of each segment, one a turn, without header; joining a segment's pieces gives its text."""

    prompt: tuple[str, ...]
    response_a: tuple[str, ...]
    response_b: tuple[str, ...]


def render_joint(turns: Sequence[Turn], swapped: bool = False) -> Segments:
    """Return the three segments of a row; `swapped` presents B as the first response."""
    shown = [swap_turn(turn) for turn in turns] if swapped else turns
    columns = [render_rounds(column) for column in zip(*shown, strict=True)]
    return Segments(*columns)


def render_rounds(texts: Sequence[str]) -> tuple[str, ...]:
    if len(texts) == 1:
        return (texts[0],)
    return tuple(f"{render_round_marker(number)}{text}" for number, text in enumerate(texts, start=1))


def render_round_marker(number: int) -> str:
    return f"Round {number}:\n" if number == 1 else f"\n\nRound {number}:\n"


def render_text(segments: Segments) -> str:
    """The whole row as people read it, headers included."""
    return "\n\n".join(header + "".join(pieces) for header, pieces in zip(HEADERS, segments, strict=True))


def swap_turn(turn: Turn) -> Turn:
    return Turn(turn.prompt, turn.response_b, turn.response_a)
