"""Which embedding each distance between two tokens has: all that DeBERTa's position terms depend on."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position


@dataclass(frozen=True)
class Distances:
    """The position embeddings of all distances in rows of up to `longest` tokens.

    first, end: the embeddings that are in reach; only these are projected. places: (2 * longest - 1,) int64, which of
    those has the distance (query's place - key's place) -(longest - 1), ..., longest - 1.
    """

    longest: int
    first: int
    end: int
    places: Tensor


def find_distances(longest: int, num_buckets: int, max_distance: int, device: torch.device) -> Distances:
    """Return what transformers' `build_relative_position` says of all pairs, once for each distance.

    num_buckets: of one direction, `position_buckets`; not positive: every distance up to max_distance has its own.
    """
    # The same expression as transformers', so that float32 rounds alike at the borders of the buckets.
    distances = torch.arange(-(longest - 1), longest, dtype=torch.long, device=device)
    span = max_distance
    if num_buckets > 0:
        span = num_buckets
        distances = make_log_bucket_position(distances, num_buckets, max_distance).to(torch.long)
    places = torch.clamp(distances + span, 0, 2 * span - 1)
    if device.type != "cpu":  # To ask for the reach there would be to wait for it.
        return Distances(longest, 0, 2 * span, places)
    first, last = int(places.min()), int(places.max())
    return Distances(longest, first, last + 1, places - first)
