"""Disentangled attention as one operation with its own backward: one tensor of the scores' size is kept, not ten.

scores = query key' + query key_of_distance' + query_of_distance key', all scaled; the last two read by skew.py.
Suffixes: R rows, T tokens, H heads, D size of a head, L tokens of a piece, M distances.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pref_dist.models.deberta.piece import Operands, attend_piece, find_grads
from pref_dist.models.deberta.rows import AttentionRows, Piece


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_of_distance: Tensor | None,
    query_of_distance: Tensor | None,
    rows: AttentionRows,
    dropout: float,
) -> Tensor:
    """Return the context (R, T, H, D) of a query, key and value (R, T, H, D); zero outside the rows' pieces.

    key_of_distance: (2 * longest - 1, H, D), for (place of the query - place of the key) from longest - 1 down to
    -(longest - 1); None: no such term. query_of_distance: the same from the smallest distance up. Everything is scaled
    already: query and query_of_distance by 1 / sqrt(D * number of terms). dropout: probability.
    """
    tensors = cast_to_matmul([query, key, value, key_of_distance, query_of_distance])
    if rows.packed is not None:
        packed = rows.packed
        tensors[:3] = [None if tensor is None else packed.unpack(tensor.squeeze(0)) for tensor in tensors[:3]]
    context: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]  # torch has no types for it
        *tensors, rows.mask, rows.pieces, dropout, torch.is_grad_enabled()
    )
    return context if rows.packed is None else rows.packed.pack(context).unsqueeze(0)


def cast_to_matmul(tensors: Sequence[Any]) -> list[Any]:
    """Under autocast, return them as a matrix product would take them; a function of its own is not cast by torch."""
    if not tensors:
        return []
    device_type = tensors[0].device.type
    if not torch.is_autocast_enabled(device_type) or tensors[0].dtype == torch.float64:
        return list(tensors)
    dtype = torch.get_autocast_dtype(device_type)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


class _Attention(torch.autograd.Function):
    """Keeps its inputs, its output and the probabilities, negative where they were dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_of_distance: Tensor | None,
        query_of_distance: Tensor | None,
        mask: Tensor | None,
        pieces: list[Piece],
        dropout: float,
        has_backward: bool,
    ) -> Tensor:
        inputs = (query, key, value, key_of_distance, query_of_distance)
        context = torch.zeros_like(query, memory_format=torch.contiguous_format)
        kept: list[Tensor] = []
        with torch.autocast(query.device.type, enabled=False):
            for piece in pieces:
                part, probabilities = attend_piece(_take(inputs, piece), mask, dropout)
                _heads_first(context, piece).copy_(part)
                if has_backward:
                    kept.append(probabilities)
                del probabilities  # Or they would live while the next piece makes its own.
        ctx.save_for_backward(*inputs, context, *kept)
        ctx.pieces, ctx.dropout = pieces, dropout
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, context_grad: Tensor) -> tuple[Tensor | None, ...]:
        # Asked for once: recomputation hands them out only once.
        saved = ctx.saved_tensors
        inputs, context, kept = saved[:5], saved[5], saved[6:]
        grads = [
            None if tensor is None else torch.zeros_like(tensor, memory_format=torch.contiguous_format)
            for tensor in inputs
        ]
        with torch.autocast(context.device.type, enabled=False):
            for piece, probabilities in zip(ctx.pieces, kept, strict=True):
                part, part_grad = _heads_first(context, piece), _heads_first(context_grad, piece)
                find_grads(_take(inputs, piece), probabilities, part, part_grad, ctx.dropout, _take(grads, piece))
        return (*grads, None, None, None, None)


def _take(tensors: Sequence[Tensor | None], piece: Piece) -> Operands:
    """Return views of a piece's part of query, key, value, and of what belongs to its distances."""
    query, key, value = (_heads_first(tensor, piece) for tensor in tensors[:3] if tensor is not None)
    key_of_distance, query_of_distance = (_reach(tensor, query.shape[2]) for tensor in tensors[3:])
    return Operands(query, key, value, key_of_distance, query_of_distance)


def _heads_first(tensor_RTHD: Tensor, piece: Piece) -> Tensor:
    return tensor_RTHD[piece].transpose(1, 2)


def _reach(of_distance: Tensor | None, num_tokens: int) -> Tensor | None:
    """Return the middle, the distances that are in reach among num_tokens tokens."""
    if of_distance is None:
        return None
    longest = (len(of_distance) + 1) // 2
    return of_distance[longest - num_tokens : longest + num_tokens - 1]
