"""Writes a run's checkpoints, at the step border or, with train.async_save, while the training goes on.

At the border every rank walks over the whole state, which is collective, and keeps its own shards. Then each writes
its files for itself. Behind the training's back no collective may run, since two threads' would interleave; so the
ranks learn from the sum that they take at every step border anyway (`is_writing`) that all of them have written. At
such a border, and again collectively, rank 0 adds the manifest and gives the folder its name.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pref_dist.errors import CheckpointError
from pref_dist.files import describe_file, render_bytes, render_json, sync, write_bytes, write_json
from pref_dist.models.sizes import measure_module
from pref_dist.runtime.agreement import agree, on_main
from pref_dist.runtime.checkpoint import (
    FORMAT_VERSION,
    folder_of_step,
    name_checkpoint,
    remove_leftovers,
    temporary_of,
)
from pref_dist.runtime.engine import Engine, ParameterState
from pref_dist.runtime.log import Stopwatch
from pref_dist.runtime.parallel import Parallel

SHARD_BYTES = 1 << 26  # of parameter values; the moments of a shard take twice as much
SPARE_BYTES = 1 << 20  # for the headers of the shards, the manifest, and what the run writes beside the checkpoint
POLL_SECONDS = 0.02
ASSUMED_BYTES_PER_SECOND = 100e6  # of a file server that many share, until a save was measured

Shard = dict[str, ParameterState]
Entries = dict[str, dict[str, Any]]  # what the manifest says of files: name -> {bytes, sha256}


@dataclass(frozen=True)
class PendingSave:
    """A checkpoint that is not complete yet. written: this rank's files, or why it could not write them."""

    target: Path
    step: int
    written: Future[Entries]

    @property
    def temporary(self) -> Path:
        return temporary_of(self.target)

    @property
    def name(self) -> str:
        return f"The checkpoint of step {self.step}"


class CheckpointWriter:
    """One checkpoint at a time: `save` begins it, `complete` makes it the newest.

    state_bytes: of all parameters with their moments (`measure_state`). in_background: what the ranks write they
    copy to the host's memory first, so that training can go on at once. timeout_seconds: how long `complete`
    waits for a rank's writing.
    """

    def __init__(
        self,
        checkpoints: Path,
        parallel: Parallel,
        state_bytes: int,
        in_background: bool,
        timeout_seconds: float,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._checkpoints, self._parallel = checkpoints, parallel
        self._state_bytes, self._shard_bytes = state_bytes, shard_bytes
        self._timeout_seconds = timeout_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if in_background else None
        self._pending: PendingSave | None = None
        self._since_begin, self._longest_seconds = Stopwatch(), 0.0

    @property
    def expected_seconds(self) -> float:
        """How long a save may take: the longest so far, from its begin to its name; before the first an estimate."""
        return self._longest_seconds or self._state_bytes / ASSUMED_BYTES_PER_SECOND

    def check_room(self) -> None:
        """Raise OSError if there is no room for a checkpoint. Rank 0 only, before the first one."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._checkpoints)
        check_room(self._checkpoints, self._state_bytes + SPARE_BYTES)

    def save(self, step: int, engine: Engine, progress: dict[str, Any], files: Mapping[str, bytes]) -> None:
        """Begin a checkpoint of `step` finished steps with rank 0's `files`; collective.

        Raises CheckpointError on every rank if there is no room for it.
        """
        assert self._pending is None, "the checkpoint before must be complete"
        self._since_begin.restart()
        target = folder_of_step(self._checkpoints, step)
        contents = {"progress.json": render_json(progress).encode(), **files} if self._parallel.is_main else {}
        needed = self._state_bytes + sum(map(len, contents.values())) + SPARE_BYTES
        on_main(self._parallel, f"The checkpoint of step {step}", lambda: make_folder(temporary_of(target), needed))
        shards = own_shards(engine.read_state(), self._parallel, self._shard_bytes)
        self._pending = PendingSave(target, step, self._begin(temporary_of(target), shards, contents))

    def _begin(
        self, folder: Path, shards: Iterator[tuple[int, Shard]], contents: Mapping[str, bytes]
    ) -> Future[Entries]:
        if self._thread is not None:
            return self._thread.submit(write_files, folder, iter(list(shards)), contents)
        written: Future[Entries] = Future()
        try:
            written.set_result(write_files(folder, shards, contents))
        except OSError as error:
            written.set_exception(error)
        # Reading the state is collective: an error must not keep a rank from the rest of the walk.
        for _ in shards:
            pass
        return written

    def is_writing(self) -> bool:
        """Whether this rank has still to write files of the checkpoint under way; not collective."""
        return self._pending is not None and not self._pending.written.done()

    def complete(self) -> Path | None:
        """Wait until all ranks have written, then make the checkpoint the newest; collective.

        Returns its folder, or None if none was under way. Raises CheckpointError on every rank if any could not
        write its part; what the others have written is removed then, older checkpoints are as they were.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        try:
            self._wait(pending)
            parts = agree(self._parallel, pending.name, lambda: self._part_of(pending))
            on_main(self._parallel, pending.name, lambda: finish(pending, parts))
        except CheckpointError:
            if self._parallel.is_main:
                shutil.rmtree(pending.temporary, ignore_errors=True)
            raise
        self._longest_seconds = max(self._longest_seconds, self._since_begin.seconds())
        return pending.target

    def _wait(self, pending: PendingSave) -> None:
        """Return when no rank is writing any more, or one has been for too long.

        The ranks ask each other again and again, because one that waited in a collective for the slowest writer
        would take it for lost.
        """
        watch = Stopwatch()
        while True:
            is_late = watch.seconds() > self._timeout_seconds
            writing, late = self._parallel.sum(not pending.written.done(), is_late)
            if not writing or late:
                return
            time.sleep(POLL_SECONDS)

    def _part_of(self, pending: PendingSave) -> Entries:
        if not pending.written.done():
            raise OSError(f"still writing after parallel.timeout_seconds={self._timeout_seconds:g}")
        try:
            return pending.written.result()
        except OSError:
            raise
        except Exception as error:  # a bug, or no memory: it must reach the other ranks, too
            raise OSError(f"{type(error).__name__}: {error}") from error


def measure_state(module: nn.Module) -> int:
    """Return the bytes of a model's trained parameters with both moments; before a back-end has shared them out."""
    return measure_module(module).checkpoint_bytes


def make_folder(folder: Path, needed_bytes: int) -> None:
    """Make an empty folder for a checkpoint. Raises OSError if there is no room for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    check_room(folder.parent, needed_bytes)
    folder.mkdir()


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise OSError if the file system of `folder` has less free than that, or than the user may take of it."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OSError(
            f"{render_bytes(needed_bytes)} are needed, and {folder} has {render_bytes(free_bytes)} free "
            "(lower train.keep_last, or move the run folder to another disk by run.dir)"
        )


def own_shards(
    states: Iterator[tuple[str, ParameterState]], parallel: Parallel, shard_bytes: int
) -> Iterator[tuple[int, Shard]]:
    """Yield (number, shard) for the shards that are this rank's to write; nothing else is kept in memory.

    How parameters are cut into shards depends on their sizes alone.
    """
    shard: Shard = {}
    size, number = 0, 0
    for name, state in states:
        parallel.whereabouts.go_on()
        if number % parallel.world_size == parallel.rank:
            shard[name] = state
        size += state.value.numel() * state.value.element_size()
        if size >= shard_bytes:
            if shard:
                yield number, shard
            shard, size, number = {}, 0, number + 1
    if shard:
        yield number, shard


def write_files(folder: Path, shards: Iterator[tuple[int, Shard]], contents: Mapping[str, bytes]) -> Entries:
    """Write and sync this rank's shards and small files; return what the manifest is to say of them. Raises OSError."""
    entries: Entries = {}
    for number, shard in shards:
        entries |= write_shard(folder, number, shard)
    for name, content in contents.items():
        write_bytes(folder / name, content)
        entries[name] = describe_file(folder / name)
    return entries


def write_shard(folder: Path, number: int, shard: Shard) -> Entries:
    values = {name: state.value.contiguous() for name, state in shard.items()}
    moments: dict[str, Tensor] = {}
    for name, state in shard.items():
        moments[f"exp_avg/{name}"] = state.exp_avg.contiguous()
        moments[f"exp_avg_sq/{name}"] = state.exp_avg_sq.contiguous()
    steps = json.dumps({name: state.step for name, state in shard.items()})
    return {
        **write_tensors(folder / f"model-{number:05d}.safetensors", values, {"format": "pt"}),
        **write_tensors(folder / f"optimizer-{number:05d}.safetensors", moments, {"format": "pt", "steps": steps}),
    }


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Entries:
    """Write and sync one file. Raises OSError, also where safetensors reports a full disk in its own way."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise as_os_error(error, path) from error
    sync(path)
    return {path.name: describe_file(path)}


def as_os_error(error: SafetensorError, path: Path) -> OSError:
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), str(error), str(path)) if number else OSError(f"{path}: {error}")


def finish(pending: PendingSave, parts: list[Entries]) -> None:
    """Add the manifest, make all of it durable, and give the checkpoint its name."""
    entries = {name: entry for part in parts for name, entry in part.items()}
    write_json(
        pending.temporary / "manifest.json",
        {"format_version": FORMAT_VERSION, "step": pending.step, "files": dict(sorted(entries.items()))},
    )
    sync(pending.temporary)
    name_checkpoint(pending.temporary, pending.target)
