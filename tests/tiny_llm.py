"""Stand-ins for chat models: random tiny weights of the families' real classes, and a byte-level BPE tokenizer.

As in a published model the weight files hold a causal language model. Rows are padded with eos, which closes turns and
so stands inside rows, too.
"""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

NUM_MERGES = 150
SPECIAL_TOKENS = ("<|begin|>", "<|start|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,  # so that attention and adapters matter
}
FAMILIES = ("llama", "gemma2", "qwen2", "qwen3")


def write_tiny_llm(folder: Path, corpus: Path, family: str = "llama") -> Path:
    """Write a random causal LM of 2 layers x 32 with a tokenizer made of the text in `corpus`."""
    import torch
    from transformers import AutoModelForCausalLM

    vocab_size = write_tokenizer(folder, corpus.read_text(encoding="utf-8"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config(family, vocab_size)).save_pretrained(folder)
    return folder


def tiny_config(family: str, vocab_size: int) -> Any:
    from transformers import Gemma2Config, LlamaConfig, Qwen2Config, Qwen3Config

    sizes = {**SIZES, "vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if family == "llama":
        return LlamaConfig(**sizes)
    if family == "gemma2":
        # Both kinds of layers: within a window, and everywhere.
        return Gemma2Config(**sizes, head_dim=8, query_pre_attn_scalar=8, sliding_window=32)
    return Qwen2Config(**sizes) if family == "qwen2" else Qwen3Config(**sizes, head_dim=8)


def write_tokenizer(folder: Path, text: str) -> int:
    """Write a tokenizer of bytes, special tokens and the most frequent merges; return the number of its tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = count_merges(text)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(left + right for left, right in merges)])
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    # The tokenizer classes of some families would else add tokens of their own, also one for padding.
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|end|>", "unk_token": "<|end|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    made.chat_template = CHAT_TEMPLATE
    made.save_pretrained(folder)
    return len(tokens) + len(SPECIAL_TOKENS)


def count_merges(text: str) -> list[tuple[str, str]]:
    """Return the merges of byte-pair encoding on the words of a text, most frequent first.

    Not trained by the library, which breaks ties otherwise each time; see `tiny_model.list_pieces`.
    """
    counts = Counter(re.findall(r" ?[a-z]{2,}", text))
    words = {tuple(word.replace(" ", "Ġ")): count for word, count in counts.items()}
    merges = []
    for _ in range(NUM_MERGES):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {merge(word, best): count for word, count in words.items()}
    return merges


def merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    pieces: list[str] = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(pieces)
