"""Where the layers of a transformer are, whatever its family calls them."""

from collections.abc import Iterator

from torch import nn


def list_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return what stands in the model's outermost lists of modules, by name, in the model's order: bottom first.

    Those are the layers of any transformer. A model without such a list has none.
    """
    return dict(_walk(module, "", is_in_list=False))


def layer_numbers(module: nn.Module, layers: list[str]) -> dict[str, int]:
    """Return how high every parameter stands: 0 below the layers, 1 to n in them, n + 1 above them.

    `layers` are the names of the n layers, from the bottom. Below them is what comes before them in the model's
    order or is called an embedding, and what DeBERTa's encoder holds beside its layers, which serves them.
    """
    # "deberta.encoder.", which also holds a norm and a convolution
    helped = tuple(f"{name}." for name, part in module.named_modules() if hasattr(part, "rel_embeddings"))
    numbers: dict[str, int] = {}
    is_past = False
    for name, _ in module.named_parameters():
        inside = [number for number, layer in enumerate(layers, 1) if name.startswith(f"{layer}.")]
        is_past = is_past or bool(inside)
        is_below = not is_past or "embed" in name or name.startswith(helped)
        numbers[name] = inside[0] if inside else 0 if is_below else len(layers) + 1
    return numbers


def _walk(part: nn.Module, prefix: str, is_in_list: bool) -> Iterator[tuple[str, nn.Module]]:
    # Not the lists of adapters that a single layer may have (models/lora.py).
    children = () if hasattr(part, "base_layer") else part.named_children()
    for name, child in children:
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _walk(child, f"{prefix}{name}.", is_in_list=True)
        elif is_in_list:
            yield f"{prefix}{name}", child
        else:
            yield from _walk(child, f"{prefix}{name}.", is_in_list=False)
