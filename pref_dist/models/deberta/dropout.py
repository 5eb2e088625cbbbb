"""Which attention probabilities are dropped: the one place of this room that draws random numbers."""

import torch
from torch import Tensor


def draw_dropped(shape: torch.Size, probability: float, device: torch.device) -> Tensor:
    """Return a bool tensor, each element True with this probability, from torch's generator of the device."""
    return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(probability)
