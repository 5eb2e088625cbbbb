"""Disentangled attention on a GPU: matrix products by torch, and between them one kernel each that moves or sums up.

Rows are padded to whole blocks for the attention alone. All products of a block of tokens with what belongs to
distances are one matrix product, as in `skew.py`; here of all blocks at once, and with so many columns that rows
start at addresses that tensor cores like.

Suffixes: N tokens of all rows, R rows, T tokens of a padded row, H heads, D size of a head, S embeddings of distances.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pref_dist.models.deberta.distances import Distances

BLOCK = 32  # tokens: BLOCK / (T + BLOCK) of the products are superfluous, and rows get BLOCK / 2 more tokens on average
# So many scores of a head an H100 computes in about the time in which its host starts the kernels of one more group;
# estimated from one profile (EXPERIMENTS.md), other values were not tried.
SCORES_OF_A_GROUP = 2**22


@cache
def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether `attend_fused` works there, for weights of this type; says so once where only that is missing.

    It needs Triton, a GPU from compute capability 7.0 on, and what Triton needs: a C compiler, a folder for its cache.
    """
    if device.type != "cuda" or dtype == torch.float64 or find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < (7, 0):
        return False
    try:
        tokens = torch.zeros((1, 2, 16), device=device)
        rows = FusedRows([Group(torch.zeros((1, BLOCK), dtype=torch.int32, device=device))], is_whole=True)
        attend_fused(tokens, tokens, tokens, None, rows.find_terms(None, False, False), rows, 1.0, 0.0)
    except Exception as error:  # of a compiler, a linker, a file system, a driver
        warnings.warn(
            f"Triton does not work here ({type(error).__name__}: {error}), so that DeBERTa's attention goes through "
            "torch's operations, at half the speed or less. Triton wants a C compiler (gcc, or CC=...) and a folder "
            "that it can write (TRITON_CACHE_DIR).",
            stacklevel=2,
        )
        return False
    return True


def round_up(num_tokens: int) -> int:
    """Return to how many tokens rows are padded."""
    return -(-num_tokens // BLOCK) * BLOCK


def divide_rows(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return (number of rows, tokens that they are padded to) of groups, for lengths that fall.

    Rows are attended to in groups of like lengths, as few as pay.
    """
    padded = [round_up(max(length, 1)) for length in lengths]
    whole = len(lengths) * padded[0] ** 2
    places = [place for place in range(1, len(lengths)) if padded[place] < padded[place - 1]]
    costs = [place * padded[0] ** 2 + (len(lengths) - place) * padded[place] ** 2 for place in places]
    if not costs or min(costs) + SCORES_OF_A_GROUP >= whole:
        return [(len(lengths), padded[0])]
    place = places[costs.index(min(costs))]
    return divide_rows(lengths[:place]) + divide_rows(lengths[place:])


@dataclass(frozen=True)
class Group:
    """Rows that are padded alike. at: (R, T) int32, the number of the token that stands there, -1: none."""

    at: Tensor

    @property
    def num_tokens(self) -> int:
        return self.at.shape[1]


class FusedRows:
    """Where the tokens of all rows stand, in groups. is_whole: each token stands somewhere."""

    def __init__(self, groups: Sequence[Group], is_whole: bool) -> None:
        self.groups, self.is_whole = groups, is_whole
        self._terms: list[Terms] = []

    def find_terms(self, distances: Distances | None, of_query: bool, of_key: bool) -> "list[Terms]":
        """Return the terms of each group; the same for all layers of a model, so found once."""
        if not self._terms or (self._terms[0].of_query, self._terms[0].of_key) != (of_query, of_key):
            self._terms = [Terms(distances, group.num_tokens, of_query, of_key) for group in self.groups]
        return self._terms


class Terms:
    """Which distances' embeddings belong to which pairs, for rows of T tokens.

    of_query, of_key: whether a query has products with keys of distances, and a key with queries of distances.
    slots: (terms, 2T - 1) int32, the embedding for each (place of a token - place of another) from -(T - 1) up.
    """

    def __init__(self, distances: Distances | None, num_tokens: int, of_query: bool, of_key: bool) -> None:
        self.of_query, self.of_key = of_query, of_key
        self.slots: Tensor | None = None
        self._members: Tensor | None = None
        if distances is not None and (of_query or of_key):
            self._num_slots = distances.end - distances.first
            middle = distances.longest - 1
            slots = distances.places[middle - (num_tokens - 1) : middle + num_tokens]
            # A key looks back: the other way round.
            self.slots = torch.stack([slots] * of_query + [slots.flip(0)] * of_key).to(torch.int32)

    @property
    def owners(self) -> list[int]:
        """Which of query (0) and key (1) have products with distances."""
        return [0] * self.of_query + [1] * self.of_key

    def sum_by_slot(self, of_distance: Tensor) -> Tensor:
        """Return (terms, S, H, D) of (terms, 2T - 1, H, D), by a matrix product: its sums have always one order."""
        if self._members is None or self._members.dtype != of_distance.dtype:
            assert self.slots is not None
            numbers = torch.arange(self._num_slots, device=self.slots.device)
            self._members = (self.slots[:, None, :] == numbers[:, None]).to(of_distance.dtype)
        summed = self._members.bmm(of_distance.flatten(2))
        return summed.view(*summed.shape[:2], *of_distance.shape[2:])


def attend_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    terms: Sequence[Terms],
    rows: FusedRows,
    scale: float,
    dropout: float,
) -> Tensor:
    """Return the context (N, H, D) of a query, key and value (N, H, D): softmax(scale * scores) value.

    table: (terms, S, H, D), what belongs to each embedding of a distance, for what queries have, then for what keys
    have; None: no such term. Tokens that stand in no row get zero. dropout: probability.
    """
    apply: Any = _FusedAttention.apply  # torch has no types for it
    context: Tensor = apply(query, key, value, table, terms, rows, scale, dropout, torch.is_grad_enabled())
    return context


class _FusedAttention(torch.autograd.Function):
    """Keeps its inputs and the probabilities; what was moved is moved again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, table: Tensor | None, terms: Sequence[Terms],
        rows: FusedRows, scale: float, dropout: float, has_backward: bool,
    ) -> Tensor:  # fmt: skip
        context = _new_tokens(query, rows)
        kept: list[Tensor | None] = []
        with torch.autocast(query.device.type, enabled=False), _on(query.device):
            for group, of_group in zip(rows.groups, terms, strict=True):
                found = _attend(query, key, value, table, of_group, group.at, scale, dropout, context)
                kept += found if has_backward else ()
                del found  # or they would live while the next group makes its own
        ctx.save_for_backward(query, key, value, table, *kept)
        ctx.terms, ctx.rows, ctx.scale, ctx.dropout = terms, rows, scale, dropout
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, context_grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        tokens, table, kept = saved[:3], saved[3], saved[4:]
        grads = [_new_tokens(part, ctx.rows) for part in tokens]
        table_grad = None
        with torch.autocast(context_grad.device.type, enabled=False), _on(context_grad.device):
            for number, (group, terms) in enumerate(zip(ctx.rows.groups, ctx.terms, strict=True)):
                part = _find_grads(
                    tokens, table, terms, group.at, ctx.scale, ctx.dropout, kept[2 * number : 2 * number + 2],
                    context_grad.contiguous(), grads,
                )  # fmt: skip
                table_grad = part if table_grad is None or part is None else table_grad + part
        return (*grads, table_grad, None, None, None, None, None)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton starts kernels on the current GPU, wherever its arguments lie."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _scaled(one: Tensor, other: Tensor, scale: float) -> Tensor:
    """Return scale * one other, of (..., I, J) and (..., J, K); scaled before it is rounded to what 16 bits hold."""
    unread = one.new_empty(())
    product = torch.baddbmm(unread, one.flatten(0, -3), other.flatten(0, -3), beta=0, alpha=scale)
    return product.view(*one.shape[:-1], other.shape[-1])


def _new_tokens(like: Tensor, rows: FusedRows) -> Tensor:
    make = torch.empty_like if rows.is_whole else torch.zeros_like
    return make(like, memory_format=torch.contiguous_format)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor | None, terms: Terms, at: Tensor, scale: float,
    dropout: float, context: Tensor,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Write the context of one group; return its probabilities (R, H, T, T), and which were kept, with dropout."""
    from pref_dist.models.deberta.layout_kernels import give_back, take_in
    from pref_dist.models.deberta.softmax_kernels import find_probabilities

    (rows_query, rows_key, rows_value), blocks = take_in((query, key, value), at, terms.owners, BLOCK)
    content = _scaled(rows_query, rows_key.transpose(-1, -2), scale)
    of_query, of_key = _by_term(_multiply(blocks, table, terms, scale), terms)
    probabilities = find_probabilities(content, of_query, of_key, at)
    used, is_kept = probabilities, None
    if dropout > 0:
        used, is_kept = torch.native_dropout(probabilities, dropout, True)
    give_back([used @ rows_value], at, (None, None), [context], BLOCK)
    return probabilities, is_kept


def _find_grads(
    tokens: Sequence[Tensor], table: Tensor | None, terms: Terms, at: Tensor, scale: float, dropout: float,
    kept: Sequence[Tensor | None], context_grad: Tensor, grads: Sequence[Tensor],
) -> Tensor | None:  # fmt: skip
    """Write the gradients of query, key and value of one group; return that of the table."""
    from pref_dist.models.deberta.layout_kernels import fold_distances, give_back, spread_distances, take_in
    from pref_dist.models.deberta.softmax_kernels import find_score_grads

    probabilities, is_kept = kept
    assert probabilities is not None
    (rows_query, rows_key, rows_value), blocks = take_in(tokens, at, terms.owners, BLOCK)
    (rows_grad,), _ = take_in((context_grad,), at, (), BLOCK)
    used, grad = probabilities, rows_grad @ rows_value.transpose(-1, -2)
    if is_kept is not None:
        factor = 1 / (1 - dropout)
        used, grad = (torch.ops.aten.native_dropout_backward(part, is_kept, factor) for part in (used, grad))
    value_grad = used.transpose(-1, -2) @ rows_grad
    products_grad = _new_products(blocks)
    score_grad = find_score_grads(probabilities, grad, *_by_term(products_grad, terms))
    query_grad = _scaled(score_grad, rows_key, scale)
    key_grad = _scaled(score_grad.transpose(-1, -2), rows_query, scale)
    blocks_grad: tuple[Tensor | None, Tensor | None] = (None, None)
    table_grad = None
    if table is not None and products_grad is not None and terms.slots is not None:
        windows = spread_distances(table, terms.slots, BLOCK)
        flat_grad = products_grad.flatten(3, 4)  # (terms, blocks, H, R * B, B + T)
        blocks_grad = _by_term(_scaled(flat_grad, windows, scale).view_as(blocks), terms)
        windows_grad = _scaled(flat_grad.transpose(-1, -2), blocks.flatten(3, 4), scale)
        table_grad = terms.sum_by_slot(fold_distances(windows_grad))
    give_back((query_grad, key_grad, value_grad), at, blocks_grad, grads, BLOCK)
    return table_grad


def _multiply(blocks: Tensor, table: Tensor | None, terms: Terms, scale: float) -> Tensor | None:
    """Return (terms, blocks, H, R, B, B + T), scaled products of tokens with what belongs to the distances in reach."""
    from pref_dist.models.deberta.layout_kernels import spread_distances

    if table is None or terms.slots is None:
        return None
    windows = spread_distances(table, terms.slots, BLOCK)
    return _scaled(blocks.flatten(3, 4), windows.transpose(-1, -2), scale).view(*blocks.shape[:-1], -1)


def _new_products(blocks: Tensor) -> Tensor | None:
    num_tokens = blocks.shape[1] * BLOCK
    return blocks.new_empty((*blocks.shape[:-1], BLOCK + num_tokens)) if len(blocks) else None


def _by_term(products: Tensor | None, terms: Terms) -> tuple[Tensor | None, Tensor | None]:
    """Return what belongs to the queries and what to the keys."""
    if products is None:
        return None, None
    return (products[0] if terms.of_query else None), (products[-1] if terms.of_key else None)
