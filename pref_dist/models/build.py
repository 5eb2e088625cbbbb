"""Builds each kind of model on any transformers encoder, and says what was built."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pref_dist.config.model_section import LoraSection, ModelSection
from pref_dist.errors import ConfigError, ModelError
from pref_dist.labels import CLASSES, NUM_CLASSES
from pref_dist.models.decoder import DecoderClassifier, check_kind
from pref_dist.models.joint import EncoderClassifier, PooledClassifier
from pref_dist.models.lora import add_adapters, describe_nf4, keep_base_narrow
from pref_dist.models.siamese import SiameseClassifier

# How the families name their dropouts. What they do with them is checked on the built model.
_ENCODER_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "dropout", "attention_dropout",
    "activation_dropout", "embedding_dropout", "mlp_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop",
)  # fmt: skip
_HEAD_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "cls_dropout", "pooler_dropout", "summary_last_dropout")

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class BuiltModel:
    """A classifier with 3 outputs, transformers' own or ours, on the host, in the master weight type.

    head_names: parameters that are not the pre-trained encoder's.
    new_names: parameters that no weight file held, so that they start at random.
    """

    module: nn.Module
    head_names: tuple[str, ...]
    new_names: tuple[str, ...]

    @property
    def input_embeddings(self) -> nn.Module:
        """The table of token embeddings; its output is (R, T, H)."""
        model: Any = self.module
        table: nn.Module = model.get_input_embeddings()
        return table


def build_model(settings: ModelSection, folder: Path, max_tokens: int, vocab_size: int, seed: int) -> BuiltModel:
    """Load the backbone from `folder` with a new head, or with random weights if settings.from_scratch.

    The weights of head and adapters depend on `seed` alone, on every rank alike.
    Raises ModelError if the weights do not fit, ConfigError if a setting does not.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    config = read_model_config(settings, folder)
    check_positions(settings, folder, max_tokens)
    check_vocabulary(config, vocab_size)
    torch.manual_seed(seed)  # for the head of the model's own class
    module, missing = (
        start_randomly(config, settings) if settings.from_scratch else load_weights(folder, config, settings)
    )
    own = build_own(module, settings, seed)
    if own is not None:
        module = own
        missing = sorted({name for name in missing if name in dict(own.named_parameters())} | own.new_names())
    head_names = find_head_names(module)
    check_new_parameters(missing, head_names, settings, folder)
    if settings.lora is not None:
        missing += adapt(module, settings.lora, missing, seed)
    check_dropouts(module, settings)
    return BuiltModel(module, head_names, tuple(missing))


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
    if settings.kind == "decoder":
        return DecoderClassifier(classifier, settings.head_dropout, seed)
    if settings.kind == "siamese":
        return SiameseClassifier(classifier, settings.head, settings.head_dropout, seed, settings.length_features)
    if settings.pooling == "cls" and settings.head == "default" and not settings.length_features:
        return None
    return PooledClassifier(
        classifier, settings.pooling, settings.head, settings.head_dropout, seed, has_lengths=settings.length_features
    )


def read_model_config(settings: ModelSection, folder: Path) -> Any:
    """Return the transformers config with 3 labelled classes and the run's dropouts."""
    from transformers import AutoConfig

    labels = dict(enumerate(CLASSES))
    try:
        config = AutoConfig.from_pretrained(
            folder, num_labels=NUM_CLASSES, id2label=labels, label2id={name: number for number, name in labels.items()}
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.name={settings.name}: the model's config cannot be read: {error}") from error
    check_kind(config, settings.kind, settings.name)
    if settings.kind == "decoder":
        config.use_cache = False  # of keys and values, for texts that grow
    for names, value in ((_ENCODER_DROPOUTS, settings.dropout), (_HEAD_DROPOUTS, settings.head_dropout)):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, value)
    return config


def check_positions(settings: ModelSection, folder: Path, max_tokens: int) -> None:
    """Raise ConfigError if a row may have more tokens than the model has positions."""
    config = read_model_config(settings, folder)
    places = getattr(config, "max_position_embeddings", None)
    if config.model_type in {"roberta", "xlm-roberta", "camembert"} and places:
        places -= 2  # their first two places stand for padding
    relative = bool(getattr(config, "relative_attention", False)) and not getattr(config, "position_biased_input", True)
    if places and not relative and max_tokens > places:
        raise ConfigError(
            f"data.max_tokens={max_tokens:,}, but the model has {places:,} positions. Lower it to {places:,}."
        )


def check_vocabulary(config: Any, vocab_size: int) -> None:
    """Raise ModelError if the tokenizer gives ids for which the model has no embedding."""
    if vocab_size > config.vocab_size:
        raise ModelError(
            f"The tokenizer knows {vocab_size:,} tokens, but the model only {config.vocab_size:,}. "
            "The folder's tokenizer does not belong to its weights."
        )


def auto_class(settings: ModelSection) -> Any:
    """The class of transformers that builds the model: a decoder's backbone, or an encoder with its family's head."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    return AutoModel if settings.kind == "decoder" else AutoModelForSequenceClassification


def start_randomly(config: Any, settings: ModelSection) -> tuple[nn.Module, list[str]]:
    """Return a model with random weights, and the names of all its parameters."""
    module: nn.Module = auto_class(settings).from_config(config, dtype=DTYPES[settings.weight_dtype])
    return module, inside(module, [name for name, _ in module.named_parameters()])


def load_weights(folder: Path, config: Any, settings: ModelSection) -> tuple[nn.Module, list[str]]:
    """Return the model and the names of the parameters that the files did not hold. Raises ModelError."""
    base = settings.lora.base if settings.lora is not None else "fp32"
    dtype = DTYPES[settings.weight_dtype] if base == "fp32" else torch.bfloat16
    more = describe_nf4() if base == "nf4" else {}
    try:
        module, report = auto_class(settings).from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, use_safetensors=True, trust_remote_code=False,
            **more,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error
    if report["mismatched_keys"]:
        raise ModelError(f"{folder}: weights of another shape: {sorted(report['mismatched_keys'])[:3]}")
    return module, inside(module, sorted(report["missing_keys"]))


def inside(module: nn.Module, names: list[str]) -> list[str]:
    """Return parameter names as they are in a classifier around the module, if it is but a backbone."""
    is_backbone = module.base_model is module
    return [f"{module.base_model_prefix}.{name}" for name in names] if is_backbone else names


def find_head_names(module: nn.Module) -> tuple[str, ...]:
    """Return the parameters outside the pre-trained encoder (`base_model_prefix` in transformers)."""
    prefix = f"{module.base_model_prefix}."
    return tuple(name for name, _ in module.named_parameters() if not name.startswith(prefix))


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
