"""A model's transformers config, as a run asks for it: classes, dropouts, and whether rows fit."""

import json
from pathlib import Path
from typing import Any

from pref_dist.config.model_section import ModelSection
from pref_dist.errors import ConfigError, ModelError
from pref_dist.labels import CLASSES, NUM_CLASSES
from pref_dist.models.decoder import check_kind

# How the families name their dropouts. What they do with them is checked on the built model.
_ENCODER_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "dropout", "attention_dropout",
    "activation_dropout", "embedding_dropout", "mlp_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop",
)  # fmt: skip
_HEAD_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "cls_dropout", "pooler_dropout", "summary_last_dropout")


def read_model_config(settings: ModelSection, folder: Path) -> Any:
    """Return the transformers config with 3 labelled classes and the run's dropouts."""
    from transformers import AutoConfig

    labels = dict(enumerate(CLASSES))
    try:
        config = AutoConfig.from_pretrained(
            folder,
            num_labels=NUM_CLASSES,
            id2label=labels,
            label2id={name: number for number, name in labels.items()},
            trust_remote_code=False,
        )
    except Exception as error:  # transformers raises many kinds, of damaged values, too
        raise ModelError(explain_config(settings, folder, error)) from error
    check_kind(config, settings.kind, settings.name)
    if settings.kind == "decoder":
        config.use_cache = False  # of keys and values, for texts that grow
    else:
        check_class(config, settings)
    for names, value in ((_ENCODER_DROPOUTS, settings.dropout), (_HEAD_DROPOUTS, settings.head_dropout)):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, value)
    return config


def explain_config(settings: ModelSection, folder: Path, error: Exception) -> str:
    """Return what is wrong with a model's config.json, and the remedy."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as damage:
        return f"model.name={settings.name}: {path} is damaged ({damage}). Copy or download the folder again."
    model_type = values.get("model_type") if isinstance(values, dict) else None
    reason = str(error).strip().split("\n")[0].rstrip(".")
    if model_type is None:
        return (
            f"model.name={settings.name}: {path} names no model_type, so it is not a transformers model's ({reason}). "
            "Name another folder, or download it again."
        )
    return (
        f"model.name={settings.name}: this version of transformers cannot read a config of model_type {model_type!r} "
        f"({reason}). Code that a folder carries is never run: use a model that transformers knows itself, such as "
        "bert, roberta, electra, deberta-v2 or modernbert, or install a newer transformers."
    )


def check_class(config: Any, settings: ModelSection) -> None:
    """Raise ModelError if transformers has no sequence classifier for the model."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"model.name={settings.name} ({config.model_type}) is an architecture for which transformers has no "
            "sequence classifier. Use a text encoder, such as bert, roberta, electra, deberta-v2 or modernbert."
        )


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
