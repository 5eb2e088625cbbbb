"""One builder for each cache entry, and no trace of one that was killed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import current_process
from pathlib import Path

from filelock import FileLock, Timeout

from pref_dist.errors import DataError

TEMPORARY = ".tmp-"


WAIT_SECONDS = 2.0  # before anybody is told that another process is building


@contextmanager
def hold_lock(folder: Path, tell_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only process that builds the cache entry `folder`; wait for another that does.

    `tell_waiting` is called once if that takes more than a moment.

    The kernel releases the lock when its owner ends, however it ends. The lock file stays: to
    remove it would let two processes hold "the" lock. Raises DataError if the cache folder
    cannot be written.
    """
    check_not_starting_worker()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path(folder.parent, folder.name))
        try:
            lock.acquire(timeout=WAIT_SECONDS)
        except Timeout:
            tell_waiting()
            lock.acquire()
    except OSError as error:
        raise DataError(
            f"The token cache folder {folder.parent} cannot be written ({error.strerror}) and does not hold this data "
            f"yet. Set data.cache_dir or PREF_DIST_CACHE_DIR to a folder that can, or prepare the data there first."
        ) from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(cache_dir: Path, key: str) -> None:
    """Remove the temporary folders of builders that are gone; the caller holds the lock of `key`."""
    for folder in cache_dir.glob(f"*{TEMPORARY}*"):
        owner = folder.name.split(TEMPORARY)[0]
        if owner == key:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            with FileLock(lock_path(cache_dir, owner), timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            pass  # its builder is alive, or it is not ours to remove


def lock_path(cache_dir: Path, key: str) -> Path:
    return cache_dir / f"{key}.lock"


def check_not_starting_worker() -> None:
    """Raise DataError in a worker that runs the user's script again while it starts.

    Without its `if __name__ == "__main__"` a script is run by every spawned worker, which would
    then wait for the lock of the very process that waits for the worker.
    """
    if getattr(current_process(), "_inheriting", False):
        raise DataError('Put the script\'s own code under `if __name__ == "__main__":`, or set data.num_workers=0.')
