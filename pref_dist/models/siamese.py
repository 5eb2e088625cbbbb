"""The siamese encoder: the prompt with each response through one encoder, and a head that compares the two.

Suffixes: L lines of tokens (two a row), T tokens, P rows as they are shown, H hidden, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from pref_dist.config.model_section import Head
from pref_dist.models.heads import build_head
from pref_dist.models.joint import EncoderClassifier, head_type, mean_of_tokens
from pref_dist.models.surface import SurfaceLayer

NUM_TEXTS = 2  # of a sequence: prompt and response


class SiameseClassifier(EncoderClassifier):
    """Masked means of two sequences a row, and a head over them: concat, difference or antisymmetric.

    All sequences of a micro-batch go through the encoder in one forward. A row that is shown in both orders has its
    two sequences there once, and its second order costs only the head.
    """

    def __init__(self, classifier: Any, head: Head, head_dropout: float, seed: int, has_surface: bool = False) -> None:
        super().__init__(classifier)
        self.dropout = nn.Dropout(head_dropout)
        dtype = head_type(self.encoder)
        self.surface = SurfaceLayer(NUM_TEXTS, dtype, seed) if has_surface else None
        num_features = self.config.hidden_size + (0 if self.surface is None else self.surface.num_features)
        self.classifier = build_head(head, num_features, head_dropout, self.config, dtype, seed)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, sides: Tensor, surface: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return logits (P, C); input_ids and attention_mask are (L, T), padded on the right.

        sides: (P, 2) which lines hold the first and the second response of each row. surface: (L, 2, F) of
        each line's prompt and response, where the head reads it.
        """
        hidden_LTH = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # One dropout mask a sequence, so that both orders of a row see the same embeddings.
        embeddings_LH = self.dropout(mean_of_tokens(hidden_LTH, attention_mask))
        embeddings_LH = embeddings_LH.to(next(self.classifier.parameters()).dtype)
        if self.surface is not None:
            embeddings_LH = torch.cat((embeddings_LH, self.surface(surface)), dim=-1)
        first_PH, second_PH = embeddings_LH[sides].unbind(dim=1)
        # In full precision (but in ZeRO's fp16 engine, which halves all weights): it compares what may differ little.
        with torch.autocast(input_ids.device.type, enabled=False):
            logits_PC = self.classifier(first_PH, second_PH)
        return SequenceClassifierOutput(logits=logits_PC)
