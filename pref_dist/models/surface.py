"""The surface of texts (`data/surface.py`) as features of a head.

Suffixes: N rows or lines, S texts, F numbers of each, K features.
"""

import torch
from torch import Tensor, nn

from pref_dist.data.surface import SURFACE_FEATURES

NUM_UNITS = 64


class SurfaceLayer(nn.Module):
    """The numbers of S texts as they are, and 64 units over them, so that a head can bend what it makes of a length."""

    def __init__(self, num_texts: int, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        num_numbers = num_texts * len(SURFACE_FEATURES)
        self.num_features = num_numbers + NUM_UNITS
        self.linear = nn.Linear(num_numbers, NUM_UNITS, dtype=dtype)
        # Wider than a head's own: these few numbers are all that a unit sees.
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=num_numbers**-0.5, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, surface_NSF: Tensor) -> Tensor:
        """Return features (N, K), in the type of the weights."""
        numbers_NF = surface_NSF.flatten(1).to(self.linear.weight.dtype)
        with torch.autocast(surface_NSF.device.type, enabled=False):
            return torch.cat((numbers_NF, nn.functional.gelu(self.linear(numbers_NF))), dim=-1)
