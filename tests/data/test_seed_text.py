"""The seed templates against the notebooks' own functions, pandas and transformers."""

import csv
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from pandas._libs.parsers import STR_NA_VALUES
from transformers import AutoTokenizer

from pref_dist.data.encode import RowEncoder
from pref_dist.data.rows import Row, Turn
from pref_dist.data.seed_text import MISSING_CELLS, Part, SeedSequence, read_cell, render_string
from pref_dist.data.templates import SeedTemplate, count_part_tokens

TEXT_COLUMNS = ["prompt", "response_a", "response_b"]
NASTY_CELLS = [
    "", "NA", "None", "null", "nan", " NA ", "Na", "none", "#N/A", "<NA>", "  ", "\n", "\r\n\r\n", " padded  out ",
    "The fox?", 'She said "yes", twice', "line one\nline two\r\nline three\rline four", "tab\tand\x0bfeed\x0c",
    '["The fox?", "and\\nthe dog?"]', '["日本語", null]', "[]", "it is [SEP] or [CLS], </s><s> or [UNK]", "[SEP]",
    "naïve café", "日本語の文章", "😀👍🏽", "a 😀 b", "😀😀 a\u00a0b\u2003c", "Response B: mine", " \n Response B: ",
    "0", "007", "the quick brown fox " * 30, "日本語の文章も少しあります。" * 30, "x" * 300,
    ", ".join(map(str, range(200))),
]  # fmt: skip


class TextPreprocessor:
    """The siamese notebook's, with a tokenizer given instead of downloaded."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def clean_text(self, text):
        text = str(text)
        text = re.sub(r"\s+", " ", text)
        text = re.sub(r"[^\x00-\x7F]+", " ", text)
        return text.strip()

    def create_input_pairs(self, row):
        clean_prompt = self.clean_text(row["prompt"])
        return [
            f"Prompt: {clean_prompt} {self.tokenizer.sep_token} Response: {self.clean_text(row['response_a'])}",
            f"Prompt: {clean_prompt} {self.tokenizer.sep_token} Response: {self.clean_text(row['response_b'])}",
        ]


def preprocess_texts(examples):
    """The first lines of the joint notebook's preprocess_function."""
    return [
        f"Prompt: {p} \n Response A: {a} \n Response B: {b}"
        for p, a, b in zip(examples["prompt"], examples["response_a"], examples["response_b"], strict=True)
    ]


@pytest.fixture(scope="module")
def nasty_csv(tmp_path_factory):
    """Every nasty cell in every column, beside others."""
    path = tmp_path_factory.mktemp("nasty") / "train.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *TEXT_COLUMNS])
        for shift in (0, 7, 19):
            columns = [NASTY_CELLS[shift * place :] + NASTY_CELLS[: shift * place] for place in range(3)]
            writer.writerows([f"{shift}-{number}", *cells] for number, cells in enumerate(zip(*columns, strict=True)))
    return path


@pytest.fixture(scope="module")
def rows(nasty_csv):
    with open(nasty_csv, encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    turns = (Turn("not", "looked", "at"),)
    return [
        Row(number, record["id"], turns, None, cells=tuple(record[name] for name in TEXT_COLUMNS))
        for number, record in enumerate(records, start=1)
    ]


@pytest.fixture(scope="module")
def hf_tokenizer(tokenizer, wordpiece, wordpiece_folder, byte_level_folder):
    return AutoTokenizer.from_pretrained(wordpiece_folder if tokenizer is wordpiece else byte_level_folder)


@pytest.fixture(scope="module")
def notebook_texts(nasty_csv, hf_tokenizer):
    """Template -> the strings of each row, by the notebooks' own code on what pandas reads."""
    table = pd.read_csv(nasty_csv)
    # A tokenizer without a sep_token: ours ends a text with its eos.
    processor = TextPreprocessor(SimpleNamespace(sep_token=hf_tokenizer.sep_token or hf_tokenizer.eos_token))
    return {
        "seed_joint": [[text] for text in preprocess_texts(table)],
        "seed_siamese": table.apply(processor.create_input_pairs, axis=1).tolist(),
    }


CLEAN = {"seed_joint": "none", "seed_siamese": "seed_ascii"}


@pytest.mark.parametrize("template", CLEAN)
def test_the_strings_are_the_notebooks_own(tokenizer, rows, notebook_texts, template):
    rendered = RowEncoder(tokenizer, 100, template, "right", CLEAN[template]).template
    assert isinstance(rendered, SeedTemplate)
    assert [[render_string(sequence) for sequence in rendered.render(row)] for row in rows] == notebook_texts[template]


@pytest.mark.parametrize("max_tokens", [60, 100, 333, 4000])
@pytest.mark.parametrize("template", CLEAN)
def test_cut_at_the_right_the_tokens_are_those_of_transformers(
    tokenizer, hf_tokenizer, rows, notebook_texts, template, max_tokens
):
    encoder = RowEncoder(tokenizer, max_tokens, template, "right", CLEAN[template])
    encoded = encoder.encode(rows)
    expected = [
        [hf_tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
        for texts in notebook_texts[template]
    ]
    assert encoded.input_ids.tolist() == [token for sequences in expected for ids in sequences for token in ids]
    ends = encoded.segment_ends.reshape(len(rows), encoder.extra.num_sequences, -1)[..., -1]
    assert ends.tolist() == [[sum(map(len, ids[: n + 1])) for n in range(len(ids))] for ids in expected]


def test_the_cut_falls_on_some_and_not_on_others(tokenizer, rows):
    cut = RowEncoder(tokenizer, 100, "seed_joint", "right").encode(rows)
    is_cut = (cut.kept_lengths < cut.full_lengths).any(axis=1)
    assert 0.1 < is_cut.mean() < 0.95


def test_missing_is_what_pandas_takes_for_missing(tmp_path):
    assert set(STR_NA_VALUES) == MISSING_CELLS
    near = ["Nan", "NONE", "Null", "na", "N/a", " ", " nan", "nan ", "-", "#NULL!", "<na>", "nil", "missing"]
    cells = [*sorted(MISSING_CELLS), *near]
    path = tmp_path / "cells.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["cell"], *([cell] for cell in cells)])
    read = pd.read_csv(path, skip_blank_lines=False)["cell"]
    assert [f"{cell}" for cell in read] == [read_cell(cell) for cell in cells]
    assert read.isna().tolist() == [cell in MISSING_CELLS for cell in cells]


def text_tokens(encoder: RowEncoder, sequence: SeedSequence) -> list[int]:
    return [len(encoder.backend.encode(text, add_special_tokens=False).ids) for _, text in sequence]


@pytest.mark.parametrize("template", CLEAN)
def test_segments_are_found_where_their_texts_stand(wordpiece, rows, template):
    """No WordPiece token straddles a border, so each text has the tokens that it has alone."""
    encoder = RowEncoder(wordpiece, 4000, template, "fair", CLEAN[template])
    assert isinstance(encoder.template, SeedTemplate)
    encoded = encoder.encode(rows)
    assert encoded.full_lengths.tolist() == [
        [count for sequence in encoder.template.render(row) for count in text_tokens(encoder, sequence)] for row in rows
    ]
    headers = lengths_of(encoded.segment_ends) - encoded.full_lengths
    assert len({tuple(counts) for counts in headers.tolist()}) == 1


def lengths_of(ends):
    lengths = ends.copy()
    lengths[:, 1:] -= ends[:, :-1]
    return lengths


@pytest.mark.parametrize("template", CLEAN)
def test_a_token_that_straddles_two_segments_is_of_the_one_in_which_it_starts(byte_level, template):
    """Byte-level tokens hold the space before a word, and white space at the end of a text meets the next header's."""
    encoder = RowEncoder(byte_level, 4000, template)
    cells = [("fox", "dog", "dog"), ("fox  ", " \n", "日本語"), (" ", "  \n\n ", "\n"), ("😀", "😀 ", "x")]
    rows = [Row(1, "1", (Turn("", "", ""),), None, cells=texts) for texts in cells]
    encoded = encoder.encode(rows)
    start = 0
    for row, (ends, length) in enumerate(zip(encoded.segment_ends.tolist(), encoded.lengths.tolist(), strict=True)):
        ids = encoded.input_ids[start : start + length].tolist()
        start += length
        pieces = [encoder.backend.decode(ids[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        parts = [part for sequence in encoder.template.render(rows[row]) for part in sequence]
        assert "".join(pieces) == "".join(header + text for header, text in parts).replace("</s>", "")
        for piece, (header, _) in zip(pieces, parts, strict=True):
            assert piece.lstrip().startswith(header.replace("</s>", "").strip())
    assert (encoded.full_lengths > 0).all()


@pytest.mark.parametrize(
    ("offsets", "texts", "counts"),
    [
        ([(0, 2), (2, 4), (4, 6), (6, 8)], ["tt", "tt"], [1, 1, 1, 1]),
        ([(0, 1), (1, 3), (3, 5), (5, 8)], ["tt", "tt"], [1, 2, 0, 1]),  # header and text share, then two segments
        ([(0, 1), (1, 3), (3, 5)], ["", "t"], [2, 0, 0, 1]),  # what straddles an empty text is of the header
        ([(0, 1), (2, 3), (3, 4), (4, 5), (5, 5)], ["", "t"], [1, 0, 2, 2]),  # an empty token at the end
        ([(0, 9)], ["tt", "tt"], [0, 1, 0, 0]),  # one token for everything
        ([], ["", ""], [0, 0, 0, 0]),
    ],
)
def test_every_token_is_counted_once_where_its_part_begins(offsets, texts, counts):
    assert count_part_tokens(offsets, [Part("hh", text) for text in texts]) == counts
