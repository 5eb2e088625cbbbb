"""From content and position scores to probabilities, and back, in one pass over the scores: Triton kernels for a GPU.

The products of tokens with what belongs to distances come as `gpu.py` makes them, (blocks, H, R, B, B + T): what token
t, place o of its block, has for another token l stands in column l - o + B - 1. So a program reads rows of what the
queries have and skewed columns of what the keys have, and no index is stored or summed up by atomics.

Imported where Triton is installed: torch's builds for CUDA bring it. Suffixes: R rows, H heads, T tokens.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES_A_PROGRAM = 16  # of one block; what a key has for them stands side by side, 32 bytes in 16 bits
BYTES_A_PROGRAM = 65536  # of scores: the shared memory that every GPU has, and what fits into registers
UNSEEN = tl.constexpr(-1e30)  # not minus infinity: a row without any real token must not become NaN


def find_probabilities(content: Tensor, of_query: Tensor | None, of_key: Tensor | None, at: Tensor) -> Tensor:
    """Return softmax(the sum of all scores) over the keys that are there, (R, H, T, T); computed in fp32.

    content: (R, H, T, T). of_query, of_key: (blocks, H, R, B, B + T), or None. at: (R, T) int32, negative: no token.
    """
    probabilities = torch.empty_like(content)
    tensors = (content, of_query, of_key, at, probabilities)
    _launch(_forward, content, of_query, of_key, tensors)
    return probabilities


def find_score_grads(probabilities: Tensor, grad: Tensor, of_query: Tensor | None, of_key: Tensor | None) -> Tensor:
    """Return content's gradient (R, H, T, T), and write those of the products into of_query and of_key."""
    to_content = torch.empty_like(probabilities)
    tensors = (probabilities, grad, to_content, of_query, of_key)
    _launch(_backward, probabilities, of_query, of_key, tensors)
    return to_content


def _launch(
    kernel: Any,
    scores: Tensor,
    of_query: Tensor | None,
    of_key: Tensor | None,
    tensors: tuple[Tensor | None, ...],
) -> None:
    num_rows, num_heads, num_tokens, _ = scores.shape
    product = of_query if of_query is not None else of_key
    block = QUERIES_A_PROGRAM if product is None else product.shape[3]
    width = triton.next_power_of_2(num_tokens)
    queries = max(1, min(QUERIES_A_PROGRAM, BYTES_A_PROGRAM // scores.element_size() // width))
    kernel[(num_rows * num_heads * (num_tokens // queries),)](
        *(scores if tensor is None else tensor for tensor in tensors),
        num_rows, num_heads, num_tokens, of_query is not None, of_key is not None, block, queries, width,
        num_warps=min(16, max(4, queries * width // 1024)),
    )  # fmt: skip


@triton.jit
def _place(num_heads, num_tokens, queries: tl.constexpr):
    """Return which row, head and first query a program has."""
    program = tl.program_id(0)
    tiles = num_tokens // queries
    pair = program // tiles
    return pair // num_heads, pair % num_heads, (program % tiles) * queries


@triton.jit
def _start_of_scores(row, head, first, num_heads, num_tokens):
    return ((row * num_heads + head).to(tl.int64) * num_tokens + first) * num_tokens


@triton.jit
def _start_of_products(row, head, token, num_rows, num_heads, num_tokens, block: tl.constexpr):
    """Return where a token's products begin."""
    owner = (((token // block) * num_heads + head).to(tl.int64) * num_rows + row) * block + token % block
    return owner * (num_tokens + block)


@triton.jit
def _column(token, other, block: tl.constexpr):
    return other - token % block + block - 1


@triton.jit(do_not_specialize=["num_rows"])
def _forward(
    content, of_query, of_key, at, probabilities, num_rows, num_heads, num_tokens,
    has_of_query: tl.constexpr, has_of_key: tl.constexpr,
    block: tl.constexpr, queries: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    row, head, first = _place(num_heads, num_tokens, queries)
    query = (first + tl.arange(0, queries))[:, None]
    key = tl.arange(0, width)[None, :]
    is_key = key < num_tokens
    inside = (query < num_tokens) & is_key
    places = _start_of_scores(row, head, first, num_heads, num_tokens) + (query - first) * num_tokens + key
    scores = tl.load(content + places, mask=inside, other=0.0).to(tl.float32)
    if has_of_query:
        start = _start_of_products(row, head, query, num_rows, num_heads, num_tokens, block)
        scores += tl.load(of_query + start + _column(query, key, block), mask=inside, other=0.0).to(tl.float32)
    if has_of_key:
        start = _start_of_products(row, head, key, num_rows, num_heads, num_tokens, block)
        scores += tl.load(of_key + start + _column(key, query, block), mask=inside, other=0.0).to(tl.float32)
    seen = tl.load(at + row * num_tokens + key, mask=is_key, other=-1) >= 0
    scores = tl.where(seen, scores, UNSEEN)
    scores = tl.where(is_key, scores, float("-inf"))
    powers = tl.exp(scores - tl.max(scores, 1)[:, None])
    shares = powers / tl.sum(powers, 1)[:, None]
    tl.store(probabilities + places, shares.to(probabilities.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _backward(
    probabilities, grad, to_content, to_of_query, to_of_key, num_rows, num_heads, num_tokens,
    has_of_query: tl.constexpr, has_of_key: tl.constexpr,
    block: tl.constexpr, queries: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    row, head, first = _place(num_heads, num_tokens, queries)
    query = (first + tl.arange(0, queries))[:, None]
    key = tl.arange(0, width)[None, :]
    inside = (query < num_tokens) & (key < num_tokens)
    places = _start_of_scores(row, head, first, num_heads, num_tokens) + (query - first) * num_tokens + key
    shares = tl.load(probabilities + places, mask=inside, other=0.0).to(tl.float32)
    grads = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    grads = shares * (grads - tl.sum(shares * grads, 1)[:, None])
    result = grads.to(to_content.dtype.element_ty)
    tl.store(to_content + places, result, mask=inside)
    if has_of_query:
        start = _start_of_products(row, head, query, num_rows, num_heads, num_tokens, block)
        tl.store(to_of_query + start + _column(query, key, block), result, mask=inside)
        _clear(to_of_query, row, head, query, num_rows, num_heads, num_tokens, block, queries)
    if has_of_key:
        start = _start_of_products(row, head, key, num_rows, num_heads, num_tokens, block)
        tl.store(to_of_key + start + _column(key, query, block), result, mask=inside)
        _clear(to_of_key, row, head, query, num_rows, num_heads, num_tokens, block, queries)


@triton.jit
def _clear(
    products, row, head, token, num_rows, num_heads, num_tokens, block: tl.constexpr, queries: tl.constexpr
):  # fmt: skip
    """Write zero into the columns of these tokens that belong to no other token: a block of them."""
    start = _start_of_products(row, head, token, num_rows, num_heads, num_tokens, block)
    column = tl.arange(0, block)[None, :]
    column = tl.where(column < block - 1 - token % block, column, column + num_tokens)
    tl.store(products + start + column, tl.zeros((queries, block), products.dtype.element_ty))
