"""Which response of a row is shown first: drawn, or both; and what exchanging the two means for tokens and labels.

A row is tokenised and cut once, in the order of its file. The policies that treat A and B alike cut the swapped row
to the same texts, so that its tokens are those of the row with the two texts exchanged.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pref_dist.config.schema import DataSection
from pref_dist.config.train_section import Swap
from pref_dist.data.encode import RowEncoder, TokenizerSpec
from pref_dist.data.mixing import mix64
from pref_dist.data.templates import num_sequences
from pref_dist.errors import ConfigError

EVEN_HANDED = ("fair", "last_rounds")

# The segments of a swapped row: prompt, B, A.
SWAPPED_SEGMENTS = (0, 2, 1)

_ORDER_KEY = np.uint64(0x6F72646572)  # "order": so that orders are not drawn by the words that draw the plan


class SwapFrame(NamedTuple):
    """What stays where it is when A and B of a joint row change places: tokens around the text of each."""

    header_a: int
    ending_a: int
    header_b: int
    ending_b: int


def build_swap_frame(tokenizer: TokenizerSpec, data: DataSection) -> SwapFrame | None:
    """Return what is needed to swap rows of one sequence; None where that cannot be done, or takes no frame."""
    if num_sequences(data.template) == 2 or not can_swap(data):
        return None
    encoder = RowEncoder(tokenizer, data.max_tokens, data.template, data.truncation, data.clean)
    _, header_a, header_b = encoder.template.header_lengths
    return SwapFrame(header_a, len(encoder.frame.separator), header_b, len(encoder.frame.closing))


def can_swap(data: DataSection) -> bool:
    """Return whether swapping the tokens of a row gives the tokens of the swapped row."""
    if num_sequences(data.template) == 2:
        return True  # each side is cut by itself
    return not data.template.startswith("seed_") and data.truncation in EVEN_HANDED


def check_swap(data: DataSection, setting: str, value: str) -> None:
    """Raise ConfigError if `setting` asks for swapped rows and the tokens cannot be swapped."""
    if value != "none" and not can_swap(data):
        raise ConfigError(
            f"{setting}={value} with data.template={data.template} and data.truncation={data.truncation}: there the "
            "response that stands first is cut otherwise than the second, so that the swapped row has other tokens. "
            "Use data.template=joint with data.truncation=fair or last_rounds, or a siamese template."
        )


def draw_orders(rows: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.bool_]:
    """Return for each row (of any shape) whether it is swapped in this epoch: a fair coin of (seed, epoch, row)."""
    key = mix64(np.uint64(seed) ^ mix64(np.uint64(epoch) ^ mix64(_ORDER_KEY)))
    return (mix64(rows.astype(np.uint64) ^ key) >> np.uint64(63)).astype(np.bool_)


def orders_of(rows: NDArray[np.int64], swap: Swap, seed: int, epoch: int) -> NDArray[np.bool_] | None:
    """Return whether each of a step's rows (..., R) is swapped; None: none is.

    With `paired` a row stands there twice, one beside the other.
    """
    if swap == "none":
        return None
    if swap == "random":
        return draw_orders(rows, seed, epoch)
    return np.broadcast_to(np.arange(rows.shape[-1]) % 2 == 1, rows.shape)


def swap_tokens(
    ids: NDArray[np.int32], ends: NDArray[np.int32], frame: SwapFrame
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the tokens (T,) and segment ends (3,) of a joint row with the texts of A and B exchanged."""
    prompt, a, b = ends
    head_a, text_a, end_a = np.split(ids[prompt:a], [frame.header_a, a - prompt - frame.ending_a])
    head_b, text_b, end_b = np.split(ids[a:b], [frame.header_b, b - a - frame.ending_b])
    swapped = np.concatenate((ids[:prompt], head_a, text_b, end_a, head_b, text_a, end_b))
    return swapped, np.array([prompt, prompt + frame.header_a + len(text_b) + frame.ending_a, b], dtype=ends.dtype)
