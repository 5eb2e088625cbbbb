"""What a failed rank leaves behind: no collectives, a file that says who, when and why."""

import os
import traceback
from contextlib import suppress
from typing import NoReturn

from pref_dist.errors import CheckpointError, PrefDistError
from pref_dist.files import write_json
from pref_dist.run_dir import RunDir
from pref_dist.runtime.preempt import tell_launcher, tell_launcher_why


def record_failure(run_dir: RunDir, rank: int, step: int, error: BaseException, was_running: bool) -> None:
    """Write failures/rank_N.json {exit_code, step, error}; mark a run that was under way as failed.

    The first rank to fail names the reason in state.json: the others may only have missed that one.
    Where this cannot be written either, the error itself still ends the process, with its own exit code.
    """
    exit_code = error.exit_code if isinstance(error, PrefDistError) else 1
    text = str(error) if isinstance(error, PrefDistError) else traceback.format_exc()
    try:
        write_json(
            run_dir.failures / f"rank_{rank}.json",
            {"exit_code": exit_code, "step": step, "error": f"{type(error).__name__}: {text}"},
        )
        if was_running and run_dir.read_state().get("state") != "failed":
            run_dir.write_state("failed", step, reason=f"rank {rank}: {type(error).__name__}: {str(error)[:500]}")
    except (OSError, CheckpointError) as second:
        error.add_note(f"Besides, {run_dir.failures} or {run_dir.state} could not be written: {second}")


def end_process(run_dir: RunDir, rank: int, step: int, error: PrefDistError) -> NoReturn:
    """End this process by `error` from any thread, as the program does from the main one, which is stuck."""
    with suppress(OSError):
        # Not by sys.stderr, which the main thread may hold.
        os.write(2, f"[rank {rank}] {type(error).__name__}: {error}\n".encode())
    with suppress(OSError):
        tell_launcher_why(rank, f"{type(error).__name__}: {error}")
        tell_launcher(rank, error.exit_code)
    record_failure(run_dir, rank, step, error, was_running=True)
    os._exit(error.exit_code)
