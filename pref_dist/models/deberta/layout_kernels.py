"""Moves tokens to where matrix products want them, and back: Triton kernels for a GPU.

Suffixes: N tokens of all rows, R rows, T tokens of a padded row, H heads, D size of a head, B tokens of a block, S
embeddings of distances.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor


def take_in(parts: Sequence[Tensor], at: Tensor, owners: Sequence[int], block: int) -> tuple[Tensor, Tensor]:
    """Return (parts, R, H, T, D) of up to three parts (N, H, D), and of those in `owners` (owners, blocks, H, R, B, D).

    at: (R, T) int32, which token stands there; negative: none, and zero is written.
    """
    num_rows, num_tokens = at.shape
    _, num_heads, size = parts[0].shape
    rows = parts[0].new_empty((len(parts), num_rows, num_heads, num_tokens, size))
    blocks = parts[0].new_empty((len(owners), num_tokens // block, num_heads, num_rows, block, size))
    for number, part in enumerate(parts):
        place = owners.index(number) if number in owners else -1
        to_blocks = blocks[place] if place >= 0 else rows
        _take_in[(num_rows * num_tokens,)](
            part, at, rows[number], to_blocks, num_rows, num_tokens, num_heads,
            place >= 0, block, size, triton.next_power_of_2(num_heads * size),
        )  # fmt: skip
    return rows, blocks


def give_back(rows: Tensor, at: Tensor, blocks: Tensor | None, tokens: Tensor) -> None:
    """Write (R, H, T, D) to where they belong in tokens (N, H, D), the blocks (blocks, H, R, B, D) added."""
    num_rows, num_heads, num_places, size = rows.shape
    block = 1 if blocks is None else blocks.shape[3]
    _give_back[(num_rows * num_places,)](
        rows, rows if blocks is None else blocks, at, tokens, num_rows, num_places, num_heads,
        blocks is not None, block, size, triton.next_power_of_2(num_heads * size),
    )  # fmt: skip


def spread_distances(table: Tensor, slots: Tensor, block: int) -> Tensor:
    """Return (terms, blocks, H, B + T, D) of embeddings (terms, S, H, D): those of all columns of a block's products.

    slots: (terms, 2T - 1) int32, which embedding has what a token at place t has for one at place t - T + 1 and so on.
    """
    num_terms, _, num_heads, size = table.shape
    num_tokens = (slots.shape[1] + 1) // 2
    num_blocks, columns = num_tokens // block, block + num_tokens
    windows = table.new_empty((num_terms, num_blocks, num_heads, columns, size))
    _spread[(num_terms * num_blocks * columns,)](
        table, slots, windows, table.shape[1], num_tokens, num_heads,
        block, size, triton.next_power_of_2(num_heads * size),
    )  # fmt: skip
    return windows


def fold_distances(windows: Tensor) -> Tensor:
    """Return (terms, 2T - 1, H, D), the sum over blocks of (terms, blocks, H, B + T, D): `spread_distances` back."""
    num_terms, num_blocks, num_heads, columns, size = windows.shape
    num_tokens = columns * num_blocks // (num_blocks + 1)
    of_distance = windows.new_empty((num_terms, 2 * num_tokens - 1, num_heads, size))
    _fold[(num_terms * (2 * num_tokens - 1) * num_heads,)](
        windows, of_distance, num_tokens, num_heads,
        columns - num_tokens, size, triton.next_power_of_2(num_blocks), triton.next_power_of_2(size),
    )  # fmt: skip
    return of_distance


@triton.jit
def _in_row(row, token, num_tokens, num_heads, size: tl.constexpr, width: tl.constexpr):
    """Return where the heads of a token stand in (R, H, T, D)."""
    lane = tl.arange(0, width)
    head = (row * num_heads + lane // size).to(tl.int64)
    return (head * num_tokens + token) * size + lane % size


@triton.jit
def _in_block(row, token, num_rows, num_heads, block: tl.constexpr, size: tl.constexpr, width: tl.constexpr):
    """Return where they stand in (blocks, H, R, B, D)."""
    lane = tl.arange(0, width)
    head = ((token // block) * num_heads + lane // size).to(tl.int64)
    return ((head * num_rows + row) * block + token % block) * size + lane % size


@triton.jit(do_not_specialize=["num_rows"])
def _take_in(
    part, at, rows, blocks, num_rows, num_tokens, num_heads,
    has_blocks: tl.constexpr, block: tl.constexpr, size: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    row, token = place // num_tokens, place % num_tokens
    number = tl.load(at + place)
    lane = tl.arange(0, width)
    inside = lane < num_heads * size
    start = number.to(tl.int64) * num_heads * size
    values = tl.load(part + start + lane, mask=inside & (number >= 0), other=0.0)
    tl.store(rows + _in_row(row, token, num_tokens, num_heads, size, width), values, mask=inside)
    if has_blocks:
        tl.store(blocks + _in_block(row, token, num_rows, num_heads, block, size, width), values, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _give_back(
    rows, blocks, at, tokens, num_rows, num_tokens, num_heads,
    has_blocks: tl.constexpr, block: tl.constexpr, size: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    row, token = place // num_tokens, place % num_tokens
    number = tl.load(at + place)
    lane = tl.arange(0, width)
    inside = (lane < num_heads * size) & (number >= 0)
    values = tl.load(rows + _in_row(row, token, num_tokens, num_heads, size, width), mask=inside, other=0.0)
    if has_blocks:
        there = _in_block(row, token, num_rows, num_heads, block, size, width)
        values = values.to(tl.float32) + tl.load(blocks + there, mask=inside, other=0.0).to(tl.float32)
    start = number.to(tl.int64) * num_heads * size
    tl.store(tokens + start + lane, values.to(tokens.dtype.element_ty), mask=inside)


@triton.jit
def _spread(
    table, slots, windows, num_slots, num_tokens, num_heads,
    block: tl.constexpr, size: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    columns = num_tokens + block
    program = tl.program_id(0)
    column, pair = program % columns, program // columns
    number, term = pair % (num_tokens // block), pair // (num_tokens // block)
    # The last column belongs to no token.
    distance = tl.maximum(number * block + block + num_tokens - 2 - column, 0)
    slot = tl.load(slots + term * (2 * num_tokens - 1) + distance)
    lane = tl.arange(0, width)
    inside = lane < num_heads * size
    values = tl.load(table + ((term * num_slots + slot) * num_heads * size + lane), mask=inside, other=0.0)
    head = (pair * num_heads + lane // size).to(tl.int64)
    tl.store(windows + (head * columns + column) * size + lane % size, values, mask=inside)


@triton.jit
def _fold(
    windows, of_distance, num_tokens, num_heads,
    block: tl.constexpr, size: tl.constexpr, height: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    columns = num_tokens + block
    num_blocks = num_tokens // block
    num_distances = 2 * num_tokens - 1
    program = tl.program_id(0)
    head, pair = program % num_heads, program // num_heads
    distance, term = pair % num_distances, pair // num_distances
    number = tl.arange(0, height)[:, None]
    lane = tl.arange(0, width)[None, :]
    column = number * block + block + num_tokens - 2 - distance
    inside = (number < num_blocks) & (column >= 0) & (column < columns - 1) & (lane < size)
    there = (((term * num_blocks + number) * num_heads + head).to(tl.int64) * columns + column) * size + lane
    total = tl.sum(tl.load(windows + there, mask=inside, other=0.0).to(tl.float32), 0)
    lane = tl.arange(0, width)
    tl.store(of_distance + program * size + lane, total.to(of_distance.dtype.element_ty), mask=lane < size)
