"""Builders of the cache killed at random moments: the next start makes a whole entry, and nothing is left behind.

PREF_DIST_KILLS=20 kills as often; run with `-s` to see what became of each.
"""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from pref_dist.data.cache import open_tokens
from pref_dist.data.cache_entry import check_entry
from pref_dist.data.cache_lock import TEMPORARY, lock_path
from pref_dist.data.table import TokenTable

NUM_KILLS = int(os.environ.get("PREF_DIST_KILLS", "4"))
NUM_ROWS = 10_000  # the first shard is opened after 8,192
DEADLINE_SECONDS = 60
BUILDER = """
import pickle, sys
from pathlib import Path
from pref_dist.data.cache import open_tokens

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    source, data, tokenizer = pickle.loads((folder / "arguments.pickle").read_bytes())
    (folder / "started").touch()
    open_tokens(source, data, tokenizer, folder / "cache")
    (folder / "finished").touch()
"""


@pytest.fixture
def start_builder(tmp_path, write_csv, record, data, wordpiece):
    """Return a function that starts a process which opens a set, once it is past its imports."""
    source = write_csv([record(number, response_a=["the lazy dog jumps " * 8]) for number in range(NUM_ROWS)])
    (tmp_path / "builder.py").write_text(BUILDER)

    def start(num_workers: int) -> subprocess.Popen:
        config = data.model_copy(update={"num_workers": num_workers})
        (tmp_path / "arguments.pickle").write_bytes(pickle.dumps((source, config, wordpiece)))
        for name in ("started", "finished"):
            (tmp_path / name).unlink(missing_ok=True)
        with open(tmp_path / "errors.txt", "a", encoding="utf-8") as errors:  # killed semaphores are complained about
            process = subprocess.Popen([sys.executable, str(tmp_path / "builder.py"), str(tmp_path)], stderr=errors)
        wait_until((tmp_path / "started").exists)
        return process

    return start


def wait_until(is_true) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def time_build(start_builder, folder: Path, num_workers: int) -> float:
    """Return how long a build takes that nobody disturbs, and remove what it built."""
    process = start_builder(num_workers)
    started = time.monotonic()
    assert process.wait(DEADLINE_SECONDS) == 0
    seconds = time.monotonic() - started
    remove_entries(folder / "cache")
    return seconds


def remove_entries(cache_dir: Path) -> None:
    for entry in cache_dir.iterdir():
        if entry.is_dir():
            for file in entry.iterdir():
                file.unlink()
            entry.rmdir()


def kill(process: subprocess.Popen) -> list[psutil.Process]:
    """Kill a builder, and it alone; return the processes that it had started."""
    children = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return children


def what_is_there(cache_dir: Path) -> str:
    """Say how far a killed builder came."""
    folders = [path for path in cache_dir.glob("*") if path.is_dir()]
    if any(TEMPORARY not in path.name for path in folders):
        return "after the rename"
    if not folders:
        return "before its folder"
    return f"with {sum(1 for _ in folders[0].iterdir())} files"


def holds_files(cache_dir: Path) -> bool:
    return any(True for _ in cache_dir.glob("*/*"))


def reopen(folder: Path) -> TokenTable:
    source, data, tokenizer = pickle.loads((folder / "arguments.pickle").read_bytes())
    return open_tokens(source, data.model_copy(update={"num_workers": 0}), tokenizer, folder / "cache")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_start_after_a_kill_makes_a_whole_entry_and_leaves_nothing_behind(tmp_path, start_builder, num_workers):
    cache_dir, draw = tmp_path / "cache", random.Random(num_workers)
    build_seconds = time_build(start_builder, tmp_path, num_workers)
    moments: list[str] = []
    while len(moments) < max(1, NUM_KILLS // 2):
        builder = start_builder(num_workers)
        if len(moments) % 2 == 0:
            time.sleep(draw.uniform(0, 0.9 * build_seconds))
        else:  # among the files, whose time is short
            wait_until(lambda: holds_files(cache_dir))
            time.sleep(draw.uniform(0, 0.2 * build_seconds))
        children = kill(builder)
        if not (tmp_path / "finished").exists():  # else it was faster than we
            moments.append(what_is_there(cache_dir))
        table = reopen(tmp_path)
        assert check_entry(table.folder)["num_rows"] == len(table) == NUM_ROWS
        assert [path.name for path in cache_dir.iterdir() if path.is_dir()] == [table.folder.name]
        with FileLock(lock_path(cache_dir, table.folder.name), timeout=0):
            pass
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        remove_entries(cache_dir)
    killed = ", ".join(f"{moments.count(moment)} {moment}" for moment in dict.fromkeys(moments))
    print(f"\n{len(moments)} of {len(moments)} kills survived with num_workers={num_workers}: {killed}")
