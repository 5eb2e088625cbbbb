"""`starts.json` of a run: when, where and on what each of its starts trained, and how that ended. For people alone.

[{started, from_step, host, backend, ranks, ranks_on_host, device, rows: {train, valid}, software,
  ended, state, step, reason}, ...]

Times are UTC, in ISO 8601; the last four are null while a start is at work, and stay so if it is killed or fails.
host, device, software: of rank 0. Nothing that is computed, resumed or compared depends on any of it.
"""

import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pref_dist.errors import CheckpointError
from pref_dist.files import read_json, write_json
from pref_dist.run_dir import RunDir, RunStatus
from pref_dist.runtime.machine import list_versions, name_device

if TYPE_CHECKING:
    from pref_dist.runtime.parallel import Parallel

UNKNOWN_END = {"ended": None, "state": None, "step": None, "reason": None}
KEYS = {
    "started", "from_step", "host", "backend", "ranks", "ranks_on_host", "device", "rows", "software", *UNKNOWN_END,
}  # fmt: skip


def note_start(run_dir: RunDir, parallel: "Parallel", from_step: int, num_rows: dict[str, int]) -> None:
    """Add a start that trains from now on; rank 0 only. num_rows: of `train` and `valid`.

    Raises OSError if it cannot be written.
    """
    start = {
        "started": render_now(),
        "from_step": from_step,
        "host": socket.gethostname(),
        "backend": parallel.backend,
        "ranks": parallel.world_size,
        "ranks_on_host": parallel.num_local_ranks,
        "device": name_device(parallel.device),
        "rows": num_rows,
        "software": list_versions(),
        **UNKNOWN_END,
    }
    write_json(run_dir.starts, [*find_starts(run_dir), start])


def note_end(run_dir: RunDir, state: RunStatus, step: int, reason: str) -> None:
    """Add to the last start how it ended; rank 0 only. Errors as `note_start`."""
    starts = find_starts(run_dir)
    if starts:  # nobody has deleted them meanwhile
        starts[-1] |= {"ended": render_now(), "state": state, "step": step, "reason": reason}
        write_json(run_dir.starts, starts)


def find_starts(run_dir: RunDir) -> list[dict[str, Any]]:
    """Return the starts as `read_starts`; none of a file that somebody has spoilt: no reason not to train."""
    try:
        starts = read_starts(run_dir)
    except CheckpointError:
        return []
    are_whole = isinstance(starts, list) and all(isinstance(one, dict) and set(one) >= KEYS for one in starts)
    return starts if are_whole else []


def read_starts(run_dir: RunDir) -> list[dict[str, Any]]:
    """Return the starts, the first one first; none of a run that is older than this file.

    Raises CheckpointError if the file is damaged.
    """
    starts: list[dict[str, Any]] = read_json(run_dir.starts) if run_dir.starts.exists() else []
    return starts


def render_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
