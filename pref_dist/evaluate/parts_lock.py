"""One job at a time in a folder of parts: a second one would throw away what the first is about to read."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pref_dist.errors import DataError
from pref_dist.runtime.agreement import check_on_main
from pref_dist.runtime.parallel import Parallel

LOCK = ".lock"


@contextmanager
def only_one_job(folder: Path, parallel: Parallel) -> Iterator[None]:
    """Hold a folder of parts on rank 0 while the work in it is done; it goes again if nothing is left in it.

    Collective. Raises DataError on every rank if another job is in it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK)
    check_on_main(parallel, lambda: acquire(lock, folder))
    try:
        yield
    finally:
        if parallel.is_main:
            # While it is held: nobody waits for it, and whoever comes next makes a new one.
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
            lock.release()


def acquire(lock: FileLock, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"Another process keeps its finished batches in {folder}. Wait for it; or let this one write elsewhere: a "
            "prediction by another --out, an evaluation by a copy of the run or of the data under another name."
        ) from error
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}). Finished batches are kept there.") from error
