"""Activation checkpointing: the layers' activations are computed again in the backward, instead of being kept."""

from torch import nn

from pref_dist.errors import ModelError
from pref_dist.models.joint import EncoderClassifier


def recompute_activations(module: nn.Module) -> None:
    """Let every layer keep its inputs alone; from them the backward computes the rest again, dropout masks included.

    Raises ModelError if the model's class cannot.
    """
    encoder = module.encoder if isinstance(module, EncoderClassifier) else module
    # The second is its name before transformers 5.23.
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        enable = getattr(encoder, name, None)
        if enable is not None and getattr(encoder, "supports_gradient_checkpointing", False):
            # The other kind, reentrant, loses the gradient where a layer's inputs are keyword arguments.
            enable({"use_reentrant": False})
            return
    raise ModelError(
        f"parallel.activation_checkpointing=true, but {type(encoder).__name__} cannot compute its activations again "
        "(transformers: supports_gradient_checkpointing). Set it to false and lower train.token_budget, or use "
        "another model.name."
    )
