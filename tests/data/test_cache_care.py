import json
import os
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pref_dist.data.cache import open_tokens
from pref_dist.data.cache_care import CleanRequest, clean, list_entries, verify_entries
from pref_dist.data.cache_lock import hold_lock, lock_path
from pref_dist.errors import DataError


@pytest.fixture
def cache_dir(tmp_path, write_csv, data, wordpiece) -> Path:
    """A cache folder with an entry of 3 rows and one of 5 rows, of which one is set aside."""
    folder = tmp_path / "cache"
    open_tokens(write_csv(3, "three.csv"), data, wordpiece, folder)
    five = data.model_copy(update={"template": "seed_joint", "truncation": "right"})
    open_tokens(write_csv(5, "five.csv"), five, wordpiece, folder)
    return folder


def entry_of(cache_dir: Path, num_rows: int) -> Path:
    (entry,) = (entry for entry in list_entries(cache_dir) if entry.num_rows == num_rows)
    return cache_dir / entry.key


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_every_entry_is_listed_with_what_it_holds(cache_dir, tmp_path):
    entries = {entry.num_rows: entry for entry in list_entries(cache_dir)}
    assert set(entries) == {3, 5}
    assert entries[5].settings == "seed_joint, right, 96"
    assert entries[3].settings == "joint, fair, 96"
    assert entries[3].built_from == str(tmp_path / "three.csv")
    assert entries[3].num_bytes == sum(file.stat().st_size for file in entry_of(cache_dir, 3).iterdir())
    assert 0 <= entries[3].age_days < 1
    assert not any(entry.damage for entry in entries.values())


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="There is no cache folder"):
        list_entries(tmp_path / "nowhere")


def test_verify_names_the_file_with_the_flipped_byte_and_no_other_entry(cache_dir):
    flip_a_byte(entry_of(cache_dir, 5) / "rows-00000.arrow")
    damaged = [entry for entry in verify_entries(cache_dir) if entry.damage]
    assert [entry.key for entry in damaged] == [entry_of(cache_dir, 5).name]
    assert "rows-00000.arrow is not as it was written" in damaged[0].damage
    assert not verify_entries(cache_dir, entry_of(cache_dir, 3).name[:8])[0].damage
    with pytest.raises(DataError, match="no entry whose key begins with zzz"):
        verify_entries(cache_dir, "zzz")


def test_an_entry_whose_manifest_is_gone_is_listed_as_damaged(cache_dir):
    folder = entry_of(cache_dir, 3)
    (folder / "manifest.json").unlink()
    (damaged,) = (entry for entry in list_entries(cache_dir) if entry.damage)
    assert damaged.key == folder.name


def test_clean_without_options_removes_what_killed_builders_left_and_nothing_else(cache_dir):
    leftover = cache_dir / ("0" * 64 + ".tmp-1234")
    leftover.mkdir()
    (leftover / "rows-00000.arrow").write_bytes(b"half")
    assert [one.name for one in clean(cache_dir, CleanRequest(dry_run=True))] == [leftover.name]
    assert leftover.exists()
    (removed,) = clean(cache_dir, CleanRequest())
    assert (removed.name, removed.num_bytes, removed.in_use) == (leftover.name, 4, False)
    assert not leftover.exists()
    assert len(list_entries(cache_dir)) == 2


def test_clean_removes_damaged_old_or_all_entries(cache_dir):
    old, young = entry_of(cache_dir, 3), entry_of(cache_dir, 5)
    long_ago = time.time() - 40 * 86_400
    os.utime(old / "manifest.json", (long_ago, long_ago))
    assert [one.name for one in clean(cache_dir, CleanRequest(older_than_days=30))] == [old.name]
    flip_a_byte(young / "rows-00000.arrow")
    assert clean(cache_dir, CleanRequest(older_than_days=30)) == []
    assert [one.name for one in clean(cache_dir, CleanRequest(damaged=True))] == [young.name]
    assert list_entries(cache_dir) == []
    assert clean(cache_dir, CleanRequest(everything=True)) == []


def test_an_entry_that_is_being_built_stays(cache_dir):
    folder = entry_of(cache_dir, 3)
    with FileLock(lock_path(cache_dir, folder.name)):
        removed = clean(cache_dir, CleanRequest(everything=True))
    assert [one.name for one in removed if one.in_use] == [folder.name]
    assert folder.exists()


def test_a_table_that_is_open_stays_readable_when_its_entry_is_cleaned(cache_dir, write_csv, data, wordpiece):
    table = open_tokens(write_csv(3, "three.csv"), data, wordpiece, cache_dir)
    before = [table.input_ids(row).tolist() for row in range(3)]
    clean(cache_dir, CleanRequest(everything=True))
    assert [table.input_ids(row).tolist() for row in range(3)] == before


def test_who_waits_for_another_builder_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pref_dist.data.cache_lock.WAIT_SECONDS", 0.05)
    told, is_held = [], threading.Event()

    def build() -> None:
        with hold_lock(tmp_path / "entry"):
            is_held.set()
            time.sleep(0.4)

    builder = threading.Thread(target=build)
    builder.start()
    assert is_held.wait(timeout=20)
    with hold_lock(tmp_path / "entry", lambda: told.append(1)):
        assert told == [1]
    builder.join()


def test_a_build_tells_its_progress(tmp_path, write_csv, data, wordpiece):
    class Watch:
        def __init__(self):
            self.calls = []

        def wait(self, source):
            raise AssertionError("nobody else builds")

        def advance(self, source, share_read, num_rows, num_tokens, seconds):
            self.calls.append((share_read, num_rows, num_tokens))

    watch = Watch()
    table = open_tokens(write_csv(1200), data, wordpiece, tmp_path / "cache", watch=watch)
    shares, rows, tokens = zip(*watch.calls, strict=True)
    assert list(shares) == sorted(shares)
    assert shares[-1] == 1.0
    assert 0 < shares[0] < 1
    assert (rows[-1], tokens[-1]) == (1200, table.num_tokens)


def test_the_manifest_says_how_the_source_was_read(cache_dir):
    manifest = json.loads((entry_of(cache_dir, 3) / "manifest.json").read_text())
    assert manifest["format"] == "lmsys"
    assert manifest["rows_of_file"] == [3]
    assert manifest["unused_columns"] == {"model_a": None}
