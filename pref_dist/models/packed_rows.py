"""Rows without padding: the real tokens of a micro-batch as one sequence, one row after another.

Suffixes: R rows (of a siamese model: lines), T tokens of the longest row, N real tokens of all rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedRows:
    """Where each row of a packed sequence stands.

    places: (N,) int64, the place of each real token in the padded rows, flattened (R * T).
    ends: (R + 1,) int32 on the device, 0 and then the end of each row: what kernels call cu_seqlens.
    lengths: tokens of each row, on the host; None on a GPU, where to ask for them would be to wait for it.
    known_lengths: the same where the caller knows them, also for a GPU; None: not known.
    """

    places: Tensor
    ends: Tensor
    lengths: list[int] | None
    num_rows: int
    longest: int
    known_lengths: tuple[int, ...] | None = None

    @property
    def positions(self) -> Tensor:
        """(N,) int64 place of each token in its own row."""
        return self.places % self.longest

    def pack(self, padded: Tensor) -> Tensor:
        """Return (N, ...) the real tokens of (R, T, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def unpack(self, packed: Tensor) -> Tensor:
        """Return (R, T, ...) of (N, ...), zero where there is no token."""
        padded = packed.new_zeros((self.num_rows * self.longest, *packed.shape[1:]))
        return padded.index_copy(0, self.places, packed).view(self.num_rows, self.longest, *packed.shape[1:])


def find_rows(
    attention_mask_RT: Tensor, places_N: Tensor | None = None, lengths: tuple[int, ...] | None = None
) -> PackedRows:
    """Return where the rows of a mask, 1 for each real token, stand when packed.

    places_N, lengths: where its ones are and how many a row has, if that is known: on a GPU looking for them waits
    until all queued work is done.
    """
    num_rows, longest = attention_mask_RT.shape
    if places_N is None:
        places_N = attention_mask_RT.flatten().nonzero().squeeze(1)
    lengths_R = attention_mask_RT.sum(dim=1)
    ends = torch.nn.functional.pad(lengths_R.cumsum(dim=0), (1, 0)).to(torch.int32)
    on_host = lengths_R.tolist() if attention_mask_RT.device.type == "cpu" else None
    return PackedRows(places_N, ends, on_host, num_rows, longest, lengths)
