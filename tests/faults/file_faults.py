"""Faults of files: kill -9 while a checkpoint is written, damaged checkpoints, full disks."""

import signal
from contextlib import ExitStack
from pathlib import Path

from tests.faults.checks import list_checkpoints
from tests.faults.injection import Injection, check_refused, check_struck_down
from tests.faults.scene import Run
from tests.faults.starts import Ending, state_of
from tests.faults.verdicts import CannotRunError, MissedError, NotSurvivedError
from tests.ranks.disks import small_disk

CHECKPOINT_ERROR = 5
DISK_BYTES = 8_000_000
OPERATIONS = (90, 12)  # on files, of rank 0 and of rank 1, from the beginning of a save to that of the next


def inject_kill_saving(injection: Injection) -> None:
    """kill -9 of a rank between two operations on files, in or after a save."""
    rank = 0 if injection.random.random() < 0.75 else 1
    step = injection.random.choice((4, 8, 12) if injection.attempt == 0 else (4,))
    count = injection.random.randrange(OPERATIONS[rank] // (injection.attempt + 1))
    run = injection.write_run(train={"async_save": injection.variant((False, True, False))})
    fault = injection.fault("kill", "files", rank=rank, steps=(step,), count=count)
    check_struck_down(injection.start(run, "ddp", 2, fault), run, rank, [-signal.SIGKILL])
    injection.say("then there were " + ", ".join(path.name for path in (run.dir / "checkpoints").iterdir()))
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2)


def inject_damaged_checkpoint(injection: Injection) -> None:
    """A file of the newest checkpoint truncated, or one of its bits flipped: the one before is used, loudly."""
    run = injection.write_run()
    rank, step = injection.random.randrange(2), injection.draw_step(9, 15)
    fault = injection.fault("kill", "update", rank=rank, steps=(step,))
    check_struck_down(injection.start(run, "ddp", 2, fault), run, rank, [-signal.SIGKILL])
    newest = list_checkpoints(run.dir)[-1]
    damage(injection, injection.random.choice(sorted(newest.iterdir())), injection.variant(("bit", "end")))
    text = injection.finish(run, "ddp", 2).text
    if "WARNING" not in text or newest.name.removeprefix("step_").lstrip("0") not in text:
        raise NotSurvivedError(f"it went on without a word about {newest}")
    injection.check_equals(run, "ddp", 2)


def damage(injection: Injection, path: Path, what: str) -> None:
    """Flip one bit of a file, or cut off its end."""
    content = bytearray(path.read_bytes())
    place = injection.random.randrange(len(content))
    if what == "bit":
        bit = injection.random.randrange(8)
        content[place] ^= 1 << bit
        injection.say(f"bit {bit} of byte {place} of {path.name} flipped")
    else:
        del content[place:]
        injection.say(f"{path.name} cut to {place} bytes")
    path.write_bytes(content)


def inject_full_disk(injection: Injection) -> None:
    """A small file system filled up, or a limit on the size of a rank's files: both ranks say so and end."""
    if injection.variant(("disk", "limit")) == "limit":
        limit_files(injection)
        return
    with ExitStack() as stack:
        injection.folder.mkdir(parents=True)
        disk = stack.enter_context(small_disk(injection.folder / "disk", DISK_BYTES))
        if disk is None:
            raise CannotRunError("mounting a tmpfs needs root")
        fill_disk(injection, injection.write_run(run={"dir": str(disk / "run"), "seed": 3}), disk)


def fill_disk(injection: Injection, run: Run, disk: Path) -> None:
    rank, step = injection.random.randrange(2), injection.draw_step(1, 14)
    place = injection.random.choice(("forward", "files"))
    if place == "files":
        step = injection.random.choice((4, 8))
    count = injection.random.randrange(4) if place == "files" else 0
    fault = injection.fault("fill_disk", place, rank=rank, steps=(step,), count=count, folder=str(disk))
    check_no_room(run, injection.start(run, "ddp", 2, fault))
    check_no_room(run, injection.start(run, "ddp", 2))
    (disk / "filler").unlink()
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2)


def limit_files(injection: Injection) -> None:
    rank, step = injection.random.randrange(2), injection.draw_step(1, 11)
    run = injection.write_run()
    fault = injection.fault("limit_files", "forward", rank=rank, steps=(step,), value="15000")
    check_no_room(run, injection.start(run, "ddp", 2, fault))
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2)


def check_no_room(run: Run, ending: Ending) -> None:
    """Raise NotSurvivedError unless all ranks ended by the full disk."""
    if state_of(run.dir) == "finished":
        raise MissedError("the run was finished first")
    check_refused(ending, [CHECKPOINT_ERROR], "make room")
