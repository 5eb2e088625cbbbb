import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers

from pref_dist.data.text_tokens import TextTokenizer, encode_all

SAMPLES = [
    "The quick Brown fox!", "[SEP] [sep] [CLS]", "Tab\tline\nreturn\r\nend",
    "nul\0 bell\x07 vt\x0b ff\x0c del\x7f", "snake_case a.b,c;d--e 3.14 'it's' $5% ~`", "x" * 300 + " y",
    "naïve CAFÉ", "İstanbul ΑΣ", "日本語", "a\u00a0b\u2028c", "", " ", "ﬁ ſ K",
]  # fmt: skip


def build_backend(spec) -> Tokenizer:
    backend = Tokenizer.from_str(spec.json)
    backend.encode_special_tokens = True
    return backend


@given(st.lists(st.one_of(st.text(max_size=30), st.text(st.characters(max_codepoint=127), max_size=30)), max_size=5))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_every_text_has_the_ids_that_the_tokenizer_itself_gives(tokenizer, texts):
    texts = [*(text.encode("utf-8", "replace").decode() for text in texts), *SAMPLES]
    backend = build_backend(tokenizer)
    assert TextTokenizer(backend).encode(texts) == encode_all(backend, texts)


def test_only_a_lower_case_bert_goes_the_short_way(wordpiece, byte_level):
    backend = build_backend(wordpiece)
    assert TextTokenizer(backend).words is not None
    assert TextTokenizer(build_backend(byte_level)).words is None
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    assert TextTokenizer(backend).words is None
    backend.normalizer = normalizers.Sequence([normalizers.BertNormalizer(), normalizers.Replace("a", "b")])
    assert TextTokenizer(backend).words is None


@pytest.mark.parametrize("word", ["fox", "FOX"])
def test_a_tokenizer_with_added_words_of_its_own_takes_the_long_way(wordpiece, word):
    backend = build_backend(wordpiece)
    backend.add_tokens([word])
    assert TextTokenizer(backend).words is None


def test_special_tokens_in_texts_are_looked_for_where_that_is_asked(wordpiece):
    assert TextTokenizer(Tokenizer.from_str(wordpiece.json)).words is None


def test_the_memo_does_not_grow_without_end(wordpiece, monkeypatch):
    monkeypatch.setattr("pref_dist.data.text_tokens.MAX_WORDS", 10)
    backend = build_backend(wordpiece)
    tokenizer = TextTokenizer(backend)
    texts = [f"word{number} {'z' * 40}" for number in range(100)]
    assert tokenizer.encode(texts) == encode_all(backend, texts)
    assert len(tokenizer.words) <= 10
