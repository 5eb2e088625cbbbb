"""Every format through every kind of file; folders, patterns, links; files that are damaged."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pref_dist.data.ingest import SourceRequest
from pref_dist.data.validate import read_checked_rows
from pref_dist.errors import DataError
from tests.data.format_cases import FILES, HERE, contents, read, write_json_lines


def write_jsonl(path: Path, frame: pd.DataFrame) -> None:
    path.write_text(frame.to_json(orient="records", lines=True, force_ascii=False), encoding="utf-8")


def write_gzipped(path: Path, frame: pd.DataFrame) -> None:
    plain = path.with_suffix("")
    WRITERS["".join(plain.suffixes)](plain, frame)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def write_zst(path: Path, frame: pd.DataFrame) -> None:
    plain = path.with_suffix("")
    WRITERS["".join(plain.suffixes)](plain, frame)
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(plain.read_bytes())
    plain.unlink()


WRITERS: dict[str, Callable[[Path, pd.DataFrame], None]] = {
    ".csv": lambda path, frame: frame.to_csv(path, index=False),
    ".jsonl": write_jsonl,
    ".parquet": lambda path, frame: frame.to_parquet(path, index=False),
    **{f"{kind}.gz": write_gzipped for kind in (".csv", ".jsonl", ".parquet")},
    **{f"{kind}.zst": write_zst for kind in (".csv", ".jsonl", ".parquet")},
}


def load_frame(name: str) -> pd.DataFrame:
    """The fixture as pandas holds it, lists as lists where the file has them."""
    if name.endswith(".csv"):
        return pd.read_csv(HERE / name, dtype=str, keep_default_na=False)
    return pd.DataFrame([json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()])


@pytest.mark.parametrize(
    ("name", "suffix"),
    # A Parquet column has one type; that fixture mixes texts and lists on purpose.
    [
        (name, suffix)
        for name in FILES
        for suffix in WRITERS
        if (name, "parquet" in suffix) != ("trl_pairs.jsonl", True)
    ],
)
def test_every_format_reads_the_same_from_every_kind_of_file(tmp_path, name, suffix):
    frame = load_frame(name)
    if ".csv" in suffix:
        frame = frame.map(lambda cell: json.dumps(cell) if isinstance(cell, (list, dict)) else cell)
    path = tmp_path / f"file{suffix}"
    WRITERS[suffix](path, frame)
    assert [contents(row) for row in read(path).rows] == [contents(row) for row in read(name).rows]


def test_a_folder_and_a_pattern_are_one_source_in_the_order_of_names(tmp_path):
    folder = tmp_path / "parts"
    (folder / "deeper").mkdir(parents=True)
    frame = pd.read_csv(HERE / "plain.csv", dtype=str)
    frame[:1].to_csv(folder / "a.csv", index=False)
    write_jsonl(folder / "b.jsonl", frame[1:2])
    frame[2:].to_parquet(folder / "deeper" / "c.parquet")
    (folder / ".hidden.csv").write_text("x")
    (folder / "README.md").write_text("x")
    rows = read(folder).rows
    assert [(row.row, row.id) for row in rows] == [(1, "1"), (2, "2"), (3, "3")]
    assert [row.id for row in read(folder / "[ab].*").rows] == ["1", "2"]
    with pytest.raises(DataError, match="No file matches"):
        read(folder / "*.tsv")


def test_rows_of_several_files_are_named_by_file_and_row_within_it(tmp_path):
    frame = pd.read_csv(HERE / "plain.csv", dtype=str)
    frame.to_csv(tmp_path / "1.csv", index=False)
    frame.assign(id=["4", "2", ""]).to_csv(tmp_path / "2.csv", index=False)
    checked = read_checked_rows(SourceRequest(tmp_path))
    assert [row.row for row in checked.rows] == [1, 2, 3, 4]
    assert [(Path(bad["file"]).name, bad["row"], bad["kind"]) for bad in checked.set_aside] == [
        ("2.csv", 2, "duplicate_id"),
        ("2.csv", 3, "empty_id"),
    ]
    assert checked.set_aside[0]["detail"] == "row 2 of file 1 has this id already"


def test_files_that_differ_are_not_one_source(tmp_path):
    pd.read_csv(HERE / "plain.csv").to_csv(tmp_path / "1.csv", index=False)
    pd.read_csv(HERE / "plain.csv").iloc[:, :4].to_csv(tmp_path / "2.csv", index=False)
    with pytest.raises(DataError, match=r"2\.csv and .*1\.csv are read as one source, but differ in their label"):
        read(tmp_path)


PACKED = (".csv.gz", ".csv.zst", ".jsonl.gz", ".jsonl.zst", ".parquet", ".parquet.zst")


@pytest.mark.parametrize(
    ("suffix", "damage"),
    # Of these only gzip has a checksum for sure: elsewhere a flipped bit inside a text is a text.
    [*((suffix, damage) for suffix in PACKED for damage in ("cut", "not packed")), (".csv.gz", "flipped")],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, suffix, damage):
    frame = pd.concat([pd.read_csv(HERE / "plain.csv", dtype=str)] * 200).assign(id=range(600))
    path = tmp_path / f"file{suffix}"
    WRITERS[suffix](path, frame)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b"id,prompt,response_a,response_b\n1,p,a,b\n")
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_checked_rows(SourceRequest(path))


def test_a_line_that_is_no_object_is_set_aside_and_the_next_one_is_read(tmp_path):
    good = {"id": "1", "prompt": "p", "response_a": "a", "response_b": "b", "winner": "tie"}
    lines = [json.dumps(good).encode(), b"[1]", b'{"id": ', b"\xff\xfe", b"", json.dumps(good | {"id": "2"}).encode()]
    path = tmp_path / "file.jsonl"
    path.write_bytes(b"\n".join(lines))
    checked = read_checked_rows(SourceRequest(path))
    assert [(row.row, row.id) for row in checked.rows] == [(1, "1"), (5, "2")]
    assert [record["kind"] for record in checked.set_aside] == ["bad_line"] * 3


def test_a_json_file_may_be_one_list_of_objects(tmp_path):
    path = tmp_path / "file.json"
    frame = pd.read_csv(HERE / "plain.csv", dtype=str)
    frame.to_json(path, orient="records", indent=2)
    assert [contents(row) for row in read(path).rows] == [contents(row) for row in read("plain.csv").rows]


def test_a_pattern_that_matches_folders_reads_what_is_in_them_and_links_are_followed(tmp_path):
    frame = pd.read_csv(HERE / "plain.csv", dtype=str)
    (tmp_path / "data" / "part-1").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    frame[:1].to_csv(tmp_path / "data" / "part-0.csv", index=False)
    frame[1:2].to_csv(tmp_path / "data" / "part-1" / "rows.csv", index=False)
    frame[2:].to_csv(tmp_path / "elsewhere" / "rows.csv", index=False)
    (tmp_path / "data" / "part-2").symlink_to(tmp_path / "elsewhere")
    assert [row.id for row in read(tmp_path / "data" / "part-*").rows] == ["1", "2", "3"]
    assert [row.id for row in read(tmp_path / "data").rows] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["more.tsv", "more.csv.bz2", "more.arrow"])
def test_a_folder_with_data_that_cannot_be_read_is_an_error_and_not_a_part_of_it(tmp_path, name):
    (tmp_path / "good.csv").write_bytes((HERE / "plain.csv").read_bytes())
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"{name}, which cannot be read"):
        read(tmp_path)


def test_a_column_that_counts_and_comes_up_late_is_an_error(tmp_path):
    rows = [{"id": str(number), "prompt": "p", "response_a": "a", "response_b": "b"} for number in range(1100)]
    rows[1050] |= {"winner": "tie"}
    with pytest.raises(DataError, match="winner comes up in data row 1,051 for the first time"):
        read(write_json_lines(tmp_path / "late.jsonl", *rows))


def test_a_key_that_stands_twice_is_a_bad_line(tmp_path):
    path = tmp_path / "twice.jsonl"
    good = json.dumps({"id": "1", "prompt": "p", "response_a": "a", "response_b": "b"})
    path.write_text(f"{good}\n" + good.replace("}", ', "prompt": "q"}') + "\n")
    (bad,) = read_checked_rows(SourceRequest(path)).set_aside
    assert (bad["kind"], bad["detail"]) == ("bad_line", "no JSON (key 'prompt' stands twice)")


def test_a_link_back_into_the_folder_does_not_read_rows_twice(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_bytes((HERE / "plain.csv").read_bytes())
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    assert [row.id for row in read(tmp_path / "data").rows] == ["1", "2", "3"]
