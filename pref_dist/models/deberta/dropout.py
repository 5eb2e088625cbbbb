"""Which attention probabilities are dropped: the one place of this room that draws random numbers."""

import torch
from torch import Tensor

from pref_dist.models.dropout import RESOLUTION, count_dropped, draw_kept


def round_probability(probability: float, device: torch.device) -> float:
    """Return the probability that can really be drawn on a device, see `models/dropout.py`."""
    return count_dropped(probability) / RESOLUTION if device.type == "cpu" else probability


def draw_dropped(shape: torch.Size, probability: float, device: torch.device) -> Tensor:
    """Return a bool tensor, each element True with this probability, as torch's generator of the device decides."""
    if device.type == "cpu":
        return draw_kept(shape, count_dropped(probability)) == 0
    return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(probability)
