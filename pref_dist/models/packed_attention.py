"""Attention among the tokens of each row of a packed sequence, as an attention function of transformers.

Suffixes: A heads, N tokens of all rows, T tokens of one row (padded: of the longest), D size of a head, R rows.
"""

import inspect
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pref_dist.models.packed_rows import PackedRows
from pref_dist.models.row_attention import LARGEST_BLOCK_ELEMENTS, attend_by_products

NAME = "pref_dist_packed"

# Queries that look at their neighbours alone are taken so many at a time.
QUERIES_A_BLOCK = 128

# In bf16 a row's probabilities take 2 bytes for each pair of tokens, head and layer: with 12 heads 25 MB a layer.
LONGEST_BY_PRODUCTS = 1024


def register() -> None:
    """Let transformers' encoders find the function under NAME; they then build no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend_packed)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a loop over rows, whose lengths are new in every micro-batch
def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_rows: PackedRows,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return (1, N, A, D) for query, key and value (1, A, N, D); no row sees another one.

    sliding_window: a token sees those less than so many places away; None: all of its row. As transformers'
    own functions it also returns the probabilities, which are not there.
    """
    assert attention_mask is None
    window = None if sliding_window is None else sliding_window - 1
    if packed_rows.lengths is not None:
        return attend_on_cpu(query, key, value, packed_rows.lengths, scaling, dropout, window), None
    if dropout == 0.0 and has_kernel(query.device, query.dtype, query.shape[-1]):
        return attend_by_kernel(query, key, value, packed_rows, scaling, window), None
    return attend_padded(query, key, value, packed_rows, scaling, dropout, window), None


@cache
def has_kernel(device: torch.device, dtype: torch.dtype, size_of_head: int) -> bool:
    """Return whether torch's flash kernel for rows of any lengths is there and takes such tensors.

    It wants 16 bits, a GPU from Ampere on, and heads of up to 256 in steps of 8; before torch 2.11 it has no window.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    fits = dtype in (torch.float16, torch.bfloat16) and size_of_head % 8 == 0 and size_of_head <= 256
    knows_windows = {"scale", "window_size"} <= set(inspect.signature(varlen_attn).parameters)
    return fits and knows_windows and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def attend_on_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> Tensor:
    """Return (1, N, A, D)."""
    groups = group_rows(lengths, query.shape[1])
    # Tokens first, as they lie: outputs and gradients, once put together, are not copied into another order.
    sizes = [num_rows * num_tokens for num_rows, num_tokens in groups]
    parts = (torch.split(part.squeeze(0).transpose(0, 1), sizes) for part in (query, key, value))
    attended = []
    for (num_rows, num_tokens), *of_group in zip(groups, *parts, strict=True):
        q, k, v = (part.unflatten(0, (num_rows, num_tokens)).transpose(1, 2) for part in of_group)
        attended.append(attend_rows(q, k, v, scaling, dropout, window).transpose(1, 2).flatten(0, 1))
    return torch.cat(attended).unsqueeze(0)


def group_rows(lengths: Sequence[int], num_heads: int) -> list[tuple[int, int]]:
    """Return (rows, tokens of each) of what is attended to at once, in order.

    Neighbours of one length, whose scores all together stay in the CPU's caches: a call takes longer to begin than a
    short row takes.
    """
    groups = []
    for num_tokens, run in groupby(lengths):
        num_rows = len(list(run))
        most = max(1, LARGEST_BLOCK_ELEMENTS // max(1, num_heads * num_tokens**2))
        groups += [(min(most, num_rows - first), num_tokens) for first in range(0, num_rows, most)]
    return groups


def attend_rows(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None
) -> Tensor:
    """Return (R, A, T, D) of rows of one length, on a CPU."""
    num_tokens = query.shape[2]
    if window is None or num_tokens <= window + 1:
        if dropout > 0.0 or trains_by_products(query):
            factor = query.shape[-1] ** -0.5 if scaling is None else scaling
            attended: Tensor = attend_by_products(query, key, value, factor, dropout)
            return attended
        return attend_widened(query, key, value, None, scaling, dropout)
    blocks = []
    for start in range(0, num_tokens, QUERIES_A_BLOCK):
        end = min(start + QUERIES_A_BLOCK, num_tokens)
        first, last = max(0, start - window), min(num_tokens, end + window)
        seen = is_near(torch.arange(start, end), torch.arange(first, last), window)
        near = key[:, :, first:last], value[:, :, first:last]
        blocks.append(attend_widened(query[:, :, start:end], *near, seen, scaling, dropout))
    return torch.cat(blocks, dim=2)


def trains_by_products(query: Tensor) -> bool:
    """Whether a row's gradients in bf16 are worth the memory that its probabilities take until the backward."""
    return query.dtype == torch.bfloat16 and torch.is_grad_enabled() and query.shape[2] <= LONGEST_BY_PRODUCTS


def attend_widened(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    """Return (R, A, T, D) by torch's kernel for CPUs, which is slower in bf16 than in fp32 (EXPERIMENTS.md, bf16)."""
    widen = query.dtype == torch.bfloat16 and dropout == 0.0
    q, k, v = (part.float() if widen else part for part in (query, key, value))
    with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not widen):
        attended = scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, scale=scaling)
    return attended.to(query.dtype)


def is_near(query_places: Tensor, key_places: Tensor, window: int) -> Tensor:
    """Return (Q, K) whether a key is at most `window` places from a query."""
    return (query_places.unsqueeze(1) - key_places).abs() <= window


def attend_by_kernel(
    query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float | None, window: int | None
) -> Tensor:
    """Return (1, N, A, D) by torch's flash kernel for rows of any lengths: on a GPU, in 16 bits, without dropout."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
    size = (-1, -1) if window is None else (window, window)
    attended = varlen_attn(
        query, key, value, rows.ends, rows.ends, rows.longest, rows.longest, scale=scaling, window_size=size
    )
    assert isinstance(attended, Tensor)
    return attended.unsqueeze(0)


def attend_padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: PackedRows,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> Tensor:
    """Return (1, N, A, D) with the rows padded for the attention alone: where no kernel takes them as they are."""
    query, key, value = (rows.unpack(part.squeeze(0).transpose(0, 1)).transpose(1, 2) for part in (query, key, value))
    places_T = torch.arange(rows.longest, device=query.device)
    seen_RT = places_T < rows.ends.diff().unsqueeze(1)
    seen = seen_RT[:, None, None]
    if window is not None:
        # A padded query sees itself, so that it gets a number.
        seen = (seen & is_near(places_T, places_T, window)) | torch.eye(
            rows.longest, dtype=torch.bool, device=query.device
        )
    attended = scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout, scale=scaling)
    return rows.pack(attended.transpose(1, 2)).unsqueeze(0)
