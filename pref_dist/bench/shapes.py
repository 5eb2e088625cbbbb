"""Architectures whose weights may be out of reach: the public config values, random weights, another's tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

from pref_dist.bench.parts import ModelQuestion

DEBERTA_V3: dict[str, Any] = {
    "model_type": "deberta-v2", "vocab_size": 128100, "type_vocab_size": 0, "max_position_embeddings": 512,
    "relative_attention": True, "max_relative_positions": -1, "position_buckets": 256, "position_biased_input": False,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "layer_norm_eps": 1e-7,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02,
    "pooler_dropout": 0.0, "pooler_hidden_act": "gelu", "pad_token_id": 0,
}  # fmt: skip


def deberta(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return DEBERTA_V3 | {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": 4 * hidden, "pooler_hidden_size": hidden,
    }  # fmt: skip


SHAPES: dict[str, dict[str, Any]] = {
    "deberta-v3-xsmall": deberta(384, 12, 6),
    "deberta-v3-small": deberta(768, 6, 12),
    "deberta-v3-base": deberta(768, 12, 12),
    "deberta-v3-large": deberta(1024, 24, 16),
    # With as many positions as the cap asks for, to see how time grows with it.
    "minilm-l6": {
        "model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536, "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "pad_token_id": 0,
    },
}  # fmt: skip


def config_values(shape: str, max_tokens: int) -> dict[str, Any]:
    """Return the config of a shape; absolute positions become as many as `max_tokens` needs, relative ones stay."""
    values = SHAPES[shape]
    if values.get("relative_attention"):
        return values
    return values | {"max_position_embeddings": max(max_tokens, values["max_position_embeddings"])}


def write_random_model(question: ModelQuestion) -> dict[str, Any]:
    """Write a model folder of the shape, with random weights and the tokenizer of another; return its path."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder = Path(question.folder)
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(Path(question.tokenizer), folder)
    (folder / "config.json").write_text(json.dumps(config_values(question.shape, question.max_tokens)), "utf-8")
    torch.manual_seed(0)
    AutoModel.from_config(
        AutoConfig.from_pretrained(folder, trust_remote_code=False), trust_remote_code=False
    ).save_pretrained(folder)
    return {"model": str(folder)}


def copy_tokenizer(source: Path, folder: Path) -> None:
    for pattern in ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"):
        for path in source.glob(pattern):
            shutil.copyfile(path, folder / path.name)
