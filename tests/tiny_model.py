"""A model folder small enough for a test: two layers of BERT, random weights from a seed, a real tokenizer."""

import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

TINY_VOCABULARY_SIZE = 400


def write_tiny_model(folder: Path, corpus: Path) -> Path:
    """Write a BERT of 2 layers x 32 with a WordPiece tokenizer made of the text in `corpus`."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = list_pieces(corpus.read_text(encoding="utf-8").lower())
    made = BertWordPieceTokenizer({piece: number for number, piece in enumerate(vocabulary)}, lowercase=True)
    made.save(str(folder / "tokenizer.json"))
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=TINY_VOCABULARY_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def write_random(config: Any, folder: Path) -> Path:
    """Write the backbone of a transformers config, with random weights that are always the same, and no tokenizer."""
    import torch
    from transformers import AutoModel

    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def list_pieces(text: str) -> list[str]:
    """Return special tokens, every character at a word's start and inside, and the most frequent words.

    Not trained: the trainer breaks ties otherwise each time, and golden curves need one vocabulary.
    """
    characters = sorted(set(text) - set(string.whitespace))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters)]
    counts = Counter(re.findall(r"[a-z]{2,}", text))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return (pieces + words)[:TINY_VOCABULARY_SIZE]
