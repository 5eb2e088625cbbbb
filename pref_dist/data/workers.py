"""Encodes chunks of rows in worker processes; the result is the same as in one process."""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process

from pref_dist.data.encode import EncodedRows, RowEncoder, TokenizerSpec
from pref_dist.data.rows import Row
from pref_dist.errors import DataError

ROWS_PER_CHUNK = 512
CHARACTERS_PER_CHUNK = 2**20
# A worker needs about a second to start; in that time one process encodes about so much.
WORKERS_PAY_FROM_BYTES = 8 * 2**20

_encoder: RowEncoder | None = None  # the worker's own, set once when it starts


def count_workers(wanted: int | None, num_bytes: int) -> int:
    """Return how many workers to start for a file of that size; 0 means the calling process itself.

    A number in `wanted` (data.num_workers) is taken as it is; None leaves it to the size and the cores.
    """
    if wanted is not None:
        return wanted
    num_cores = count_cores()
    return num_cores if num_cores > 1 and num_bytes >= WORKERS_PAY_FROM_BYTES else 0


def count_cores() -> int:
    """Return the cores that this process may use: under Slurm fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def iterate_chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Group rows, in their order, into chunks of bounded size; a chunk holds at least one row."""
    chunk: list[Row] = []
    num_characters = 0
    for row in rows:
        chunk.append(row)
        num_characters += sum(map(len, (text for turn in row.turns for text in turn)))
        if len(chunk) >= ROWS_PER_CHUNK or num_characters >= CHARACTERS_PER_CHUNK:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def encode_chunks(chunks: Iterable[list[Row]], encoder: RowEncoder, num_workers: int) -> Iterator[EncodedRows]:
    """Yield the encoded chunks in the order of `chunks`.

    Few chunks are under way at a time, so memory does not grow with the file. Raises DataError
    if a worker dies.
    """
    if num_workers == 0:
        yield from map(encoder.encode, chunks)
        return
    # Workers are started afresh: a fork of a process with threads (torch, tokenizers) may hang.
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=get_context("spawn"),
        initializer=start_worker,
        initargs=(encoder.tokenizer, encoder.max_tokens, encoder.template_name, encoder.truncation, encoder.clean),
    )
    try:
        yield from encode_in_pool(pool, iter(chunks), num_in_flight=2 * num_workers)
    except BrokenProcessPool as error:
        raise DataError(
            f"One of {num_workers} tokenising processes died, most likely for want of memory. "
            f"Start again with a smaller data.num_workers, or with 0."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def encode_in_pool(pool: ProcessPoolExecutor, chunks: Iterator[list[Row]], num_in_flight: int) -> Iterator[EncodedRows]:
    waiting: deque[Future[EncodedRows]] = deque(
        pool.submit(encode_in_worker, chunk) for chunk in islice(chunks, num_in_flight)
    )
    while waiting:
        encoded = waiting.popleft().result()
        waiting.extend(pool.submit(encode_in_worker, chunk) for chunk in islice(chunks, 1))
        yield encoded


def start_worker(tokenizer: TokenizerSpec, max_tokens: int, template: str, truncation: str, clean: str) -> None:
    global _encoder
    # Ctrl-C goes to the whole group; the parent ends its workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The processes are the parallelism; threads inside them would only fight for the cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=exit_with_parent, daemon=True).start()
    _encoder = RowEncoder(tokenizer, max_tokens, template, truncation, clean)


def exit_with_parent() -> None:
    """End this worker when its parent is gone, by kill -9 too; it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def encode_in_worker(rows: list[Row]) -> EncodedRows:
    assert _encoder is not None
    return _encoder.encode(rows)
