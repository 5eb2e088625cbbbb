"""Tokens of many texts at once; for BERT's kind of tokenizer plain ASCII goes a shorter way to the same ids."""

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

# What BERT's normaliser removes from ASCII; everything else it only makes lower-case.
REMOVED_BY_BERT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# What its pre-tokenizer makes of lower-case ASCII: runs of letters and digits, and single signs.
WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
# Words that are remembered at a time, and how long one may be: base64 and the like come once and never again.
MAX_WORDS = 2**18
MAX_WORD_CHARACTERS = 32


class TextTokenizer:
    """Encodes texts without special tokens, exactly as `backend` does.

    A WordPiece tokenizer does word by word what it has done a thousand times: in a million words of text
    some 27,000 differ. So plain ASCII texts are cut into words here, and each word is looked up.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend
        self.words = WordMemo(backend) if takes_words_apart(backend) else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        if self.words is None:
            return encode_all(self.backend, texts)
        are_plain = [text.isascii() and not REMOVED_BY_BERT.search(text) for text in texts]
        others = (text for text, is_plain in zip(texts, are_plain, strict=True) if not is_plain)
        encoded = iter(encode_all(self.backend, list(others)))
        return [
            self.words.encode(text) if is_plain else next(encoded)
            for text, is_plain in zip(texts, are_plain, strict=True)
        ]


class WordMemo(dict[str, list[int]]):
    """The ids of words of lower-case ASCII, as `backend` gives them."""

    def __init__(self, backend: Tokenizer) -> None:
        super().__init__()
        self.backend = backend

    def __missing__(self, word: str) -> list[int]:
        ids = list(self.backend.encode(word, add_special_tokens=False).ids)
        if len(word) <= MAX_WORD_CHARACTERS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids

    def encode(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self.__getitem__, WORD.findall(text.lower()))))


def encode_all(backend: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def takes_words_apart(backend: Tokenizer) -> bool:
    """Return whether a tokenizer is BERT's, lower-case, and looks for no words of its own in texts."""
    parts: dict[str, Any] = json.loads(backend.to_str())
    normalizer, pre_tokenizer = parts.get("normalizer") or {}, parts.get("pre_tokenizer") or {}
    return (
        normalizer.get("type") == "BertNormalizer"
        and normalizer.get("lowercase") is True
        and normalizer.get("clean_text") is True
        and pre_tokenizer.get("type") == "BertPreTokenizer"
        and parts["model"]["type"] == "WordPiece"
        and backend.encode_special_tokens
        and all(token["special"] for token in parts.get("added_tokens", []))
    )
