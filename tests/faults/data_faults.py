"""Faults of data: a source that changes under a run, a damaged token cache, four builders of one cache at once."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pref_dist.data.cache_entry import check_entry
from pref_dist.errors import DataError
from tests.faults.fault import Fault
from tests.faults.file_faults import damage
from tests.faults.injection import Injection, check_refused, take_snapshot
from tests.faults.scene import Run
from tests.faults.starts import Ending, await_end, start_processes, state_of
from tests.faults.verdicts import MissedError, NotSurvivedError, SilentlyWrongError

DATA_ERROR, CHECKPOINT_ERROR = 3, 5
MAY_CHANGE = (".lock", "failures")  # a refusal leaves its reason in failures/
SIGKILL = -9
NUM_BUILDERS = 4

Rows = list[str]


def drop_row(rows: Rows, row: int) -> None:
    del rows[row]


def repeat_row(rows: Rows, row: int) -> None:
    first, comma, rest = rows[row].partition(",")
    rows.append(f"{first}9{comma}{rest}")


def swap_rows(rows: Rows, row: int) -> None:
    rows[row], rows[row - 1] = rows[row - 1], rows[row]


def turn_label(rows: Rows, row: int) -> None:
    labels = {"1,0,0": "0,1,0", "0,1,0": "0,0,1", "0,0,1": "1,0,0"}
    rows[row] = rows[row][:-5] + labels[rows[row][-5:]]


def change_text(rows: Rows, row: int) -> None:
    rows[row] = rows[row].replace(" ", " really ", 1)


CHANGES: tuple[Callable[[Rows, int], None], ...] = (drop_row, repeat_row, swap_rows, turn_label, change_text)


def inject_changed_data(injection: Injection) -> None:
    """The training file changes under a stopped run: refused with nothing touched; given back, the run goes on."""
    data = injection.folder / "train.csv"
    run = injection.write_run(data={"train": str(data)})
    shutil.copyfile(injection.scene.data, data)
    stop(injection, run)
    before, original = take_snapshot(run.dir, MAY_CHANGE), data.read_text(encoding="utf-8")
    rows = original.splitlines()
    change, row = injection.variant(CHANGES), injection.random.randrange(2, len(rows))
    change(rows, row)
    injection.say(f"{change.__name__} at line {row + 1}")
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    ending = injection.start(run, "ddp", 2)
    if ending.has_succeeded:
        raise SilentlyWrongError("it went on with other rows")
    check_refused(ending, [DATA_ERROR, CHECKPOINT_ERROR], "data.train")
    changed = [name for name, content in take_snapshot(run.dir, MAY_CHANGE).items() if before.get(name) != content]
    if changed:
        raise NotSurvivedError(f"the refusal has touched {changed}")
    data.write_text(original, encoding="utf-8")
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2)


def stop(injection: Injection, run: Run) -> None:
    """Train up to some step, and stop there by a signal."""
    fault = injection.fault(
        "signal", "forward", value="SIGTERM", rank=injection.random.randrange(2), steps=(injection.draw_step(3, 13),)
    )
    ending = injection.start(run, "ddp", 2, fault)
    if not ending.has_succeeded:
        raise NotSurvivedError(f"exit codes {ending.exit_codes} after SIGTERM\n{ending.tail()}")
    if state_of(run.dir) == "finished":
        raise MissedError("the run was finished first")


def inject_damaged_cache(injection: Injection) -> None:
    """A file of the token cache damaged under a stopped run: refused; removed as told, it is built again."""
    cache = injection.folder / "cache"
    run = injection.write_run(data={"cache_dir": str(cache)})
    stop(injection, run)
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    files = [path for path in sorted(entry.iterdir()) if path.stat().st_size > 0]
    damage(injection, injection.random.choice(files), injection.variant(("bit", "end")))
    ending = injection.start(run, "ddp", 2)
    if ending.has_succeeded:
        injection.check_equals(run, "ddp", 2)
        raise NotSurvivedError("it went on with a damaged cache; this time the result is right")
    check_refused(ending, [DATA_ERROR], f"Delete the folder {entry}")
    shutil.rmtree(entry)
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2)


def inject_concurrent_builders(injection: Injection) -> None:
    """Four processes build one cache entry at once, one of which may be killed: one whole entry, nothing beside it."""
    cache = injection.folder / "cache"
    run = injection.write_run(data={"cache_dir": str(cache)})
    fault = None
    if injection.variant((True, False)):
        fault = injection.fault("kill", "tokenising", count=injection.random.randrange(2))
    injection.say(f"{NUM_BUILDERS} builders")
    endings = build_at_once(run, fault)
    codes = [ending.exit_codes[0] for ending in endings]
    wanted = [0] * NUM_BUILDERS if fault is None or not fault.has_struck() else [SIGKILL, *[0] * (NUM_BUILDERS - 1)]
    if codes != wanted:
        said = "\n".join(ending.tail() for ending in endings)
        raise NotSurvivedError(f"the builders ended with {codes}, not {wanted}\n{said}")
    check_cache(cache)
    injection.finish(run, "ddp", 2)
    injection.check_equals(run, "ddp", 2)


def build_at_once(run: Run, fault: Fault | None) -> list[Ending]:
    """Start the builders; the first one is struck, if any is, as soon as it is the one that builds."""
    with ExitStack() as stack:
        builders = [
            stack.enter_context(start_processes("single", 1, ["prepare", str(run.yaml)], struck, {}))
            for struck in (fault, *[None] * (NUM_BUILDERS - 1))
        ]
        return [await_end(builder) for builder in builders]


def check_cache(cache: Path) -> None:
    """Raise NotSurvivedError unless there is one entry, whole, and nothing half-built."""
    folders = [path for path in cache.iterdir() if path.is_dir()]
    if len(folders) != 1:
        raise NotSurvivedError(f"the cache holds {[path.name for path in folders]}")
    try:
        check_entry(folders[0])
    except DataError as error:
        raise SilentlyWrongError(f"a builder ended with 0 and left this: {error}") from error
