"""The joint cross-encoder's own pooling: the means over prompt, A and B, each apart, then compared.

Suffixes: R rows, T tokens, S segments (3), H hidden, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from pref_dist.labels import NUM_CLASSES

NUM_SEGMENTS = 3


class SegmentClassifier(nn.Module):
    """The encoder of a transformers classifier, with a linear head over (prompt, A, B, A - B).

    Every token of a response reaches the head directly, so that the comparison is learned from far
    fewer rows than through the first token. Parameters of the encoder keep their transformers names.
    """

    def __init__(self, classifier: Any, head_dropout: float, seed: int) -> None:
        super().__init__()
        self.config = classifier.config
        self.base_model_prefix: str = classifier.base_model_prefix
        encoder = classifier.base_model
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # of the first token; parameters that take no part would stop DDP
        self.add_module(self.base_model_prefix, encoder)
        self.dropout = nn.Dropout(head_dropout)
        self.classifier = build_head(encoder, (NUM_SEGMENTS + 1) * self.config.hidden_size, seed)

    def new_names(self) -> set[str]:
        """Return the names of the head's parameters, which no weight file holds."""
        return {f"classifier.{name}" for name, _ in self.classifier.named_parameters()}

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token embeddings, as transformers' own classes do."""
        encoder: Any = self.get_submodule(self.base_model_prefix)
        table: nn.Module = encoder.get_input_embeddings()
        return table

    def forward(self, input_ids: Tensor, attention_mask: Tensor, segment_ends: Tensor) -> SequenceClassifierOutput:
        """Return logits (R, C); input_ids and attention_mask are (R, T), segment_ends (R, S) exclusive ends."""
        encoder = self.get_submodule(self.base_model_prefix)
        hidden_RTH = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        means_RSH = mean_of_segments(hidden_RTH, attention_mask, segment_ends)
        prompt_RH, a_RH, b_RH = means_RSH.to(self.classifier.weight.dtype).unbind(dim=1)
        features = torch.cat((prompt_RH, a_RH, b_RH, a_RH - b_RH), dim=-1)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(features)))


def build_head(encoder: nn.Module, num_features: int, seed: int) -> nn.Linear:
    """Return the linear head, initialised as the model family initialises its own, from `seed` alone."""
    weight = next(encoder.parameters())
    head = nn.Linear(num_features, NUM_CLASSES, dtype=weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=getattr(encoder.config, "initializer_range", 0.02), generator=generator)
    nn.init.zeros_(head.bias)
    return head


def mean_of_segments(hidden_RTH: Tensor, attention_mask_RT: Tensor, segment_ends_RS: Tensor) -> Tensor:
    """Return the mean hidden state of each segment's tokens (R, S, H), in fp32 or wider; 0 for an empty one."""
    places_T = torch.arange(hidden_RTH.shape[1], device=hidden_RTH.device)
    segment_RT = (places_T >= segment_ends_RS[:, :-1].unsqueeze(-1)).sum(dim=1)
    numbers_S1 = torch.arange(NUM_SEGMENTS, device=hidden_RTH.device).unsqueeze(-1)
    member_RST = (segment_RT.unsqueeze(1) == numbers_S1) & attention_mask_RT.bool().unsqueeze(1)
    dtype = torch.promote_types(hidden_RTH.dtype, torch.float32)
    # Outside autocast: a sum over a thousand tokens in 16 bits would lose what it adds last.
    with torch.autocast(hidden_RTH.device.type, enabled=False):
        sums_RSH = torch.bmm(member_RST.to(dtype), hidden_RTH.to(dtype))
    return sums_RSH / member_RST.sum(dim=-1, keepdim=True).clamp(min=1)
