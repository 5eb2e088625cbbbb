"""Rows with their texts, as a page shows them: what was asked and answered, what is true and what was predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pref_dist.data.rows import Turn
from pref_dist.labels import CLASSES

MAX_CHARACTERS = 4000  # of one text; worst_rows.json cuts at the same length
MAX_TURNS = 6


@dataclass(frozen=True)
class ShownText:
    text: str
    goes_on: bool


@dataclass(frozen=True)
class ShownRow:
    """One row. outcome: the class of a one-hot target, else None; real, predicted: (class, probability) of each.

    turns: prompt, A and B of each of the first ones, of num_turns, none where the texts are not known.
    """

    id: str
    place: str
    outcome: str | None
    guess: str
    real: list[tuple[str, float]]
    predicted: list[tuple[str, float]]
    loss: float | None
    is_cut: bool
    models: Sequence[str] | None
    turns: list[tuple[ShownText, ...]]
    num_turns: int


def show_worst_row(found: dict[str, Any]) -> ShownRow:
    """Return one entry of worst_rows.json."""
    texts = [(turn["prompt"], turn["response_a"], turn["response_b"]) for turn in found["turns"]]
    place = f"row {found['row']} of {found['file']}" if found.get("file") is not None else ""
    return ShownRow(
        id=str(found["row_id"]),
        place=place,
        outcome=name_outcome(found["target"]),
        guess=likeliest(found["probabilities"]),
        real=list(zip(CLASSES, found["target"], strict=True)),
        predicted=list(zip(CLASSES, found["probabilities"], strict=True)),
        loss=found["loss"],
        is_cut=bool(found.get("is_cut")),
        models=found.get("models"),
        turns=[show_turn(turn) for turn in texts[:MAX_TURNS]],
        num_turns=len(texts),
    )


def show_turn(texts: Sequence[str] | Turn) -> tuple[ShownText, ...]:
    return tuple(ShownText(text[:MAX_CHARACTERS], len(text) >= MAX_CHARACTERS) for text in texts)


def name_outcome(target: Sequence[float]) -> str | None:
    return CLASSES[list(target).index(1.0)] if max(target) == 1.0 else None


def likeliest(probabilities: Sequence[float]) -> str:
    return CLASSES[max(range(len(CLASSES)), key=lambda place: probabilities[place])]
