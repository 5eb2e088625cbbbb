"""torch.compile of a model's layers."""

from torch import nn

from pref_dist.errors import ConfigError
from pref_dist.models.layers import list_layers


def compile_layers(module: nn.Module) -> None:
    """Compile every layer in place, at its first forward.

    Layer by layer, so that equal layers share one compilation; for any batch shape, because micro-batches differ.
    Dropout draws what it would draw without. Raises ConfigError if the model has no layers.
    """
    layers = list_layers(module)
    if not layers:
        raise ConfigError(
            f"parallel.compile=true, but {type(module).__name__} has no list of layers. Set parallel.compile=false."
        )
    for layer in layers.values():
        layer.compile(dynamic=True, options={"fallback_random": True})
