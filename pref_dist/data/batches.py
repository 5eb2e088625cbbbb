"""From planned rows to the tensors that a model reads."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pref_dist.data.plan import MicroBatch
from pref_dist.labels import NUM_CLASSES


class TokenRows(Protocol):
    """What batches need of a token table (`data/cache.py`)."""

    @property
    def training_targets(self) -> NDArray[np.float64]: ...

    @property
    def weights(self) -> NDArray[np.float64]: ...

    @property
    def row_numbers(self) -> NDArray[np.int64]: ...

    @property
    def segment_ends(self) -> NDArray[np.int32]: ...

    def input_ids(self, row: int) -> NDArray[np.int32]: ...


@dataclass(frozen=True)
class BatchLayout:
    """How a model wants its rows: padding id, and whether it reads where the segments end."""

    pad_id: int
    has_segments: bool


@dataclass(frozen=True)
class Batch:
    """One micro-batch as tensors.

    inputs: input_ids and attention_mask, each (R, T) int64, and, where the model reads it, segment_ends
    (R, 3) int64: the exclusive ends of prompt, A and B in the row.
    target: (R, 3) class probabilities to learn. weight: (R,) in the loss, 0 for the row of a spare micro-batch.
    row: (R,) place in the token table, -1 for the row of a spare micro-batch.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    weight: Tensor
    row: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()},
            self.target.to(device, non_blocking=True),
            self.weight.to(device, non_blocking=True),
            self.row,
        )


def build_batch(table: TokenRows, micro_batch: MicroBatch, layout: BatchLayout) -> Batch:
    """Read the rows of a micro-batch and pad them on the right to the longest."""
    if len(micro_batch.rows) == 0:
        return build_spare_batch(table, layout)
    tokens = [table.input_ids(int(row)) for row in micro_batch.rows]
    num_rows, width = len(tokens), max(len(ids) for ids in tokens)
    input_ids = np.full((num_rows, width), layout.pad_id, dtype=np.int64)
    attention_mask = np.zeros((num_rows, width), dtype=np.int64)
    for place, ids in enumerate(tokens):
        input_ids[place, : len(ids)] = ids
        attention_mask[place, : len(ids)] = 1
    inputs = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
    if layout.has_segments:
        inputs["segment_ends"] = torch.from_numpy(table.segment_ends[micro_batch.rows].astype(np.int64))
    return Batch(
        inputs,
        target=torch.from_numpy(np.ascontiguousarray(table.training_targets[micro_batch.rows])),
        weight=torch.from_numpy(table.weights[micro_batch.rows]),
        row=torch.from_numpy(micro_batch.rows),
    )


def build_spare_batch(table: TokenRows, layout: BatchLayout) -> Batch:
    """One token of the table's first row with weight 0: what a rank runs when it has no rows left."""
    token = torch.tensor([[int(table.input_ids(0)[0])]], dtype=torch.int64)
    inputs = {"input_ids": token, "attention_mask": torch.ones_like(token)}
    if layout.has_segments:
        inputs["segment_ends"] = torch.ones((1, 3), dtype=torch.int64)
    return Batch(
        inputs,
        target=torch.full((1, NUM_CLASSES), 1.0 / NUM_CLASSES, dtype=torch.float64),
        weight=torch.zeros(1, dtype=torch.float64),
        row=torch.full((1,), -1, dtype=torch.int64),
    )
