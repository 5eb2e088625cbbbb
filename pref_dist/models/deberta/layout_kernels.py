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

    at: (R, T) int32, which token stands there; negative: none, and zero is written. owners: of the first two parts.
    """
    num_rows, num_tokens = at.shape
    _, num_heads, size = parts[0].shape
    rows = parts[0].new_empty((len(parts), num_rows, num_heads, num_tokens, size))
    blocks = parts[0].new_empty((len(owners), num_tokens // block, num_heads, num_rows, block, size))
    to_blocks = [blocks[owners.index(number)] if number in owners else None for number in (0, 1)]
    _take_in[(num_rows * num_tokens,)](
        *fill([part.contiguous() for part in parts], at), at, *fill(rows.unbind(), at),
        *(at if to is None else to for to in to_blocks),
        num_rows, num_tokens, num_heads, len(parts), 0 in owners, 1 in owners,
        block, size, triton.next_power_of_2(num_heads * size),
    )  # fmt: skip
    return rows, blocks


def give_back(
    rows: Sequence[Tensor], at: Tensor, blocks: Sequence[Tensor | None], tokens: Sequence[Tensor], block: int
) -> None:
    """Write up to three (R, H, T, D) to where they belong in tokens (N, H, D) each.

    blocks: what is added, (blocks, H, R, B, D), to the first and to the second; None: nothing.
    """
    num_rows, num_heads, num_tokens, size = rows[0].shape
    _give_back[(num_rows * num_tokens,)](
        *fill(rows, at), *(at if part is None else part for part in blocks), at, *fill(tokens, at),
        num_rows, num_tokens, num_heads, len(rows), *(part is not None for part in blocks),
        block, size, triton.next_power_of_2(num_heads * size),
    )  # fmt: skip


def fill(parts: Sequence[Tensor], unused: Tensor) -> list[Tensor]:
    """Return three tensors: a kernel has so many arguments, and leaves alone those that it is not to use."""
    return [*parts, *[unused] * (3 - len(parts))]


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
    first, second, third, at, to_first, to_second, to_third, first_blocks, second_blocks,
    num_rows, num_tokens, num_heads, num_parts: tl.constexpr, has_first: tl.constexpr, has_second: tl.constexpr,
    block: tl.constexpr, size: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    row, token = place // num_tokens, place % num_tokens
    number = tl.load(at + place)
    lane = tl.arange(0, width)
    inside = lane < num_heads * size
    there = number.to(tl.int64) * num_heads * size + lane
    in_row = _in_row(row, token, num_tokens, num_heads, size, width)
    in_block = _in_block(row, token, num_rows, num_heads, block, size, width)
    values = tl.load(first + there, mask=inside & (number >= 0), other=0.0)
    tl.store(to_first + in_row, values, mask=inside)
    if has_first:
        tl.store(first_blocks + in_block, values, mask=inside)
    if num_parts > 1:
        values = tl.load(second + there, mask=inside & (number >= 0), other=0.0)
        tl.store(to_second + in_row, values, mask=inside)
        if has_second:
            tl.store(second_blocks + in_block, values, mask=inside)
    if num_parts > 2:
        values = tl.load(third + there, mask=inside & (number >= 0), other=0.0)
        tl.store(to_third + in_row, values, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _give_back(
    first, second, third, first_blocks, second_blocks, at, to_first, to_second, to_third,
    num_rows, num_tokens, num_heads, num_parts: tl.constexpr, has_first: tl.constexpr, has_second: tl.constexpr,
    block: tl.constexpr, size: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    row, token = place // num_tokens, place % num_tokens
    number = tl.load(at + place)
    lane = tl.arange(0, width)
    inside = (lane < num_heads * size) & (number >= 0)
    there = number.to(tl.int64) * num_heads * size + lane
    in_row = _in_row(row, token, num_tokens, num_heads, size, width)
    in_block = _in_block(row, token, num_rows, num_heads, block, size, width)
    values = tl.load(first + in_row, mask=inside, other=0.0).to(tl.float32)
    if has_first:
        values += tl.load(first_blocks + in_block, mask=inside, other=0.0).to(tl.float32)
    tl.store(to_first + there, values.to(to_first.dtype.element_ty), mask=inside)
    if num_parts > 1:
        values = tl.load(second + in_row, mask=inside, other=0.0).to(tl.float32)
        if has_second:
            values += tl.load(second_blocks + in_block, mask=inside, other=0.0).to(tl.float32)
        tl.store(to_second + there, values.to(to_second.dtype.element_ty), mask=inside)
    if num_parts > 2:
        values = tl.load(third + in_row, mask=inside, other=0.0)
        tl.store(to_third + there, values, mask=inside)


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
