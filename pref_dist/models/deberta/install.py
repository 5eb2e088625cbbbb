"""Exchanges the classes of a model's encoder and attention modules, and nothing else of them."""

from torch import nn
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2Encoder,
    DebertaV2Model,
    DisentangledSelfAttention,
)

from pref_dist.errors import ModelError
from pref_dist.models.deberta.modules import FastDisentangledSelfAttention, FastEncoder

# By the exact class: a subclass may compute something else.
FAST = {DebertaV2Encoder: FastEncoder, DisentangledSelfAttention: FastDisentangledSelfAttention}


def install(model: nn.Module) -> None:
    """See `use_fast_attention`."""
    if not isinstance(model, DebertaV2Model):
        raise ModelError(
            f"model.attention=fast is for DeBERTa-v2 and v3, but this is a {type(model).__name__}. "
            "Set model.attention=auto."
        )
    for module in model.modules():
        if type(module) in FAST:
            module.__class__ = FAST[type(module)]
    _check_is_fast(model)


def _check_is_fast(model: DebertaV2Model) -> None:
    slow = [
        name
        for name, module in model.named_modules()
        if isinstance(module, tuple(FAST)) and not isinstance(module, tuple(FAST.values()))
    ]
    if slow:
        raise ModelError(
            f"model.attention=fast: {len(slow)} modules of {type(model).__name__} are not transformers' own "
            f"({slow[0]} is a {type(model.get_submodule(slow[0])).__name__}). Set model.attention=transformers."
        )
