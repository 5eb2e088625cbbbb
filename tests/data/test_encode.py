import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from pref_dist.data.encode import EncodedRows, RowEncoder, TokenizerSpec, find_inside_tokens, load_tokenizer
from pref_dist.data.render import HEADERS
from pref_dist.data.rows import Row, Turn
from pref_dist.data.templates import tokens_of
from pref_dist.errors import DataError, ModelError

WORDS = st.sampled_from(
    ["the", "fox", "dog,", "better?", "café", "日本語", "ありがとう", "😀👍🏽", "Ω", "\n", "(x)", "zq7"]
)
TEXTS = st.lists(WORDS, max_size=40).map(" ".join)
TURNS = st.lists(st.builds(Turn, TEXTS, TEXTS, TEXTS), min_size=1, max_size=3).map(tuple)
MAX_TOKENS = st.integers(100, 200)


@pytest.fixture(scope="module")
def encoders(tokenizer):
    """Encoders by max_tokens; a new one for each example would be slow."""
    made: dict[int, RowEncoder] = {}

    def find(max_tokens: int) -> RowEncoder:
        if max_tokens not in made:
            made[max_tokens] = RowEncoder(tokenizer, max_tokens)
        return made[max_tokens]

    return find


def build_row(*turns: Turn, number: int = 1) -> Row:
    return Row(number, str(number), turns, (0.0, 1.0, 0.0))


def row_of(encoded: EncodedRows, row: int) -> list[int]:
    ends = np.cumsum(encoded.lengths)
    return encoded.input_ids[ends[row] - encoded.lengths[row] : ends[row]].tolist()


def contents(encoder: RowEncoder, encoded: EncodedRows, row: int = 0) -> list[list[int]]:
    """The tokens of the three texts (with a cut marker) of a row, without headers and special tokens."""
    tokens, found, start = row_of(encoded, row), [], 0
    for segment, end in enumerate(encoded.segment_ends[row].tolist()):
        opening = encoder.frame.opening if segment == 0 else []
        header = [*opening, *encoder.frame.headers[segment]]
        assert tokens[start : start + len(header)] == header
        assert tokens[end - 1 : end] == encoder.frame.closing
        found.append(tokens[start + len(header) : end - 1])
        start = end
    assert start == len(tokens) == encoded.lengths[row]
    return found


def text_tokens(encoder: RowEncoder, turns: tuple[Turn, ...], segment: int) -> list[int]:
    texts = [turn[segment] for turn in turns]
    if len(texts) > 1:
        marks = [f"Round {number}:\n" if number == 1 else f"\n\nRound {number}:\n" for number in range(1, 4)]
        texts = [mark + text for mark, text in zip(marks, texts, strict=False)]
    return [token for text in texts for token in tokens_of(encoder.backend, text)]


def test_a_row_reads_as_the_template_says(wordpiece):
    encoder = RowEncoder(wordpiece, 96)
    encoded = encoder.encode([build_row(Turn("The fox?", "the dog", "the lazy dog"))])
    text = Tokenizer.from_str(wordpiece.json).decode(row_of(encoded, 0), skip_special_tokens=False)
    expected = "[CLS] prompt : the fox? [SEP] response a : the dog [SEP] response b : the lazy dog [SEP]"
    assert text == expected
    assert encoded.rows.tolist() == [1]
    assert encoded.targets.tolist() == [[0.0, 1.0, 0.0]]


@given(TURNS)
def test_a_row_that_fits_is_kept_whole_and_in_order(encoders, turns):
    encoder = encoders(4000)
    encoded = encoder.encode([build_row(*turns)])
    assert contents(encoder, encoded) == [text_tokens(encoder, turns, segment) for segment in range(3)]
    assert encoded.full_lengths.tolist() == encoded.kept_lengths.tolist()


@given(TURNS, MAX_TOKENS)
def test_truncation_never_exceeds_max_tokens_and_keeps_head_and_tail(encoders, turns, max_tokens):
    encoder = encoders(max_tokens)
    encoded = encoder.encode([build_row(*turns)])
    assert encoded.lengths[0] <= max_tokens
    for segment, kept in enumerate(contents(encoder, encoded)):
        full = text_tokens(encoder, turns, segment)
        assert encoded.full_lengths[0, segment] == len(full)
        num_kept = int(encoded.kept_lengths[0, segment])
        if num_kept == len(full):
            assert kept == full
            continue
        assert num_kept > 0
        assert len(kept) == num_kept + len(encoder.frame.marker)
        heads = [head for head in range(num_kept + 1) if kept[:head] == full[:head]]
        rebuilt = [full[:head] + encoder.frame.marker + full[len(full) - (num_kept - head) :] for head in heads]
        assert kept in rebuilt


@given(TURNS, MAX_TOKENS)
def test_swapping_a_and_b_swaps_the_result_exactly(encoders, turns, max_tokens):
    encoder = encoders(max_tokens)
    swapped = tuple(Turn(turn.prompt, turn.response_b, turn.response_a) for turn in turns)
    prompt, first, second = contents(encoder, encoder.encode([build_row(*turns)]))
    assert contents(encoder, encoder.encode([build_row(*swapped)])) == [prompt, second, first]


@given(st.lists(TURNS, min_size=2, max_size=5), MAX_TOKENS)
@settings(max_examples=50)
def test_a_row_does_not_depend_on_the_rows_beside_it(encoders, all_turns, max_tokens):
    encoder = encoders(max_tokens)
    rows = [build_row(*turns, number=number) for number, turns in enumerate(all_turns)]
    together = encoder.encode(rows)
    for index, row in enumerate(rows):
        alone = encoder.encode([row])
        assert row_of(together, index) == row_of(alone, 0)
        assert together.segment_ends[index].tolist() == alone.segment_ends[0].tolist()
        assert together.groups[index] == alone.groups[0]


@given(TURNS, MAX_TOKENS)
def test_no_character_is_cut_into_halves(encoders, turns, max_tokens):
    encoder = encoders(max_tokens)
    backend = Tokenizer.from_str(encoder.backend.to_str())
    for kept in contents(encoder, encoder.encode([build_row(*turns)])):
        assert "\ufffd" not in backend.decode(kept)


def test_characters_of_four_tokens_are_never_cut(byte_level):
    emoji = "🤖🧪🪐🧶" * 30
    for max_tokens in range(60, 130):
        encoder = RowEncoder(byte_level, max_tokens)
        encoded = encoder.encode([build_row(Turn(emoji, emoji, emoji))])
        assert encoded.lengths[0] <= max_tokens
        for kept in contents(encoder, encoded):
            assert "\ufffd" not in encoder.backend.decode(kept)


@given(st.tuples(*[st.integers(1, 3000)] * 3))
@settings(max_examples=50)
def test_no_segment_is_emptied_when_its_share_is_16_tokens(encoders, counts):
    smallest = encoders(4000).extra.total + 3 * 16
    encoder = encoders(smallest)
    turn = Turn(*("fox 😀 " * count for count in counts))
    assert (encoder.encode([build_row(turn)]).kept_lengths > 0).all()


def test_an_empty_response_is_an_empty_segment(tokenizer):
    encoder = RowEncoder(tokenizer, 96)
    encoded = encoder.encode([build_row(Turn("fox", "", ""))])
    assert contents(encoder, encoded)[1:] == [[], []]


def test_text_that_looks_like_a_special_token_cannot_end_a_segment(wordpiece, byte_level):
    for tokenizer, special in ((wordpiece, "[SEP] [CLS]"), (byte_level, "</s><s>")):
        encoded = RowEncoder(tokenizer, 96).encode([build_row(Turn(special, special, special))])
        tokens = row_of(encoded, 0)
        assert tokens.count(tokenizer.sep_id) == 3
        assert tokens.count(tokenizer.cls_id) == 1


def test_a_length_in_the_tokenizer_file_cuts_nothing(wordpiece):
    encoded = RowEncoder(wordpiece, 600).encode([build_row(Turn("fox " * 100, "dog", "dog"))])
    assert encoded.full_lengths[0, 0] == 100
    assert encoded.kept_lengths[0, 0] == 100


def test_a_cap_without_room_for_text_is_an_error_with_the_number_that_works(tokenizer):
    with pytest.raises(DataError, match=r"data\.max_tokens=12 .* at least (\d+)") as caught:
        RowEncoder(tokenizer, 12)
    smallest = int(str(caught.value).rstrip(".").split()[-1])
    RowEncoder(tokenizer, smallest)
    with pytest.raises(DataError):
        RowEncoder(tokenizer, smallest - 1)


def test_a_bos_and_an_eos_stand_in_for_cls_and_sep(byte_level):
    backend = Tokenizer.from_str(byte_level.json)
    assert byte_level.cls_id == backend.token_to_id("<s>")
    assert byte_level.sep_id == backend.token_to_id("</s>")
    assert byte_level.pad_id == backend.token_to_id("<pad>")
    assert byte_level.vocab_size == backend.get_vocab_size()


def test_a_tokenizer_without_an_opening_token_opens_with_the_header(byte_level):
    encoder = RowEncoder(dataclasses.replace(byte_level, cls_id=None), 96)
    encoded = encoder.encode([build_row(Turn("fox", "dog", "dog"))])
    assert row_of(encoded, 0)[: len(encoder.frame.headers[0])] == tokens_of(encoder.backend, HEADERS[0])
    contents(encoder, encoded)


def test_tokenizers_that_differ_have_other_digests(wordpiece, byte_level, wordpiece_folder):
    assert wordpiece.digest != byte_level.digest
    assert load_tokenizer(wordpiece_folder) == wordpiece


def test_a_folder_without_a_tokenizer_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_byte_fallback_tokens_that_continue_a_character_are_found():
    vocab = {"<unk>": 0, "a": 1, "<0x7F>": 2, "<0x80>": 3, "<0xBF>": 4, "<0xC0>": 5}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    spec = TokenizerSpec(backend.to_str(), None, 0, 0, len(vocab), "digest")
    assert find_inside_tokens(spec, vocab).tolist() == [False, False, False, True, True, False]


def test_word_pieces_never_begin_inside_a_character(wordpiece):
    assert not RowEncoder(wordpiece, 96).is_inside.any()
