"""A small file that unpacks to very much is refused before it fills memory or disk."""

import gzip
from pathlib import Path

import pyarrow as pa

import pref_dist
from tests.security.place import Place, refusal

BLOCK = b"x" * 2**20
NUM_BLOCKS = 300  # MiB; more than 256 are refused


def write_gz(path: Path, before: bytes, after: bytes = b"") -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(before)
        for _ in range(NUM_BLOCKS):
            file.write(BLOCK)
        file.write(after)
    return path


def assert_refused(path: Path) -> None:
    said = refusal(lambda: pref_dist.inspect_data(path))
    assert "unpacks to more than 200 times its size" in said, said


def a_packed_table_of_one_cell(place: Place) -> None:
    path = write_gz(place.folder / "rows.csv.gz", b"id,prompt,response_a,response_b\n1,a,b,", b"\n")
    assert_refused(path)


def a_packed_line_of_json(place: Place) -> None:
    path = write_gz(place.folder / "rows.jsonl.gz", b'{"prompt": "', b'"}\n')
    assert_refused(path)


def a_packed_list_of_json(place: Place) -> None:
    path = write_gz(place.folder / "rows.json.gz", b'[{"prompt": "', b'"}]')
    assert_refused(path)


def a_packed_file_of_zstandard(place: Place) -> None:
    path = place.folder / "rows.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(b'{"prompt": "')
        for _ in range(NUM_BLOCKS):
            file.write(BLOCK)
    assert_refused(path)


def a_packed_table_that_would_fill_the_disk(place: Place) -> None:
    path = write_gz(place.folder / "rows.parquet.gz", b"PAR1")
    assert_refused(path)


def json_that_is_nested_very_deep(place: Place) -> None:
    path = place.folder / "rows.jsonl"
    deep = "[" * 100_000 + "]" * 100_000
    path.write_text(f'{{"id": 1, "prompt": {deep}, "response_a": "a", "response_b": "b"}}\n')
    refusal(lambda: pref_dist.inspect_data(path))
