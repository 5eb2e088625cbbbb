"""Where the rows are that a DeBERTa layer attends in: what goes through the layers in place of transformers' mask."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pref_dist.models.deberta.gpu import FusedRows, Group, divide_rows, round_up
from pref_dist.models.packed_rows import PackedRows

# Which rows of (R, T, ...), and which tokens in them, attend to each other.
Piece = tuple[slice, slice]
EVERYTHING: Piece = (slice(None), slice(None))


@dataclass(frozen=True)
class AttentionRows:
    """An argument of every layer, not state of a module: activation checkpointing calls layers again, later.

    pieces: computed one after another, each without a mask inside if there is none. mask: bool, True where a token may
    be looked at, broadcast to (R, 1, T, T). packed: to be unpacked first; then the mask is that of the unpacked rows.
    fused: for `gpu.py`, which needs nothing else; None: not to be computed there.
    """

    pieces: list[Piece]
    mask: Tensor | None = None
    packed: PackedRows | None = None
    fused: FusedRows | None = None


def find_fused(attention_mask: Tensor, packed: PackedRows | None) -> AttentionRows:
    """Return the rows of a mask (R, T), 1 for each real token, or of a packed sequence, for `gpu.py`."""
    device = attention_mask.device
    if packed is None:
        num_rows, longest = attention_mask.shape
        numbers = torch.arange(num_rows * longest, dtype=torch.int32, device=device).view(num_rows, longest)
        at = torch.where(attention_mask.bool(), numbers, -1)
        at = torch.nn.functional.pad(at, (0, round_up(longest) - longest), value=-1)
        return AttentionRows([], fused=FusedRows([Group(at)], is_whole=False))
    sizes = [(packed.num_rows, round_up(packed.longest))]
    lengths_R, firsts_R = packed.ends.diff(), packed.ends[:-1]
    if packed.known_lengths is not None:
        sizes = divide_rows(sorted(packed.known_lengths, reverse=True))
        # Found on the device again: to send the order there would be to wait for it.
        order = lengths_R.argsort(descending=True, stable=True)
        lengths_R, firsts_R = lengths_R[order], firsts_R[order]
    groups, first = [], 0
    for num_rows, num_tokens in sizes:
        mine = slice(first, first + num_rows)
        places = torch.arange(num_tokens, dtype=torch.int32, device=device)
        groups.append(Group(torch.where(places < lengths_R[mine, None], firsts_R[mine, None] + places, -1)))
        first += num_rows
    return AttentionRows([], fused=FusedRows(groups, is_whole=True))


def find_packed(packed: PackedRows) -> AttentionRows:
    """Return the rows of a packed sequence: on a CPU one by one, elsewhere unpacked and all at once."""
    if packed.lengths is None:
        lengths_R = packed.ends.diff()
        mask_RT = torch.arange(packed.longest, device=lengths_R.device) < lengths_R[:, None]
        return AttentionRows([EVERYTHING], mask_RT[:, None, None, :], packed)
    pieces, first = [], 0
    for length in packed.lengths:
        pieces.append((slice(None), slice(first, first + length)))
        first += length
    return AttentionRows([piece for piece in pieces if piece[1].stop > piece[1].start])


def find_padded(attention_mask: Tensor) -> AttentionRows:
    """Return the rows of a mask, 1 for each real token, (R, T), or for each pair (query, key), (R, T, T).

    On a CPU only real tokens are attended to and from: where there is none, the attention's output is zero
    (transformers averages over tokens there; nothing real depends on it).
    """
    if attention_mask.dim() == 3:
        return AttentionRows([EVERYTHING], attention_mask.bool()[:, None])
    mask_RT = attention_mask.bool()
    pieces = _find_stretches(mask_RT) if mask_RT.device.type == "cpu" else None
    if pieces is None:
        return AttentionRows([EVERYTHING], mask_RT[:, None, None, :])
    return AttentionRows(pieces)


def _find_stretches(mask_RT: Tensor) -> list[Piece] | None:
    """Return where the tokens of each row are, None if some row has padding between its tokens."""
    num_tokens = mask_RT.shape[1]
    lengths = mask_RT.sum(dim=1)
    firsts = mask_RT.to(torch.uint8).argmax(dim=1)
    ends = num_tokens - mask_RT.flip(1).to(torch.uint8).argmax(dim=1)
    if not torch.equal(torch.where(lengths > 0, ends - firsts, 0), lengths):
        return None
    stretches = enumerate(zip(firsts.tolist(), lengths.tolist(), strict=True))
    return [(slice(row, row + 1), slice(first, first + length)) for row, (first, length) in stretches if length > 0]
