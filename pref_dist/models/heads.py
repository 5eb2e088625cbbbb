"""What stands between the encoder and the three logits. The order of classes is A, B, tie.

Suffixes: L sequences, P rows as they are shown, F features, H hidden, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pref_dist.config.model_section import Head
from pref_dist.labels import NUM_CLASSES


class TwoLayerHead(nn.Module):
    """Dropout, a dense layer as wide as the encoder, tanh, dropout, a linear layer: RoBERTa's own kind of head."""

    def __init__(self, num_features: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(num_features, hidden_size)
        self.out_proj = nn.Linear(hidden_size, NUM_CLASSES)

    def forward(self, features_PF: Tensor) -> Tensor:
        """Return logits (P, C)."""
        hidden_PH = torch.tanh(self.dense(self.dropout(features_PF)))
        logits: Tensor = self.out_proj(self.dropout(hidden_PH))
        return logits


class ConcatHead(nn.Module):
    """Both embeddings side by side, then one linear layer: the head of the first notebook."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * hidden_size, NUM_CLASSES)

    def forward(self, a_PH: Tensor, b_PH: Tensor) -> Tensor:
        """Return logits (P, C) of the embeddings of the first and the second response."""
        logits: Tensor = self.linear(torch.cat((a_PH, b_PH), dim=-1))
        return logits


class DifferenceHead(nn.Module):
    """One linear layer over (A, B, A - B, A * B): InferSent's features (Conneau et al. 2017), with a sign."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * hidden_size, NUM_CLASSES)

    def forward(self, a_PH: Tensor, b_PH: Tensor) -> Tensor:
        """As ConcatHead."""
        logits: Tensor = self.linear(torch.cat((a_PH, b_PH, a_PH - b_PH, a_PH * b_PH), dim=-1))
        return logits


class AntisymmetricHead(nn.Module):
    """A score of each response, and one of a tie that cannot tell which is which.

    Bradley and Terry's model with ties (Davidson 1970), its tie depending on the two responses. Exchanging them
    exchanges the logits of A and B, to the bit: each score is a function of one embedding, the tie's features (sum,
    distance, product) are symmetric in floating point, and products are summed row by row, where a matrix product
    would round a row by its place in the matrix.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)
        self.tie = nn.Linear(3 * hidden_size, 1)

    def forward(self, a_PH: Tensor, b_PH: Tensor) -> Tensor:
        """As ConcatHead; in fp32 or wider."""
        score_H, tie_F = self.score.weight.squeeze(0), self.tie.weight.squeeze(0)
        both_PF = torch.cat((a_PH + b_PH, (a_PH - b_PH).abs(), a_PH * b_PH), dim=-1)
        scores = (a_PH * score_H).sum(dim=-1), (b_PH * score_H).sum(dim=-1)
        return torch.stack((*scores, (both_PF * tie_F).sum(dim=-1) + self.tie.bias), dim=-1)


HEADS: dict[Head, type[ConcatHead | DifferenceHead | AntisymmetricHead]] = {
    "concat": ConcatHead,
    "difference": DifferenceHead,
    "antisymmetric": AntisymmetricHead,
}


def build_head(head: Head, num_features: int, dropout: float, config: Any, dtype: torch.dtype, seed: int) -> nn.Module:
    """Return a head whose weights depend on `seed` alone.

    default and two_layer read one vector (P, num_features) a row, the siamese ones two such. Weights
    are drawn as the model family draws its own: normal, `initializer_range` of its config wide, biases 0.
    """
    module: nn.Module
    if head == "default":
        module = nn.Linear(num_features, NUM_CLASSES)
    elif head == "two_layer":
        module = TwoLayerHead(num_features, config.hidden_size, dropout)
    else:
        module = HEADS[head](num_features)
    return initialise(module.to(dtype), getattr(config, "initializer_range", 0.02), seed)


def initialise(module: nn.Module, spread: float, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for linear in (part for part in module.modules() if isinstance(part, nn.Linear)):
        nn.init.normal_(linear.weight, std=spread, generator=generator)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    return module
