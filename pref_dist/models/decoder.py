"""Causal language models as judges: the backbone without its LM head, and three logits on the last real token."""

from typing import Any

from torch import nn

from pref_dist.errors import ModelError
from pref_dist.labels import NUM_CLASSES
from pref_dist.models.heads import initialise
from pref_dist.models.joint import PooledClassifier, head_type

# A causal LM by name that reads in both directions.
NOT_CAUSAL = frozenset({"xlnet"})


class DecoderClassifier(PooledClassifier):
    """A causal backbone (Llama, Gemma-2, Qwen, ...), whose last real token has seen the whole row.

    The head is called `score` and has no bias, as in transformers' own classes.
    """

    def __init__(self, backbone: Any, head_dropout: float, seed: int) -> None:
        super().__init__(backbone, "last", "default", head_dropout, seed, head_name="score")
        score = nn.Linear(self.config.hidden_size, NUM_CLASSES, bias=False, dtype=head_type(self.encoder))
        self.score = initialise(score, getattr(self.config, "initializer_range", 0.02), seed)


def is_causal(config: Any) -> bool:
    """Whether a transformers config is of a family of decoders: a causal LM that is no masked LM, too."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    is_masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in NOT_CAUSAL
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not is_masked


def check_kind(config: Any, kind: str, name: str) -> None:
    """Raise ModelError if a decoder is asked for and the model is none, or the reverse."""
    if kind != "decoder" and is_causal(config):
        raise ModelError(
            f"model.kind={kind}, but model.name={name} is a decoder ({config.model_type}), whose tokens see only what "
            "stands before them. Use model.kind=decoder."
        )
    if kind == "decoder" and not is_causal(config):
        raise ModelError(
            f"model.kind=decoder, but model.name={name} ({config.model_type}) is no causal language model that this "
            "version of transformers knows. Use model.kind=joint or siamese, or a decoder such as Llama, Gemma or Qwen."
        )
    if kind == "decoder" and not (hasattr(config, "hidden_size") and hasattr(config, "vocab_size")):
        raise ModelError(
            f"model.name={name} ({config.model_type}) is made of several models, and not all of them read text. Use a "
            "folder with the language model alone."
        )
