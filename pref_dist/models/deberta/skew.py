"""Products with what belongs to a distance, one column a distance, read as one column a token; without an index.

A block of B queries (or keys) that stand next to each other has M = B + L - 1 distances to L others, in a row. Written
row by row, the product with all of them, (B, M), holds what the pair (b, l) needs at b * M + (l - b + B - 1), which is
b * (M - 1) + l + (B - 1): a view. So going to pairs is a strided read, going back a strided write, and the sum over the
pairs of one distance is a product of matrices. What a block has too much is (B - 1) / L of the product.

Suffixes: R rows, H heads, B block, L tokens of a row, M distances, D size of a head.
"""

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

# At 128 a block's products stay in a CPU's cache; a GPU wants fewer, larger ones.
CPU_BLOCK = 128
GPU_BLOCK = 256


def divide(num_tokens: int, device_type: str) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of near-equal size, and for each the distances from it to all tokens, of 2 * num_tokens - 1."""
    largest = CPU_BLOCK if device_type == "cpu" else GPU_BLOCK
    num_blocks = -(-num_tokens // largest)
    borders = [num_tokens * number // num_blocks for number in range(num_blocks + 1)]
    for first, end in pairwise(borders):
        yield slice(first, end), slice(num_tokens - end, 2 * num_tokens - 1 - first)


def by_distance(block_RHBD: Tensor, of_distance_MHD: Tensor) -> Tensor:
    """Return (H, R * B, M), the products of a block with what belongs to each distance."""
    return with_heads_outside(block_RHBD).bmm(of_distance_MHD.permute(1, 2, 0))


def with_heads_outside(block_RHBD: Tensor) -> Tensor:
    """Return (H, R * B, D): all rows share what belongs to a distance, so they are one factor."""
    return block_RHBD.transpose(0, 1).flatten(1, 2)


def by_pair(products: Tensor, num_rows: int, size: int) -> Tensor:
    """Return the view (R, H, B, L) of contiguous products (H, R * B, M) that has a column for each token."""
    num_heads, _, num_distances = products.shape
    strides = (size * num_distances, num_rows * size * num_distances, num_distances - 1, 1)
    shape = (num_rows, num_heads, size, num_distances - size + 1)
    return products.as_strided(shape, strides, products.storage_offset() + size - 1)
