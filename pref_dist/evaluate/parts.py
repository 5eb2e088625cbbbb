"""Finished batches of a pass on disk, so that an interrupted evaluation or prediction goes on where it was.

    FOLDER/first/3f2c....part     rows, logits and batch numbers of some finished batches, by one rank
    FOLDER/second_00/...          a pass of the second order

A part belongs to the batches of one pass and to all that their logits depend on (`identity`), not to the ranks that
wrote it. Any number of ranks finds it again and runs what is missing; since batches are the same, so are the bits.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from pref_dist.data.plan import MicroBatch, Rows
from pref_dist.errors import CheckpointError
from pref_dist.evaluate.answers import Logits
from pref_dist.files import remove_unfinished, write_bytes

# Raise it with every change of what a part holds.
PARTS_VERSION = "1"
# The first part is written after a second, the next ones in ever longer intervals: also a short job has some.
FIRST_SECONDS, LONGEST_SECONDS, GROWTH = 1.0, 30.0, 1.5
# A network file system may show another machine's file late.
PATIENCE_SECONDS, POLL_SECONDS = 60.0, 0.2


@dataclass(frozen=True)
class Work:
    """Where a job keeps its parts. identity: all that its logits depend on besides the batches.

    say: tells people what was found; heard from rank 0 only.
    """

    folder: Path
    identity: str
    say: Callable[[str], None]

    def of_pass(self, name: str, batches: Sequence[MicroBatch]) -> "PassParts":
        return PassParts(self.folder / name, f"{PARTS_VERSION}/{self.identity}/{digest_batches(batches)}", self.say)


def digest_batches(batches: Iterable[MicroBatch]) -> str:
    """Name the batches of a pass: their rows, their borders, and the order in which each row is shown."""
    content = hashlib.sha256()
    for batch in batches:
        orders = b"" if batch.is_swapped is None else np.ascontiguousarray(batch.is_swapped).tobytes()
        content.update(f"{batch.index} {len(batch.rows)} {len(orders)};".encode())
        content.update(np.ascontiguousarray(batch.rows).tobytes() + orders)
    return content.hexdigest()


@dataclass
class Piece:
    """Finished batches: their numbers (b,), and their rows (n,) with logits (n, 3 or 6)."""

    batches: list[int] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    logits: list[Logits] = field(default_factory=list)

    def add(self, batch: int, rows: Rows, logits: Logits) -> None:
        self.batches.append(batch)
        self.rows.append(rows)
        self.logits.append(logits)


@dataclass(frozen=True)
class PassParts:
    """The parts of one pass."""

    folder: Path
    identity: str
    say: Callable[[str], None]

    def find(self) -> dict[str, list[int]]:
        """Return {name: batches} of the parts that are there; what is foreign or damaged goes. One rank's work."""
        found: dict[str, list[int]] = {}
        done: set[int] = set()
        useless = []
        for path in sorted(self.folder.glob("*.part")):
            part = read_part(path, self.identity)
            if part is None or done & set(part.batches):
                useless.append(path)
                continue
            found[path.name] = part.batches
            done |= set(part.batches)
        self._throw_away(useless)
        return found

    def _throw_away(self, paths: list[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        remove_unfinished(self.folder)
        if paths:
            self.say(
                f"WARNING: {len(paths)} files of finished batches in {self.folder} are damaged, or of other rows, "
                "weights or settings, and were thrown away."
            )

    def write(self, piece: Piece) -> str:
        """Write a part whole, under a name of its own, and return the name."""
        path = self.folder / f"{uuid.uuid4().hex}.part"
        tensors = {
            "batches": np.asarray(piece.batches, dtype=np.int64),
            "rows": np.concatenate(piece.rows),
            "logits": np.concatenate(piece.logits),
        }
        write_bytes(path, save(tensors, {"identity": self.identity, "sha256": digest_arrays(tensors)}))
        return path.name

    def read(self, names: Iterable[str]) -> Piece:
        """Return all these parts as one. Raises CheckpointError if one does not show up, or is damaged."""
        joined = Piece()
        for name in names:
            wait_for(self.folder / name)
            part = read_part(self.folder / name, self.identity)
            if part is None:
                raise CheckpointError(
                    f"{self.folder / name} was damaged since it was written. Start the command again."
                )
            joined.batches += part.batches
            joined.rows += part.rows
            joined.logits += part.logits
        return joined


class PartWriter:
    """Takes finished batches and writes them as parts, in intervals of up to 30 seconds and at the end."""

    def __init__(self, parts: PassParts) -> None:
        self._parts, self._piece, self._names = parts, Piece(), list[str]()
        self._interval, self._last = FIRST_SECONDS, time.monotonic()

    def add(self, batch: int, rows: Rows, logits: Logits) -> None:
        self._piece.add(batch, rows, logits)
        if time.monotonic() - self._last >= self._interval:
            self._write()
            self._interval, self._last = min(LONGEST_SECONDS, self._interval * GROWTH), time.monotonic()

    def close(self) -> list[str]:
        """Write what is left; return the names of all parts."""
        self._write()
        return self._names

    def _write(self) -> None:
        if self._piece.batches:
            self._names.append(self._parts.write(self._piece))
            self._piece = Piece()


def read_part(path: Path, identity: str) -> Piece | None:
    """Return what a part holds; None if it is damaged, or belongs to something else."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            notes = file.metadata() or {}
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    if notes.get("identity") != identity or notes.get("sha256") != digest_arrays(tensors):
        return None
    return Piece(tensors["batches"].tolist(), [tensors["rows"]], [tensors["logits"]])


def digest_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        content.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        content.update(np.ascontiguousarray(arrays[name]).tobytes())
    return content.hexdigest()


def wait_for(path: Path) -> None:
    """Wait until a file that another machine has written shows here. Raises CheckpointError if it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{path}, which another rank has written, does not show here after {PATIENCE_SECONDS:.0f} s. All "
                "machines need one shared disk under that folder."
            )
        if path.parent.is_dir():
            list(path.parent.iterdir())  # listing it makes a file server look again
        time.sleep(POLL_SECONDS)
