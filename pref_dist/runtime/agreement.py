"""Work on files that must succeed on every rank, or fail on every rank with the same error."""

import errno
from collections.abc import Callable
from typing import TypeVar, cast

from pref_dist.errors import CheckpointError, DataError
from pref_dist.runtime.parallel import Parallel

T = TypeVar("T")

# These do not say themselves whose limit was reached.
LIMITS = {
    errno.EDQUOT: " (the user's or the group's quota)",
    errno.EFBIG: " (the limit on a file's size, ulimit -f, or the file system's own)",
}


def agree(parallel: Parallel, what: str, work: Callable[[], T]) -> list[T]:
    """Do this rank's part of writing `what`; return all ranks' results, in the order of ranks. Collective.

    Raises CheckpointError on every rank, with what went wrong and where, if any rank met an OSError or
    a CheckpointError.
    """
    result: T | None = None
    failure: OSError | CheckpointError | None = None
    try:
        result = work()
    except (OSError, CheckpointError) as error:
        failure = error
    outcomes = parallel.gather((result, "" if failure is None else explain(failure)))
    failures = [f"rank {rank}: {text}" for rank, (_, text) in enumerate(outcomes) if text]
    if failures:
        raise CheckpointError(describe_failures(what, failures)) from failure
    return [cast(T, part) for part, _ in outcomes]


def on_main(parallel: Parallel, what: str, work: Callable[[], None]) -> None:
    """Let rank 0 write `what` while the others wait; as `agree` where that fails. Collective."""
    agree(parallel, what, work if parallel.is_main else lambda: None)


def check_on_main(parallel: Parallel, work: Callable[[], T]) -> T | None:
    """Return what `work` gives on rank 0, None on the others; its DataError is raised on every rank. Collective.

    So that nobody waits in the next collective for a rank 0 that has left.
    """
    result: T | None = None
    complaint = ""
    if parallel.is_main:
        try:
            result = work()
        except DataError as error:
            complaint = str(error)
    complaint = parallel.broadcast(complaint)
    if complaint:
        raise DataError(complaint)
    return result


def describe_failures(what: str, failures: list[str]) -> str:
    return (
        f"{what} could not be written: {'; '.join(failures)}. Older checkpoints are untouched; "
        "make room or mend the disk and start the same command again."
    )


def explain(error: OSError | CheckpointError) -> str:
    """Return the error's text, and whose limit it was where that isn't the disk itself."""
    number = error.errno if isinstance(error, OSError) else None
    return (str(error) or type(error).__name__) + LIMITS.get(number or 0, "")
