"""Who is to blame when a collective fails or never ends: read from what all ranks leave in the run folder.

Ages are taken by the folder's own clock, as the difference between two files' times, so that the clocks of the
machines do not matter.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed

from pref_dist.errors import CheckpointError
from pref_dist.files import read_json
from pref_dist.run_dir import RunDir

SILENT_SECONDS = 3.0  # three beats: a rank that gave no sign for so long is lost
# Words of gloo, NCCL and the sockets below them, which raise plain RuntimeErrors, too.
COLLECTIVE_WORDS = ("gloo", "nccl", "timed out", "connection closed", "connection reset", "broken pipe", "socket")


@dataclass(frozen=True)
class Sign:
    """A rank's last sign of life.

    step: steps done. moves: how often it has changed its place, which all ranks do equally often.
    seconds_there: how long it had been at its place then. silent_seconds: how long ago that was.
    """

    rank: int
    host: str
    pid: int
    step: int
    place: str
    moves: int
    seconds_there: float
    silent_seconds: float = 0.0

    @property
    def is_silent(self) -> bool:
        return self.silent_seconds >= SILENT_SECONDS

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    def position(self, common_step: int) -> str:
        """Say where the rank is. common_step: the last step that all ranks have done, as the reader knows."""
        if self.step >= common_step:
            return f"its last step was {self.step}, in {self.place}"
        # A sign may be a second old, in which the rank took part in further steps.
        return f"its last step was {common_step} (its last sign came after step {self.step}, from {self.place})"


def sign_file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank}.json"


def write_sign(folder: Path, sign: Sign) -> None:
    """Overwrite a rank's sign in its place: a file server shows that sooner than a new file of the same name."""
    values = {key: value for key, value in vars(sign).items() if key != "silent_seconds"}
    descriptor = os.open(sign_file(folder, sign.rank), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        # As long as any other, so that no rest of a longer one stays behind it.
        os.pwrite(descriptor, f"{json.dumps(values).ljust(400)}\n".encode(), 0)
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def read_signs(folder: Path, world_size: int, own_rank: int) -> list[Sign]:
    """Return the signs that can be read. `own_rank` has just given its own, which tells the folder's present time."""
    now = sign_file(folder, own_rank).stat().st_mtime
    signs = []
    for rank in range(world_size):
        try:
            # Opening it makes a file server say its true time.
            with open(sign_file(folder, rank), encoding="utf-8") as file:
                signs.append(Sign(**json.load(file), silent_seconds=max(0.0, now - os.fstat(file.fileno()).st_mtime)))
        except (OSError, ValueError, TypeError):
            continue
    return signs


def find_culprit(run_dir: RunDir, own_rank: int, signs: list[Sign], common_step: int) -> str:
    """Say which ranks are silent, or which failed first by an error that it could still write down; empty if none.

    A silent rank comes first: a rank that missed it may have written that down, too.
    """
    failed = {path for path in run_dir.failures.glob("rank_*.json") if path.stem != f"rank_{own_rank}"}
    names = {path.stem for path in failed}
    silent = find_silent_ranks([sign for sign in signs if f"rank_{sign.rank}" not in names], common_step)
    return silent or describe_first_failure(failed)


def describe_first_failure(paths: Iterable[Path]) -> str:
    try:
        first = min(paths, key=lambda path: path.stat().st_mtime, default=None)
        failure = None if first is None else read_json(first)
    except (OSError, CheckpointError):
        return ""
    if first is None or failure is None:
        return ""
    return f"{first.stem.replace('_', ' ')} failed at step {failure['step']}: {failure['error'].strip()}"


def find_silent_ranks(signs: list[Sign], common_step: int) -> str:
    """Say which ranks give no more signs of life; empty if all do."""
    silent = sorted((sign for sign in signs if sign.is_silent), key=lambda sign: -sign.silent_seconds)
    return "; ".join(
        f"{sign} gave no sign for {sign.silent_seconds:.0f} s; {sign.position(common_step)}" for sign in silent
    )


def find_missing_ranks(signs: list[Sign], world_size: int) -> str:
    """Say which ranks have left no sign that can be read; empty if all have."""
    missing = sorted(set(range(world_size)) - {sign.rank for sign in signs})
    return f"no sign of life can be found of rank {', '.join(map(str, missing))}" if missing else ""


def find_ranks_behind(signs: list[Sign]) -> str:
    """Say which living ranks the others wait for; empty if all have come equally far."""
    farthest = max((sign.moves for sign in signs), default=0)
    behind = sorted((sign for sign in signs if sign.moves < farthest), key=lambda sign: sign.moves)
    return "; ".join(
        f"{sign} lives but does not go on: it has been at one place for {sign.seconds_there:.0f} s; "
        f"{sign.position(sign.step)}"
        for sign in behind
    )


def is_of_a_collective(error: BaseException) -> bool:
    """Whether an error may mean no more than that another rank is gone or late."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error).lower() for word in COLLECTIVE_WORDS)
