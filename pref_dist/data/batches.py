"""From planned rows to the tensors that a model reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pref_dist.data.layout import BatchLayout, TokenRows
from pref_dist.data.orders import SWAPPED_SEGMENTS, swap_tokens
from pref_dist.data.pairs import swap_classes
from pref_dist.data.plan import MicroBatch
from pref_dist.data.surface import NUM_TEXTS
from pref_dist.labels import NUM_CLASSES

Tokens = list[NDArray[np.int32]]

# Of prompt, A and B, what stands in each line of a siamese row.
TEXTS_OF_LINES = ((0, 1), (0, 2))


@dataclass(frozen=True)
class Batch:
    """One micro-batch as tensors: L lines of tokens, P rows in the order in which they are shown.

    inputs: input_ids and attention_mask, each (L, T) int64; token_places (N,) int64, where the mask is 1 when the lines
    are one sequence, and line_lengths, tokens of each line, a tuple that stays on the host (a GPU could say either only
    when all its work is done). Where the model reads it, also
    segment_ends (P, 3) int64, the exclusive ends of prompt, A and B in the row, sides (P, 2) int64, the lines of the
    first and the second response, or surface (L, 3 or 2, F) of the texts that a line holds, see `data/surface.py`.
    With one sequence a row, L is P; a siamese row has two lines, also where it is shown in both orders.
    target: (P, 3) class probabilities to learn. weight: (P,) in the loss, 0 for the row of a spare micro-batch.
    line_rows: (L,) place in the token table of the row that a line belongs to, -1 in a spare micro-batch.
    teacher: (P, 3) logits of a teacher, where there is one.
    """

    inputs: dict[str, Any]
    target: Tensor
    weight: Tensor
    line_rows: NDArray[np.int64]
    teacher: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        return self.through(lambda tensor: tensor.to(device, non_blocking=True))

    def through(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with each of its tensors as `move` returns it."""
        return Batch(
            move_inputs(self.inputs, move),
            move(self.target),
            move(self.weight),
            self.line_rows,
            None if self.teacher is None else move(self.teacher),
        )


def move_inputs(inputs: dict[str, Any], move: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return a batch's inputs with each tensor as `move` returns it."""
    return {name: move(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def build_batch(
    table: TokenRows, micro_batch: MicroBatch, layout: BatchLayout, teacher: NDArray[np.float64] | None = None
) -> Batch:
    """Read the rows of a micro-batch and pad them on the right to the longest line.

    teacher: logits (N, 3) of a teacher for all rows of the table.
    """
    if len(micro_batch.rows) == 0:
        return build_spare_batch(table, layout)
    rows = micro_batch.rows
    is_swapped = np.zeros(len(rows), dtype=np.bool_) if micro_batch.is_swapped is None else micro_batch.is_swapped
    if layout.num_sequences == 2:
        inputs, line_rows = read_pairs(table, rows, is_swapped, layout)
    else:
        inputs, line_rows = read_joint(table, rows, is_swapped, layout), rows
    return Batch(
        inputs,
        target=torch.from_numpy(swap_classes(table.training_targets[rows], is_swapped)),
        weight=torch.from_numpy(table.weights[rows]),
        line_rows=line_rows,
        teacher=None if teacher is None else torch.from_numpy(swap_classes(teacher[rows], is_swapped)),
    )


def read_joint(
    table: TokenRows, rows: NDArray[np.int64], is_swapped: NDArray[np.bool_], layout: BatchLayout
) -> dict[str, Any]:
    tokens: Tokens = [table.input_ids(int(row)) for row in rows]
    ends = table.segment_ends[rows]
    for place in np.flatnonzero(is_swapped):
        assert layout.swap is not None, "settings whose rows cannot be swapped are refused at start"
        tokens[place], ends[place] = swap_tokens(tokens[place], ends[place], layout.swap)
    inputs = pad(tokens, layout.pad_id)
    if layout.has_segments:
        inputs["segment_ends"] = torch.from_numpy(ends.astype(np.int64))
    if layout.has_surface:
        surface = read_surface(table, rows)
        swapped = np.where(is_swapped[:, None, None], surface[:, SWAPPED_SEGMENTS], surface)
        inputs["surface"] = torch.from_numpy(swapped)
    return inputs


def read_surface(table: TokenRows, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return (R, 3, F) the surface of prompt, A and B."""
    return table.surface[rows].reshape(len(rows), NUM_TEXTS, -1)


def read_pairs(
    table: TokenRows, rows: NDArray[np.int64], is_swapped: NDArray[np.bool_], layout: BatchLayout
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Return the inputs of a siamese model, and the row of each line; each row has its two lines once."""
    # In the order of their first showing, longest first.
    found, first, places = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.argsort(order)[places]
    lines: Tokens = []
    for row in found[order]:
        ends = table.segment_ends[row]
        lines += np.split(table.input_ids(int(row)), [ends[len(ends) // 2 - 1]])
    inputs = pad(lines, layout.pad_id)
    first_lines = 2 * places
    sides = np.stack((first_lines + is_swapped, first_lines + ~is_swapped), axis=1)
    inputs["sides"] = torch.from_numpy(sides.astype(np.int64))
    if layout.has_surface:
        surface = read_surface(table, found[order])
        sides_of_lines = surface[:, TEXTS_OF_LINES].reshape(len(lines), 2, -1)
        inputs["surface"] = torch.from_numpy(sides_of_lines)
    return inputs, np.repeat(found[order], 2)


def pad(tokens: Tokens, pad_id: int) -> dict[str, Any]:
    """Return input_ids and attention_mask (L, T) of lines of tokens, and the places (N,) of their tokens."""
    num_lines, width = len(tokens), max(len(ids) for ids in tokens)
    input_ids = np.full((num_lines, width), pad_id, dtype=np.int64)
    attention_mask = np.zeros((num_lines, width), dtype=np.int64)
    for place, ids in enumerate(tokens):
        input_ids[place, : len(ids)] = ids
        attention_mask[place, : len(ids)] = 1
    places = np.flatnonzero(attention_mask)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "token_places": torch.from_numpy(places),
        "line_lengths": tuple(len(ids) for ids in tokens),
    }


def build_spare_batch(table: TokenRows, layout: BatchLayout) -> Batch:
    """One token of the table's first row with weight 0 a line: what a rank runs when it has no rows left."""
    token = torch.tensor([[int(table.input_ids(0)[0])]] * layout.num_sequences, dtype=torch.int64)
    inputs = {
        "input_ids": token,
        "attention_mask": torch.ones_like(token),
        "token_places": torch.arange(layout.num_sequences),
        "line_lengths": (1,) * layout.num_sequences,
    }
    if layout.has_segments:
        inputs["segment_ends"] = torch.ones((1, 3), dtype=torch.int64)
    if layout.num_sequences == 2:
        inputs["sides"] = torch.tensor([[0, 1]])
    if layout.has_surface:
        num_texts = NUM_TEXTS if layout.num_sequences == 1 else 2
        inputs["surface"] = torch.zeros((layout.num_sequences, num_texts, table.surface.shape[1] // NUM_TEXTS))
    return Batch(
        inputs,
        target=torch.full((1, NUM_CLASSES), 1.0 / NUM_CLASSES, dtype=torch.float64),
        weight=torch.zeros(1, dtype=torch.float64),
        line_rows=np.full(layout.num_sequences, -1, dtype=np.int64),
        teacher=torch.zeros((1, NUM_CLASSES), dtype=torch.float64),
    )
