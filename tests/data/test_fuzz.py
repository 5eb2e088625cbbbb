"""Damaged files: every row is accounted for, or a named error says why there are none."""

import gzip
import json
import re
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pref_dist.data.cache import open_tokens
from pref_dist.data.conversations import MAX_NESTING
from pref_dist.data.ingest import SourceRequest, open_source
from pref_dist.data.records import MAX_CELL_CHARACTERS
from pref_dist.data.validate import CheckedRows, read_checked_rows
from pref_dist.errors import DataError
from tests.data.fuzz import MAX_MESSAGE_CHARACTERS, TIMEOUT_SECONDS, check_case, read_case
from tests.data.fuzz_cases import ODD_ARRAYS, Case, build_case
from tests.data.fuzz_changes import load_records

NUM_CASES = 150
CASES_PER_TEST = 10
GOOD = {"id": "good", "prompt": "p", "response_a": "a", "response_b": "b", "winner": "tie"}


@pytest.mark.parametrize("first", range(0, NUM_CASES, CASES_PER_TEST))
def test_a_damaged_file_loses_no_row_and_shows_no_traceback(tmp_path, wordpiece, first):
    for number in range(first, first + CASES_PER_TEST):
        case = build_case(1, number)
        started = time.perf_counter()
        check_case(case, tmp_path, wordpiece)
        assert time.perf_counter() - started < TIMEOUT_SECONDS, (case.name, case.changes)


def test_a_case_is_the_same_in_every_process():
    assert [build_case(3, number) for number in range(20)] == [build_case(3, number) for number in range(20)]


def read_from_below(request: SourceRequest, num_calls: int) -> CheckedRows:
    """Read with so many calls more on the stack."""
    return read_from_below(request, num_calls - 1) if num_calls else read_checked_rows(request)


@pytest.mark.parametrize("name", ["id", "prompt", "winner", "model_a", "conversation_a"])
def test_how_deep_json_may_be_does_not_depend_on_who_reads_it(tmp_path, wordpiece, data, name):
    depths = [*range(1, 200, 9), *range(600, 1005), 5000]
    good = load_records("arena_100k.jsonl")[0] if name == "conversation_a" else GOOD | {"model_a": "x", "model_b": "y"}
    deep = json.dumps(good | {name: "DEEP"})
    path = tmp_path / "deep.jsonl"
    lines = [deep.replace('"DEEP"', "[" * depth + "]" * depth) for depth in depths]
    path.write_text("\n".join([json.dumps(good), *lines]), encoding="utf-8")
    checked = read_checked_rows(SourceRequest(path))
    assert len(checked.rows) + len(checked.set_aside) == len(lines) + 1
    too_deep = [record["row"] for record in checked.set_aside if record["kind"] == "bad_line"]
    assert too_deep == [row for row, depth in enumerate(depths, start=2) if depth + 1 > MAX_NESTING]
    assert read_from_below(SourceRequest(path), 300) == checked
    table = open_tokens(path, data, wordpiece, tmp_path / "cache")
    assert [record["row"] for record in table.set_aside] == [record["row"] for record in checked.set_aside]


def test_a_json_list_with_a_number_too_long_to_read_is_a_named_error(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(f'[{json.dumps(GOOD)}, {{"id": {"9" * 5000}}}]')
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_checked_rows(SourceRequest(path))


@pytest.mark.parametrize("name", ["prompt", "response_a", "id", "model_a", "extra"])
@pytest.mark.parametrize("template", ["joint", "seed_joint", "seed_siamese"])
def test_half_a_character_reaches_no_file_and_no_tokenizer(tmp_path, wordpiece, data, name, template):
    bad = GOOD | {"model_a": "x", "model_b": "y", name: "a\ud800b", "id\udfff": 3}
    doubled = bad | {"winner": "nobody"}
    path = tmp_path / "half.jsonl"
    path.write_text(f"{json.dumps(bad)}\n{json.dumps(doubled)}\n", encoding="utf-8")
    table = open_tokens(path, data.model_copy(update={"template": template}), wordpiece, tmp_path / "cache")
    assert (len(table), len(table.set_aside)) == (1, 1)
    json.dumps(table.manifest, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_many_columns_are_read_in_time_and_named_in_few_words(tmp_path, suffix):
    names = [f"column {number}" for number in range(50_000)]
    cells = dict.fromkeys(names, "x")
    path = tmp_path / f"wide{suffix}"

    def write(cells) -> None:
        text = f"{','.join(cells)}\n{','.join(cells.values())}\n" if suffix == ".csv" else json.dumps(cells)
        path.write_text(text, encoding="utf-8")

    started = time.perf_counter()
    write(cells)
    with pytest.raises(DataError, match=r"lacks .* more\)") as caught:
        read_checked_rows(SourceRequest(path))
    assert len(str(caught.value)) < MAX_MESSAGE_CHARACTERS
    write(cells | GOOD)
    assert len(read_checked_rows(SourceRequest(path)).rows) == 1
    assert len(open_source(SourceRequest(path)).files[0].unused_columns) == len(names)
    assert time.perf_counter() - started < 5


def test_a_header_of_one_huge_name_is_refused_in_few_words(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("x" * 300_000 + "\n1\n")
    with pytest.raises(DataError) as caught:
        read_checked_rows(SourceRequest(path))
    assert len(str(caught.value)) < MAX_MESSAGE_CHARACTERS


def test_a_cell_beyond_the_limit_is_an_error_that_names_its_row(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text(f"id,prompt,response_a,response_b\n1,p,a,b\n2,p,{'x' * (MAX_CELL_CHARACTERS + 1)},b\n")
    with pytest.raises(DataError, match="data row 2, which begins in line 3: field larger than field limit"):
        read_checked_rows(SourceRequest(path))


@pytest.mark.parametrize("number", range(len(ODD_ARRAYS)))
def test_a_parquet_column_of_an_odd_type_is_read_or_refused_by_name(tmp_path, number):

    path = tmp_path / "odd.parquet"
    columns = {name: pa.array([cell] * 2) for name, cell in GOOD.items()} | {"prompt": ODD_ARRAYS[number](2)}
    pq.write_table(pa.table(columns), path)
    read_case(Case(0, path.name, (), b"", num_rows=2), path, "keep")


def test_a_packed_file_with_bytes_that_are_no_text_and_damage_after_them_is_refused(tmp_path):

    path = tmp_path / "file.csv.gz"
    path.write_bytes(gzip.compress(b"id,prompt,response_a,response_b\n1,\xff,a,b\n")[:-8] + b"\0" * 8)
    with pytest.raises(DataError, match=r"is damaged or no CSV file compressed as \.gz: CRC"):
        read_checked_rows(SourceRequest(path))


def test_damaged_bytes_are_told_from_a_file_that_cannot_be_opened(tmp_path):
    path = tmp_path / "file.csv.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(DataError, match=r"is damaged or no CSV file compressed as \.zst: Truncated"):
        read_checked_rows(SourceRequest(path))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_checked_rows(SourceRequest(path))


def test_many_columns_with_almost_the_right_name_give_a_few_hints(tmp_path):
    path = tmp_path / "file.csv"
    names = [f"respons_a{number}" for number in range(500)]
    path.write_text(f"{','.join(names)}\n{','.join(names)}\n")
    with pytest.raises(DataError, match="Rename 'respons_a0' to 'response_a'") as caught:
        read_checked_rows(SourceRequest(path))
    assert len(str(caught.value)) < MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize("repeated", ["column 49999", "x" * 200_000])
def test_a_repeated_key_is_found_in_time_and_named_in_few_words(tmp_path, repeated):
    path = tmp_path / "file.jsonl"
    wide = {f"column {number}": "x" for number in range(50_000)} | {repeated: "x"}
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(wide)[:-1]}, {json.dumps(repeated)}: 1}}\n")
    started = time.perf_counter()
    (bad,) = read_checked_rows(SourceRequest(path)).set_aside
    assert bad["kind"] == "bad_line"
    assert len(bad["detail"]) < 200
    assert time.perf_counter() - started < 5
