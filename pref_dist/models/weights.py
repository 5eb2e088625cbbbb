"""Builds a model's own class of transformers, with random weights or with those of a folder or a run."""

from collections.abc import Collection, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pref_dist.config.model_section import ModelSection
from pref_dist.errors import ModelError
from pref_dist.models.lora import describe_nf4
from pref_dist.models.starting_weights import StartingWeights, check_shapes, find_weight_files, read_tensors

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


def auto_class(settings: ModelSection) -> Any:
    """The class of transformers that builds the model: a decoder's backbone, or an encoder with its family's head."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    return AutoModel if settings.kind == "decoder" else AutoModelForSequenceClassification


def start_randomly(config: Any, settings: ModelSection, seed: int) -> tuple[nn.Module, list[str]]:
    """Return a model with random weights, and the names of all its parameters."""
    torch.manual_seed(seed)
    module: nn.Module = auto_class(settings).from_config(
        config, dtype=DTYPES[settings.weight_dtype], trust_remote_code=False
    )
    return module, inside(module, [name for name, _ in module.named_parameters()])


def load_weights(
    settings: ModelSection, folder: Path, config: Any, start: StartingWeights | None, seed: int
) -> tuple[nn.Module, list[str]]:
    """Return the model and the names of the parameters that were not there. Raises ModelError.

    The head of its class is another run's, the folder's, or, where ours takes its place or the weights are of another
    kind of model, a random one.
    """
    base = settings.lora.base if settings.lora is not None else "fp32"
    dtype = DTYPES[settings.weight_dtype] if base == "fp32" else torch.bfloat16
    more = describe_nf4() if base == "nf4" else {}
    model_class, head_names = describe_class(config, settings)
    tensors = choose_tensors(settings, folder, start, head_names)
    if tensors is None:
        find_weight_files(folder)
    torch.manual_seed(seed)  # for the head of the model's own class
    try:
        module, report = model_class.from_pretrained(
            folder if tensors is None else None,
            state_dict=tensors, config=config, dtype=dtype, output_loading_info=True, use_safetensors=True,
            ignore_mismatched_sizes=True, trust_remote_code=False, **more,
        )  # fmt: skip
    except SafetensorError as error:
        raise ModelError(f"Weights in {folder} are damaged ({error}). Copy or download the folder again.") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error
    is_used = [not (uses_own_head(settings) and name in head_names) for name, *_ in report["mismatched_keys"]]
    check_shapes(list(compress(report["mismatched_keys"], is_used)), head_names, folder, settings)
    return module, inside(module, sorted(report["missing_keys"]))


def choose_tensors(
    settings: ModelSection, folder: Path, start: StartingWeights | None, head_names: Collection[str]
) -> Mapping[str, Tensor] | None:
    """Return the weights to start from, without a head that is not to be taken; None: all that lies in the folder."""
    found = None if start is None else start.tensors
    is_of_another_kind = start is not None and not start.has_head_for(settings)
    if uses_own_head(settings) or not (settings.new_head or is_of_another_kind):
        return found
    whole = read_tensors(folder) if found is None else found
    return {name: tensor for name, tensor in whole.items() if name not in head_names}


def describe_class(config: Any, settings: ModelSection) -> tuple[Any, tuple[str, ...]]:
    """Return the class that transformers builds for a config, and the names of its head's parameters."""
    with torch.device("meta"):
        module = auto_class(settings).from_config(config, trust_remote_code=False)
    return type(module), () if module.base_model is module else find_head_names(module)


def inside(module: nn.Module, names: list[str]) -> list[str]:
    """Return parameter names as they are in a classifier around the module, if it is but a backbone."""
    is_backbone = module.base_model is module
    return [f"{module.base_model_prefix}.{name}" for name in names] if is_backbone else names


def uses_own_head(settings: ModelSection) -> bool:
    """Whether pooling and head are ours, and not those of the model's own class."""
    is_of_the_class = settings.kind == "joint" and settings.pooling == "cls" and settings.head == "default"
    return settings.surface_features or not is_of_the_class


def find_head_names(module: nn.Module) -> tuple[str, ...]:
    """Return the parameters outside the pre-trained encoder (`base_model_prefix` in transformers)."""
    prefix = f"{module.base_model_prefix}."
    return tuple(name for name, _ in module.named_parameters() if not name.startswith(prefix))
