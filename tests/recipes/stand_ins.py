"""Stand-ins for tokenizers that no package carries: the same kinds, with vocabularies counted on a sample's text.

Counted, not trained: the library's trainers break ties otherwise each time; see `tests/tiny_model.py`.
"""

import math
import re
from collections import Counter
from pathlib import Path

from tests.tiny_llm import count_merges

NUM_WORDS = 1000
BRACKETED = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")  # DeBERTa-v3's first ids
MASK = "[MASK]"


def write_unigram(folder: Path, text: str) -> int:
    """Write a stand-in for DeBERTa-v3's tokenizer: its class, its special tokens, a unigram model of the text."""
    from transformers import DebertaV2Tokenizer

    characters = Counter(re.sub(r"\s", "", text))
    words = {f"▁{word}": count for word, count in Counter(re.findall(r"[A-Za-z]{2,}", text)).most_common(NUM_WORDS)}
    counts = {"▁": text.count(" "), **characters, **words}
    total = sum(counts.values())
    pieces = sorted(((piece, math.log(count / total)) for piece, count in counts.items()), key=lambda pair: pair[::-1])
    vocabulary = [*((special, 0.0) for special in BRACKETED), *pieces, (MASK, 0.0)]
    tokenizer = DebertaV2Tokenizer(vocab=vocabulary, unk_id=BRACKETED.index("[UNK]"))
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def write_bracketed_bpe(folder: Path, text: str) -> int:
    """Write a stand-in for ModernBERT's tokenizer: byte-level BPE between [CLS] and [SEP]."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = count_merges(text)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(left + right for left, right in merges)])
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = (*BRACKETED, MASK)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ids)
    names = {f"{token.strip('[]').lower()}_token": token for token in specials}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(tokens) + len(specials)
