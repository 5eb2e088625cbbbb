"""A row that can be trusted: what ingest and the checks hand on, whatever file it came from."""

from typing import NamedTuple

# Probabilities of A, B and tie; one-hot where somebody decided.
Target = tuple[float, float, float]


class Turn(NamedTuple):
    """One round of the conversation; a null in the file is an empty string here."""

    prompt: str
    response_a: str
    response_b: str


class Row(NamedTuple):
    """One comparison: a non-empty id and at least one turn.

    `target` is what an evaluation scores against: the winner, else the soft label, None where the
    source has neither. `soft_target` is what training learns instead, where the source has soft
    labels (probabilities of a teacher, of several judges).
    """

    row: int  # 1-based number of the row in its source, over all its files
    id: str
    turns: tuple[Turn, ...]
    target: Target | None
    soft_target: Target | None = None
    models: tuple[str, str] | None = None  # who wrote A and B, where the source says so
    cells: tuple[str, str, str] = ("", "", "")  # prompt, A, B as they stand in the file; the seeds' text is made of it

    @property
    def training_target(self) -> Target | None:
        return self.soft_target or self.target
