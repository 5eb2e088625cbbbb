"""Several real processes at one cache, and builders that are killed."""

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pref_dist.data.cache import describe_key, open_tokens
from pref_dist.data.cache_build import BuildJob, build_entry
from pref_dist.data.cache_entry import check_entry
from pref_dist.data.encode import RowEncoder
from pref_dist.data.ingest import SourceRequest
from pref_dist.errors import DataError
from pref_dist.findings import Policies

BUILDER = """
import pickle, sys, time
from pathlib import Path
from pref_dist.data.cache import open_tokens

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    source, data, tokenizer = pickle.loads((folder / "arguments.pickle").read_bytes())
    (folder / f"ready-{sys.argv[2]}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    table = open_tokens(source, data, tokenizer, folder / "cache")
    print(int(table.was_built), len(table), table.folder.name, int(table.input_ids(len(table) - 1).sum()))
"""
DEADLINE_SECONDS = 60


@pytest.fixture
def start_builder(tmp_path, write_csv, record, data, wordpiece):
    """Start a process that opens a set of 4,000 rows, and end it after the test."""
    started = []
    path = write_csv([record(number, response_a=["the lazy dog jumps " * 60]) for number in range(4000)])
    (tmp_path / "builder.py").write_text(BUILDER)

    def start(num_workers: int = 0) -> subprocess.Popen:
        config = data.model_copy(update={"num_workers": num_workers})
        (tmp_path / "arguments.pickle").write_bytes(pickle.dumps((path, config, wordpiece)))
        command = [sys.executable, str(tmp_path / "builder.py"), str(tmp_path), str(len(started))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        wait_until(lambda: (tmp_path / f"ready-{len(started) - 1}").exists())
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def reopen(tmp_path):
    def reopen_here():
        source, data, tokenizer = pickle.loads((tmp_path / "arguments.pickle").read_bytes())
        return open_tokens(source, data.model_copy(update={"num_workers": 0}), tokenizer, tmp_path / "cache")

    return reopen_here


def wait_until(is_true) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finish(process: subprocess.Popen) -> list[str]:
    output, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, errors
    return output.split()


def unfinished(cache_dir: Path) -> list[Path]:
    return list(cache_dir.glob("*.tmp-*"))


def test_four_builders_at_once_make_one_cache(tmp_path, start_builder):
    builders = [start_builder() for _ in range(4)]
    (tmp_path / "go").touch()
    results = [finish(builder) for builder in builders]
    assert sum(int(result[0]) for result in results) == 1
    assert len({tuple(result[1:]) for result in results}) == 1
    assert [folder.name for folder in (tmp_path / "cache").iterdir() if folder.is_dir()] == [results[0][2]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_builder_leaves_nothing_that_looks_whole(tmp_path, start_builder, reopen, num_workers):
    builder = start_builder(num_workers)
    (tmp_path / "go").touch()
    wait_until(lambda: unfinished(tmp_path / "cache"))
    if num_workers:
        wait_until(lambda: len(psutil.Process(builder.pid).children()) > num_workers)
    children = psutil.Process(builder.pid).children(recursive=True)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert len(unfinished(tmp_path / "cache")) == 1
    table = reopen()
    assert table.was_built
    assert check_entry(table.folder)["num_rows"] == 4000
    assert not unfinished(tmp_path / "cache")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_waiting_process_takes_over_from_a_killed_builder(tmp_path, start_builder):
    first = start_builder()
    (tmp_path / "go").touch()
    wait_until(lambda: unfinished(tmp_path / "cache"))
    second = start_builder()
    first.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert finish(second)[:2] == ["1", "4000"]
    assert not unfinished(tmp_path / "cache")


def test_a_builder_removes_what_killed_builders_of_other_entries_left(tmp_path, write_csv, data, wordpiece):
    leftover = tmp_path / "cache" / ("0" * 64 + ".tmp-1234")
    leftover.mkdir(parents=True)
    (leftover / "rows-00000.arrow").write_bytes(b"half")
    open_tokens(write_csv(3), data, wordpiece, tmp_path / "cache")
    assert not leftover.exists()


def test_a_script_without_a_main_guard_is_told_so_and_does_not_hang(tmp_path, start_builder):
    script = BUILDER.replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "builder.py").write_text(script)
    builder = start_builder(num_workers=1)
    (tmp_path / "go").touch()
    _, errors = builder.communicate(timeout=DEADLINE_SECONDS)
    assert builder.returncode != 0
    assert "__main__" in errors


def test_a_source_that_changes_while_it_is_read_makes_no_entry(tmp_path, write_csv, data, wordpiece):
    request = SourceRequest(write_csv(3))
    key_parts = describe_key(request, data, wordpiece)
    write_csv(4)
    job = BuildJob(request, Policies(), RowEncoder(wordpiece, 96), key_parts, num_workers=0)
    with pytest.raises(DataError, match="changed while it was read"):
        build_entry(tmp_path / "key", job)
    assert not [*tmp_path.glob("key*")]
