import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pref_dist.data.formats import RawRow
from pref_dist.data.ingest import SourceRequest, iterate_raw_rows, open_source
from pref_dist.errors import DataError

COLUMNS = ("id", "prompt", "response_a", "response_b")
# What UTF-8 can hold; a CSV reader that is given NUL by its own module is tried further down.
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def read_rows(path: Path) -> list[RawRow]:
    return [row for _, row in iterate_raw_rows(open_source(SourceRequest(path)))]


def write_bytes(folder: Path, content: bytes) -> Path:
    (folder / "file.csv").write_bytes(content)
    return folder / "file.csv"


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=6))
def test_every_cell_comes_back_as_it_was_written(tmp_path_factory, rows):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([COLUMNS, *rows])
    path = write_bytes(tmp_path_factory.mktemp("csv"), text.getvalue().encode("utf-8"))
    assert [(row.id, *row.cells) for row in read_rows(path)] == rows


def test_rows_are_those_that_pandas_reads(write_csv):
    path = write_csv(50)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = read_rows(path)
    assert [row.row for row in rows] == list(range(1, 51))
    assert [row.id for row in rows] == frame["id"].tolist()
    assert [row.cells for row in rows] == list(frame[["prompt", "response_a", "response_b"]].itertuples(index=False))


def test_a_file_without_winner_columns_is_unlabelled(write_csv):
    source = open_source(SourceRequest(write_csv(3, columns=COLUMNS)))
    assert not source.is_labelled
    assert [row.target for _, row in iterate_raw_rows(source)] == [None] * 3


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_bom_line_ends_and_blank_lines_do_not_matter(tmp_path, newline):
    lines = ["\ufeff" + ",".join(COLUMNS), "", "1,p,a,b", "", "2,q,c,d", ""]
    rows = read_rows(write_bytes(tmp_path, newline.join(lines).encode("utf-8")))
    assert [(row.row, row.id, *row.cells) for row in rows] == [(1, "1", "p", "a", "b"), (2, "2", "q", "c", "d")]


def test_cells_of_200_kilobytes_are_read_whole(write_csv, record):
    long = "x y " * 50_000
    rows = read_rows(write_csv([record(1, response_b=[long])]))
    assert len(rows[0].cells[2]) == len(long) + 4


def test_a_nul_byte_is_a_character_like_others(tmp_path):
    path = write_bytes(tmp_path, b"id,prompt,response_a,response_b\n1,a\0b,c,d\n")
    assert read_rows(path)[0].cells[0] == "a\0b"


def test_ragged_rows_are_handed_over_and_not_lost(tmp_path):
    path = write_bytes(tmp_path, b"id,prompt,response_a,response_b\n1,p,a,b\n2,p,a\n3,p,a,b,c\n4,p,a,b\n")
    rows = read_rows(path)
    assert [(row.row, row.id, not row.faults) for row in rows] == [
        (1, "1", True),
        (2, "2", False),
        (3, "3", False),
        (4, "4", True),
    ]
    assert rows[1].faults == (("wrong_cell_count", "3 cells where the header has 4"),)


@pytest.mark.parametrize(
    ("cells", "text_format"),
    [
        (['["a"]', '["b", null]', "[]"], "lmsys"),
        (['["a"', '["b"]', '["c"]'], "lmsys"),
        (["['a']", "['b']", "['c']"], "lmsys"),
        (["hello", "[1] a footnote", "b"], "plain"),
        (["", "", ""], "plain"),
    ],
)
def test_the_text_format_is_decided_from_the_cells(write_csv, record, cells, text_format):
    names = ("prompt", "response_a", "response_b")
    path = write_csv([record(1, **dict(zip(names, cells, strict=True)))])
    assert open_source(SourceRequest(path)).format == text_format


def test_a_missing_column_is_named_with_the_nearest_one_there_is(write_csv):
    path = write_csv(2, columns=("id", "prompt", "response_a", "respons_b"))
    with pytest.raises(DataError) as caught:
        open_source(SourceRequest(path))
    message = str(caught.value)
    assert str(path) in message
    assert "lacks 1 column: 'response_b'" in message
    assert "Rename 'respons_b' to 'response_b'?" in message


def test_two_of_three_winner_columns_are_not_enough(write_csv):
    path = write_csv(2, columns=(*COLUMNS, "winner_model_a", "winner_model_b"))
    with pytest.raises(DataError, match="winner_tie"):
        open_source(SourceRequest(path))


def test_a_column_that_stands_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match="'prompt' stands 2 times"):
        open_source(SourceRequest(write_bytes(tmp_path, b"id,prompt,prompt,response_a,response_b\n1,p,p,a,b\n")))


def test_a_file_with_semicolons_is_recognised(tmp_path):
    with pytest.raises(DataError, match="commas"):
        open_source(SourceRequest(write_bytes(tmp_path, b"id;prompt;response_a;response_b\n1;p;a;b\n")))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\n\n", "is empty"), (b"id,prompt,response_a,response_b\n", "no data")],
)
def test_a_file_without_rows_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        open_source(SourceRequest(write_bytes(tmp_path, content)))


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read: No such file"):
        open_source(SourceRequest(tmp_path / "nowhere.csv"))


def test_a_folder_without_data_files_is_an_error(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(DataError, match=r"holds no data file \(\.csv"):
        open_source(SourceRequest(tmp_path))


@pytest.mark.parametrize("num_before", [0, 3, 50_000])
def test_bytes_that_are_no_utf_8_are_named_by_place(tmp_path, num_before):
    good = b"1,\xc3\xa9,a,b\n" * num_before
    path = write_bytes(tmp_path, b"id,prompt,response_a,response_b\n" + good + b"1,caf\xe9,a,b\n")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    offset = path.read_bytes().index(b"\xe9,a")
    assert f"byte 0xe9 at offset {offset:,}, line {num_before + 2:,}." in str(caught.value)


def test_a_file_that_ends_inside_a_character_is_an_error(tmp_path):
    with pytest.raises(DataError, match="ends inside a character"):
        read_rows(write_bytes(tmp_path, b"id,prompt,response_a,response_b\n1,p,a,\xe6\x97"))


def test_a_quote_that_is_never_closed_loses_no_row_in_silence(tmp_path):
    path = write_bytes(tmp_path, b'id,prompt,response_a,response_b\n1,p,a,b\n2,"p,a,b\n3,p,a,b\n')
    with pytest.raises(DataError, match="data row 2, which begins in line 3"):
        read_rows(path)


def test_a_quote_that_swallows_the_next_row_is_an_error(tmp_path):
    path = write_bytes(tmp_path, b'id,prompt,response_a,response_b\n1,p,a,"b\n2,p,a,"b"\n3,p,a,b\n')
    with pytest.raises(DataError, match="data row 1, which begins in line 2"):
        read_rows(path)
