"""Encoders with a pooling and a head of ours: the joint cross-encoder.

Suffixes: R rows, L lines of tokens, T tokens, S segments (3), H hidden, F features, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from pref_dist.config.model_section import Head, Pooling
from pref_dist.models.heads import build_head
from pref_dist.models.surface import SurfaceLayer

NUM_SEGMENTS = 3


class EncoderClassifier(nn.Module):
    """The encoder of a transformers classifier, whose parameters keep their transformers names, with another head."""

    def __init__(self, classifier: Any, head_name: str = "classifier") -> None:
        super().__init__()
        self.config = classifier.config
        self.base_model_prefix: str = classifier.base_model_prefix
        self.head_name = head_name
        encoder = classifier.base_model
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # of the first token; parameters that take no part would stop DDP
        self.add_module(self.base_model_prefix, encoder)

    @property
    def encoder(self) -> nn.Module:
        return self.get_submodule(self.base_model_prefix)

    @property
    def head(self) -> nn.Module:
        return self.get_submodule(self.head_name)

    def new_names(self) -> set[str]:
        """Return the names of the parameters above the encoder, which no encoder's weight file holds."""
        return {name for name, _ in self.named_parameters() if not name.startswith(f"{self.base_model_prefix}.")}

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token embeddings, as transformers' own classes do."""
        encoder: Any = self.encoder
        table: nn.Module = encoder.get_input_embeddings()
        return table


def head_type(encoder: nn.Module) -> torch.dtype:
    """The type of a head's weights: that of the encoder's, but never 16 bits, which frozen weights may have."""
    return torch.promote_types(next(encoder.parameters()).dtype, torch.float32)


class PooledClassifier(EncoderClassifier):
    """One sequence a row, pooled to one vector, and a head over it.

    pooling: cls (the first token), mean (of all tokens), last (the last token), or segments: prompt, A, B and A - B,
    where every token of a response reaches the head directly, so that the comparison is learned from far fewer rows
    than through the first token.
    """

    def __init__(
        self,
        classifier: Any,
        pooling: Pooling,
        head: Head,
        head_dropout: float,
        seed: int,
        head_name: str = "classifier",
        has_surface: bool = False,
    ) -> None:
        super().__init__(classifier, head_name)
        self.pooling = pooling
        self.dropout = nn.Dropout(head_dropout) if head == "default" else nn.Identity()  # two_layer has its own
        num_features = self.config.hidden_size * (NUM_SEGMENTS + 1 if pooling == "segments" else 1)
        dtype = head_type(self.encoder)
        self.surface = SurfaceLayer(NUM_SEGMENTS, dtype, seed) if has_surface else None
        num_features += 0 if self.surface is None else self.surface.num_features
        self.add_module(head_name, build_head(head, num_features, head_dropout, self.config, dtype, seed))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        segment_ends: Tensor | None = None,
        surface: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits (R, C); input_ids and attention_mask are (R, T), padded on the right.

        segment_ends: (R, S) exclusive ends of prompt, A and B, for the pooling that reads them. surface: (R, S, F)
        of these texts, where the head reads it.
        """
        hidden_RTH = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        features_RF = self.pool(hidden_RTH, attention_mask, segment_ends)
        features_RF = self.dropout(features_RF.to(next(self.head.parameters()).dtype))
        if self.surface is not None:
            features_RF = torch.cat((features_RF, self.surface(surface)), dim=-1)
        return SequenceClassifierOutput(logits=self.head(features_RF))

    def pool(self, hidden_RTH: Tensor, attention_mask_RT: Tensor, segment_ends_RS: Tensor | None) -> Tensor:
        if self.pooling == "cls":
            return hidden_RTH[:, 0]
        if self.pooling == "last":
            # By the mask: a tokenizer may pad with its end-of-text token, which rows hold, too.
            last_R = attention_mask_RT.sum(dim=1) - 1
            return hidden_RTH[torch.arange(len(last_R), device=last_R.device), last_R]
        if self.pooling == "mean":
            return mean_of_tokens(hidden_RTH, attention_mask_RT)
        assert segment_ends_RS is not None
        prompt_RH, a_RH, b_RH = mean_of_segments(hidden_RTH, attention_mask_RT, segment_ends_RS).unbind(dim=1)
        return torch.cat((prompt_RH, a_RH, b_RH, a_RH - b_RH), dim=-1)


def mean_of_tokens(hidden_LTH: Tensor, attention_mask_LT: Tensor) -> Tensor:
    """Return the mean hidden state of each line's own tokens (L, H), in fp32 or wider; padding never counts."""
    return mean_of_members(hidden_LTH, attention_mask_LT.bool().unsqueeze(1)).squeeze(1)


def mean_of_segments(hidden_RTH: Tensor, attention_mask_RT: Tensor, segment_ends_RS: Tensor) -> Tensor:
    """Return the mean hidden state of each segment's tokens (R, S, H), in fp32 or wider; 0 for an empty one."""
    places_T = torch.arange(hidden_RTH.shape[1], device=hidden_RTH.device)
    segment_RT = (places_T >= segment_ends_RS[:, :-1].unsqueeze(-1)).sum(dim=1)
    numbers_S1 = torch.arange(NUM_SEGMENTS, device=hidden_RTH.device).unsqueeze(-1)
    return mean_of_members(hidden_RTH, (segment_RT.unsqueeze(1) == numbers_S1) & attention_mask_RT.bool().unsqueeze(1))


def mean_of_members(hidden_LTH: Tensor, member_LST: Tensor) -> Tensor:
    """Return the mean over the tokens of each set (L, S, H); `member_LST` says which token is in which set."""
    dtype = torch.promote_types(hidden_LTH.dtype, torch.float32)
    # Outside autocast: a sum over a thousand tokens in 16 bits would lose what it adds last.
    with torch.autocast(hidden_LTH.device.type, enabled=False):
        sums_LSH = torch.bmm(member_LST.to(dtype), hidden_LTH.to(dtype))
    return sums_LSH / member_LST.sum(dim=-1, keepdim=True).clamp(min=1)
