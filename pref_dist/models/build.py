"""Builds each kind of model on any transformers encoder, and says what was built."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pref_dist.config.model_section import LoraSection, ModelSection
from pref_dist.errors import ModelError
from pref_dist.models.decoder import DecoderClassifier
from pref_dist.models.dropout import use_cheap_dropout
from pref_dist.models.joint import EncoderClassifier, PooledClassifier
from pref_dist.models.lora import add_adapters, keep_base_narrow
from pref_dist.models.model_config import check_positions, check_vocabulary, read_model_config
from pref_dist.models.packing import settle_attention
from pref_dist.models.row_embedding import train_by_rows
from pref_dist.models.siamese import SiameseClassifier
from pref_dist.models.starting_weights import StartingWeights, explain_labels, read_export, read_tensors
from pref_dist.models.weights import find_head_names, load_weights, start_randomly, uses_own_head


@dataclass(frozen=True)
class BuiltModel:
    """A classifier with 3 outputs, transformers' own or ours, on the host, in the master weight type.

    head_names: parameters that are not the pre-trained encoder's.
    new_names: parameters that no weight file held, so that they start at random.
    notes: lines about what it starts from that somebody should see.
    attention: what runs, "packed", "fast" or "transformers" (see `models/packing.py`).
    """

    module: nn.Module
    head_names: tuple[str, ...]
    new_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    attention: str = "transformers"

    @property
    def input_embeddings(self) -> nn.Module:
        """The table of token embeddings; its output is (R, T, H), or (1, N, H) of packed rows."""
        model: Any = self.module
        table: nn.Module = model.get_input_embeddings()
        return table


def build_model(
    settings: ModelSection,
    folder: Path,
    max_tokens: int,
    vocab_size: int,
    seed: int,
    start: StartingWeights | None = None,
) -> BuiltModel:
    """Load the backbone from `folder` with a new head, or with random weights if settings.from_scratch.

    A folder that holds a head of the same kind gives that, too, unless settings.new_head. `start`: weights to take
    instead of the folder's, which then has but the config. What starts at random (head, adapters) depends on
    `seed` alone, on every rank alike. Raises ModelError if the weights do not fit, ConfigError if a setting does not.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    config = read_model_config(settings, folder)
    check_positions(settings, folder, max_tokens)
    check_vocabulary(config, vocab_size)
    if settings.from_scratch:
        start = None
        module, missing = start_randomly(config, settings, seed)
    else:
        start = start or read_export(folder)
        module, missing = load_weights(settings, folder, config, start, seed)
    own = build_own(module, settings, seed)
    if own is not None:
        module = own
        # The class's own head, which ours replaces, may have had the same names.
        lost = {name for name, _ in own.named_parameters() if name in missing} - own.new_names()
        is_filled = start is not None and fill_head(own, start, settings, folder)
        missing = sorted(lost if is_filled else lost | own.new_names())
    head_names = find_head_names(module)
    check_new_parameters(missing, head_names, settings, folder)
    notes = note_start(settings, folder, start, head_names, missing)
    if settings.lora is not None:
        missing += adapt(module, settings.lora, missing, seed)
    check_dropouts(module, settings)
    use_cheap_dropout(module)
    built = BuiltModel(module, head_names, tuple(missing), notes, settle_attention(module, settings))
    if settings.embeddings == "frozen":
        built.input_embeddings.requires_grad_(False)
    if settings.embeddings == "sparse":
        train_by_rows(module, built.input_embeddings)
    return built


def note_start(
    settings: ModelSection,
    folder: Path,
    start: StartingWeights | None,
    head_names: Iterable[str],
    missing: Iterable[str],
) -> tuple[str, ...]:
    if start is not None:
        return (start.explain(settings),)
    is_head_loaded = not settings.from_scratch and not set(head_names) & set(missing)
    return explain_labels(folder) if is_head_loaded else ()


def fill_head(module: EncoderClassifier, start: StartingWeights, settings: ModelSection, folder: Path) -> bool:
    """Copy a trained head into a model with one of ours; return whether it was wanted and there."""
    if settings.new_head or not start.has_head_for(settings):
        return False
    parameters, names = dict(module.named_parameters()), module.new_names()
    tensors = read_tensors(folder, names) if start.tensors is None else start.tensors
    lost = sorted(names - tensors.keys())
    if lost:
        raise ModelError(f"The weights of {start.origin} lack {len(lost)} of the head (first: {lost[0]}).")
    with torch.no_grad():
        for name in names:
            parameters[name].copy_(tensors[name])
    return True


def adapt(module: nn.Module, settings: LoraSection, missing: list[str], seed: int) -> list[str]:
    """Freeze the backbone but for what no weight file held, and give it adapters; return the adapters' names."""
    before = {name for name, _ in module.named_parameters()}
    prefix = str(module.base_model_prefix)
    if settings.base != "fp32":
        keep_base_narrow(module.get_submodule(prefix))
    add_adapters(module, prefix, settings, missing, seed)
    adapters = (name for name, parameter in module.named_parameters() if parameter.requires_grad)
    return [name for name in adapters if name not in before]


def build_own(classifier: nn.Module, settings: ModelSection, seed: int) -> EncoderClassifier | None:
    """Put pooling and head of ours on the encoder of a transformers model; None: the class's own are asked for."""
    if not uses_own_head(settings):
        return None
    if settings.kind == "decoder":
        return DecoderClassifier(classifier, settings.head_dropout, seed)
    if settings.kind == "siamese":
        return SiameseClassifier(classifier, settings.head, settings.head_dropout, seed, settings.surface_features)
    return PooledClassifier(
        classifier, settings.pooling, settings.head, settings.head_dropout, seed, has_surface=settings.surface_features
    )


def check_new_parameters(
    missing: Iterable[str], head_names: Iterable[str], settings: ModelSection, folder: Path
) -> None:
    """Raise if a part of the encoder itself would start at random without being asked to."""
    if settings.from_scratch:
        return
    lost = [name for name in missing if name not in set(head_names) and "pooler" not in name]
    if lost:
        raise ModelError(
            f"{folder}: the weight files lack {len(lost)} parameters of the encoder (first: {lost[0]}), which would "
            "start at random. Name a complete model, or set model.from_scratch=true to train from random weights."
        )


def check_dropouts(module: nn.Module, settings: ModelSection) -> None:
    """Raise if a dropout of the built model has another probability than the run asks for."""
    allowed = {settings.dropout, settings.head_dropout}
    if settings.lora is not None:
        allowed.add(settings.lora.dropout)
    for name, part in module.named_modules():
        if "dropout" not in type(part).__name__.lower():
            continue
        found = getattr(part, "p", getattr(part, "drop_prob", 0.0))
        if found not in allowed:
            raise ModelError(
                f"{name} has dropout {found}, not model.dropout={settings.dropout} or "
                f"model.head_dropout={settings.head_dropout}: this model family names its dropouts in a way "
                "that pref_dist does not know yet."
            )


def describe_parameters(module: nn.Module) -> list[tuple[str, tuple[int, ...], int]]:
    """Return (name, shape, count) of every parameter, in the model's order."""
    return [(name, tuple(value.shape), value.numel()) for name, value in module.named_parameters()]


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
