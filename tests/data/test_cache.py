import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pref_dist.config.schema import DataSection, RunConfig
from pref_dist.data.cache import default_cache_dir, open_tokens
from pref_dist.data.cache_entry import check_entry, digest_json
from pref_dist.data.encode import RowEncoder
from pref_dist.data.folds import group_of
from pref_dist.data.ingest import SourceRequest
from pref_dist.data.pairs import pair_of
from pref_dist.data.table import TokenTable
from pref_dist.data.validate import read_checked_rows
from pref_dist.errors import DataError


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_table_holds_what_the_encoder_gives_for_every_row(write_csv, data, tokenizer, cache_dir):
    path = write_csv(700)
    table = open_tokens(path, data, tokenizer, cache_dir)
    rows = read_checked_rows(SourceRequest(path)).rows
    encoded = RowEncoder(tokenizer, data.max_tokens).encode(rows)
    assert len(table) == 700
    assert np.concatenate([table.input_ids(row) for row in range(700)]).tolist() == encoded.input_ids.tolist()
    assert table.lengths.tolist() == encoded.lengths.tolist()
    assert table.ids.to_pylist() == [row.id for row in rows]
    assert table.row_numbers.tolist() == list(range(1, 701))
    assert table.groups.tolist() == [group_of([row.turns[0].prompt]) for row in rows]
    assert table.pairs.tolist() == [pair_of(row.turns)[0] for row in rows]
    assert table.is_mirrored.tolist() == [pair_of(row.turns)[1] for row in rows]
    assert table.targets.tolist() == table.training_targets.tolist() == [list(row.target) for row in rows]
    assert table.weights.tolist() == [1.0] * 700
    assert (table.segment_ends == encoded.segment_ends).all()
    assert (table.full_lengths == encoded.full_lengths).all()
    assert (table.kept_lengths == encoded.kept_lengths).all()
    assert table.num_tokens == len(encoded.input_ids)


def test_types_and_shapes_are_as_declared_and_nothing_can_be_written(write_csv, data, wordpiece, cache_dir):
    table = open_tokens(write_csv(5), data, wordpiece, cache_dir)
    arrays = {
        "lengths": ((5,), np.int32),
        "row_numbers": ((5,), np.int64),
        "groups": ((5,), np.uint64),
        "pairs": ((5,), np.uint64),
        "is_mirrored": ((5,), np.bool_),
        "targets": ((5, 3), np.float64),
        "training_targets": ((5, 3), np.float64),
        "weights": ((5,), np.float64),
        "segment_ends": ((5, 3), np.int32),
        "full_lengths": ((5, 3), np.int32),
    }
    for name, (shape, dtype) in arrays.items():
        array = getattr(table, name)
        assert (array.shape, array.dtype) == (shape, dtype)
        assert not array.flags.writeable
    assert table.input_ids(0).dtype == np.int32
    assert not table.input_ids(0).flags.writeable
    for row in (-1, 5):
        with pytest.raises(IndexError):
            table.input_ids(row)


def test_a_second_start_opens_what_the_first_has_built(write_csv, data, wordpiece, cache_dir):
    path = write_csv(5)
    first = open_tokens(path, data, wordpiece, cache_dir)
    before = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    second = open_tokens(path, data, wordpiece, cache_dir)
    assert first.was_built
    assert not second.was_built
    assert second.digest == first.digest
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == before


def test_another_name_mtime_or_number_of_workers_finds_the_same_entry(write_csv, data, wordpiece, cache_dir, tmp_path):
    path = write_csv(5)
    first = open_tokens(path, data, wordpiece, cache_dir)
    moved = Path(shutil.copy(path, tmp_path / "other name.csv"))
    os.utime(moved, (1, 1))
    other = data.model_copy(update={"num_workers": 7, "train": "x", "cache_dir": "y", "valid_fraction": 0.5})
    second = open_tokens(moved, other, wordpiece, cache_dir)
    assert not second.was_built
    assert second.digest == first.digest


def test_whatever_decides_the_tokens_makes_another_entry(write_csv, record, data, wordpiece, byte_level, cache_dir):
    path = write_csv(5)
    other_path = write_csv([*(record(number) for number in range(4)), record(4, response_b=["!"])], "other.csv")
    tables = [
        open_tokens(path, data, wordpiece, cache_dir),
        open_tokens(other_path, data, wordpiece, cache_dir),
        open_tokens(path, data, byte_level, cache_dir),
        open_tokens(path, data.model_copy(update={"max_tokens": 97}), wordpiece, cache_dir),
        open_tokens(path, data.model_copy(update={"bad_rows": "keep"}), wordpiece, cache_dir),
        open_tokens(path, data.model_copy(update={"checks": {"null_text": "set_aside"}}), wordpiece, cache_dir),
        open_tokens(path, data.model_copy(update={"template": "seed_joint"}), wordpiece, cache_dir),
        open_tokens(path, data.model_copy(update={"clean": "seed_ascii"}), wordpiece, cache_dir),
        open_tokens(path, data.model_copy(update={"truncation": "right"}), wordpiece, cache_dir),
        open_tokens(path, data, wordpiece, cache_dir, with_labels=False),
    ]
    assert all(table.was_built for table in tables)
    assert len({table.digest for table in tables}) == 10


def test_the_same_rows_give_the_same_bytes_with_0_and_with_2_workers(write_csv, record, data, wordpiece, tmp_path):
    rows = [record(number, response_a=[f"{number} fox 日本語"] * (1 + number % 3)) for number in range(1200)]
    path = write_csv(rows)
    tables = []
    for num_workers in (0, 2):
        config = data.model_copy(update={"num_workers": num_workers, "bad_rows": "keep"})
        tables.append(open_tokens(path, config, wordpiece, tmp_path / str(num_workers)))
    one, two = ((table.folder / "manifest.json").read_text() for table in tables)
    assert tables[0].was_built
    assert tables[1].was_built
    assert one == two
    assert check_entry(tables[0].folder)["files"] == check_entry(tables[1].folder)["files"]


def test_rows_set_aside_are_kept_with_the_entry_and_carry_the_file_that_was_opened(
    write_csv, record, data, wordpiece, cache_dir, tmp_path
):
    path = write_csv([record(1), record(2, prompt="[1]"), record(3, id=""), record(4, response_a=[None])])
    built = open_tokens(path, data, wordpiece, cache_dir)
    moved = Path(shutil.copy(path, tmp_path / "moved.csv"))
    opened = open_tokens(moved, data, wordpiece, cache_dir)
    assert [(bad["file"], bad["row"], bad["kind"]) for bad in opened.set_aside] == [
        (str(moved), 2, "bad_json"),
        (str(moved), 3, "empty_id"),
    ]
    assert built.row_numbers.tolist() == [1, 4]
    assert len(built) + len(built.set_aside) == built.num_rows_in_file == 4
    assert built.findings == {"bad_json": 1, "empty_id": 1, "null_text": 1}


def test_an_unlabelled_file_gives_a_table_without_targets(write_csv, data, wordpiece, cache_dir):
    path = write_csv(3, columns=("id", "prompt", "response_a", "response_b"))
    table = open_tokens(path, data, wordpiece, cache_dir)
    assert not table.is_labelled
    assert np.isnan(table.targets).all()


def test_a_source_that_cannot_be_used_leaves_nothing_in_the_cache(write_csv, record, wordpiece, cache_dir):
    path = write_csv([record(1), record(2, prompt="[1]")])
    with pytest.raises(DataError, match=r"data\.bad_rows=fail"):
        open_tokens(path, DataSection(bad_rows="fail", max_tokens=96), wordpiece, cache_dir)
    assert [name for name in names_in(cache_dir) if not name.endswith(".lock")] == []


def test_a_source_that_is_not_there_is_an_error(data, wordpiece, cache_dir, tmp_path):
    with pytest.raises(DataError, match=r"no\.csv cannot be read"):
        open_tokens(tmp_path / "no.csv", data, wordpiece, cache_dir)


def test_the_audit_of_truncation_is_kept_with_the_entry(write_csv, record, data, wordpiece, cache_dir):
    path = write_csv([record(1), record(2, prompt=["fox " * 200])])
    table = open_tokens(path, data, wordpiece, cache_dir)
    assert table.truncation["rows_cut"] == 1
    assert table.truncation["rows_without_response_b"] == 0
    assert table.truncation["rows_without_response_b_under_right_truncation"] == 1
    assert table.truncation["tokens_lost"] == int((table.full_lengths - table.kept_lengths).sum())
    generous = data.model_copy(update={"max_tokens": table.truncation["longest_row"]})
    assert open_tokens(path, generous, wordpiece, cache_dir).truncation["rows_cut"] == 0


@pytest.mark.parametrize("name", ["rows-00000.arrow", "manifest.json", "truncation.json", "set_aside.jsonl"])
def test_a_flipped_byte_is_found_by_the_check(write_csv, record, data, wordpiece, cache_dir, name):
    table = open_tokens(write_csv([record(1), record(2, id="")]), data, wordpiece, cache_dir)
    assert check_entry(table.folder)["num_rows"] == 1
    content = bytearray((table.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (table.folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"damaged: .*{name}.*Delete the folder"):
        check_entry(table.folder)


@pytest.mark.parametrize("damage", ["cut", "missing", "flipped"])
def test_a_shard_that_is_cut_or_gone_or_flipped_is_found_on_opening(write_csv, data, wordpiece, cache_dir, damage):
    path = write_csv(3)
    shard = open_tokens(path, data, wordpiece, cache_dir).folder / "rows-00000.arrow"
    content = shard.read_bytes()
    shard.unlink()
    if damage == "cut":
        shard.write_bytes(content[:-1])
    if damage == "flipped":
        middle = len(content) // 2
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(DataError, match=r"damaged: .*rows-00000\.arrow"):
        open_tokens(path, data, wordpiece, cache_dir)


def test_an_entry_under_a_wrong_name_is_found_by_the_check(write_csv, data, wordpiece, cache_dir):
    folder = open_tokens(write_csv(3), data, wordpiece, cache_dir).folder
    with pytest.raises(DataError, match="belongs to another entry"):
        check_entry(folder.rename(folder.with_name("0" * 64)))


def test_opening_an_entry_writes_nothing_so_the_folder_may_be_read_only(write_csv, data, wordpiece, cache_dir):
    path = write_csv(3)
    folder = open_tokens(path, data, wordpiece, cache_dir).folder
    for lock in cache_dir.glob("*.lock"):
        lock.unlink()
    folder.chmod(0o555)
    cache_dir.chmod(0o555)
    before = cache_dir.stat().st_mtime_ns
    table = open_tokens(path, data, wordpiece, cache_dir)
    assert not table.was_built
    assert len(table.input_ids(2)) == table.lengths[2]
    assert names_in(cache_dir) == {table.folder.name}
    assert cache_dir.stat().st_mtime_ns == before
    cache_dir.chmod(0o755)


def test_a_cache_folder_that_cannot_be_written_is_an_error_with_a_remedy(write_csv, data, wordpiece, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written .* data.cache_dir or PREF_DIST_CACHE_DIR"):
        open_tokens(write_csv(3), data, wordpiece, tmp_path / "file" / "cache")


def test_a_table_of_several_batches_and_shards_is_one_table(write_csv, data, wordpiece, cache_dir, monkeypatch):
    path = write_csv(1500)
    whole = open_tokens(path, data, wordpiece, cache_dir / "whole")
    for name, value in {"ROWS_PER_BATCH": 100, "ROWS_PER_SHARD": 600}.items():
        monkeypatch.setattr(f"pref_dist.data.shards.{name}", value)
    parts = open_tokens(path, data, wordpiece, cache_dir / "parts")
    assert len(list(parts.folder.glob("*.arrow"))) == 2
    check_entry(parts.folder)
    assert_equal_tables(parts, whole)


def assert_equal_tables(one: TokenTable, other: TokenTable) -> None:
    assert len(one) == len(other)
    assert one.ids.to_pylist() == other.ids.to_pylist()
    for name in ("lengths", "row_numbers", "groups", "targets", "segment_ends", "full_lengths", "kept_lengths"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert all((one.input_ids(row) == other.input_ids(row)).all() for row in range(len(one)))


def test_the_manifest_says_what_the_key_is_made_of(write_csv, data, wordpiece, cache_dir):
    table = open_tokens(write_csv(3), data, wordpiece, cache_dir)
    key_parts = json.loads((table.folder / "manifest.json").read_text())["key_parts"]
    assert key_parts["tokenizer"] == wordpiece.digest
    assert key_parts["max_tokens"] == data.max_tokens
    assert set(key_parts) == {
        *("schema_version", "layout_version", "files", "format", "policies", "tokenizer"),
        *("template", "clean", "truncation", "max_tokens"),
    }


def test_what_an_entry_holds_beside_its_tokens_is_no_part_of_what_runs_are_bound_to(
    write_csv, data, wordpiece, cache_dir
):
    """Else a run from before an entry held more could neither go on nor evaluate its own rows."""
    table = open_tokens(write_csv(3), data, wordpiece, cache_dir)
    before_layouts = {name: part for name, part in table.manifest["key_parts"].items() if name != "layout_version"}
    assert table.folder.name != table.digest == digest_json(before_layouts)
    assert before_layouts["schema_version"] == 4


def test_the_cache_folder_is_taken_from_config_then_environment_then_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("PREF_DIST_CACHE_DIR", raising=False)
    assert default_cache_dir(RunConfig()) == Path("/home/somebody/.cache/pref_dist")
    monkeypatch.setenv("PREF_DIST_CACHE_DIR", "/scratch/cache")
    assert default_cache_dir(RunConfig()) == Path("/scratch/cache")
    assert default_cache_dir(RunConfig(data=DataSection(cache_dir="~/mine"))) == Path("/home/somebody/mine")


def test_the_same_bytes_read_as_another_kind_of_file_are_another_entry(record, data, wordpiece, cache_dir, tmp_path):
    rows = [{name: f"{name} {number}" for name in ("id", "prompt", "response_a", "response_b")} for number in range(3)]
    for name in ("file.json", "file.jsonl"):
        (tmp_path / name).write_text(json.dumps(rows[:1]) if name == "file.json" else json.dumps(rows[0]))
    content = (tmp_path / "file.json").read_text()
    (tmp_path / "same.jsonl").write_text(content)
    assert len(open_tokens(tmp_path / "file.json", data, wordpiece, cache_dir)) == 1
    with pytest.raises(DataError):
        open_tokens(tmp_path / "same.jsonl", data, wordpiece, cache_dir)


def test_a_table_knows_all_it_needs_when_its_entry_is_cleaned(write_csv, record, data, wordpiece, cache_dir):
    table = open_tokens(write_csv([record(1), record(2, id="")]), data, wordpiece, cache_dir)
    shutil.rmtree(table.folder)
    assert [bad["kind"] for bad in table.set_aside] == ["empty_id"]
    assert table.truncation["num_rows"] == 1


@pytest.mark.parametrize("content", ["[]", "3", "{}", "", '{"manifest_sha256": "x"}'])
def test_a_manifest_that_is_none_is_damage_and_no_traceback(write_csv, data, wordpiece, cache_dir, content):
    path = write_csv(3)
    (open_tokens(path, data, wordpiece, cache_dir).folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"damaged: .*manifest\.json"):
        open_tokens(path, data, wordpiece, cache_dir)
