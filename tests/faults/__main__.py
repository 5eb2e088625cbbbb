"""`python -m tests.faults`: injects faults into real runs and counts what survives."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

# Before anything imports torch: as in the ranks, so that what is compared was made alike.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

from tests.faults.classes import CLASSES
from tests.faults.injection import Injection
from tests.faults.outcomes import Outcome, has_passed, render_closing, render_table
from tests.faults.scene import Scene
from tests.faults.verdicts import CannotRunError, MissedError, NotSurvivedError, SilentlyWrongError

MOST_ATTEMPTS = 4


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bash launch/faults.sh", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides every choice (default 1)")
    parser.add_argument("--times", type=int, default=1, metavar="K", help="injections a class (default 1)")
    parser.add_argument(
        "--only", action="append", choices=list(CLASSES), metavar="CLASS", help=f"may be repeated: {', '.join(CLASSES)}"
    )
    read = parser.parse_args(arguments)
    if read.times < 1:
        parser.error("--times must be at least 1")
    return read


def inject_all(scene: Scene, names: Sequence[str], seed: int, times: int) -> list[Outcome]:
    outcomes = []
    for name in names:
        for number in range(1, times + 1):
            outcomes.append(inject_one(scene, name, seed, number))
            print(outcomes[-1].render(), flush=True)
    return outcomes


def inject_one(scene: Scene, name: str, seed: int, number: int) -> Outcome:
    """Inject one fault; one that missed is tried again, earlier in the run, and never counts as survived."""
    started, missed = time.monotonic(), ""
    for attempt in range(MOST_ATTEMPTS):
        injection = Injection(scene, name, seed, number, attempt)

        def end(verdict: str, why: object = "", made: Injection = injection) -> Outcome:
            return Outcome(name, number, verdict, "; ".join(made.said), str(why), time.monotonic() - started)

        try:
            CLASSES[name](injection)
        except MissedError as error:
            missed = f"missed {attempt + 1} times, at last because: {error}"
        except CannotRunError as error:
            return end("not run", error)
        except SilentlyWrongError as error:
            return end("SILENTLY WRONG", error)
        except NotSurvivedError as error:
            return end("NOT SURVIVED", error)
        except Exception:  # such as a run folder without what a finished run leaves: the other classes still count
            return end("NOT SURVIVED", traceback.format_exc())
        else:
            shutil.rmtree(injection.folder)
            return end("survived")
    return end("NOT SURVIVED", missed)


def main() -> int:
    asked = read_arguments()
    root = Path(tempfile.mkdtemp(prefix="pref_dist_faults_"))
    signal.signal(signal.SIGTERM, interrupt)
    passed = False
    try:
        started = time.monotonic()
        scene = Scene(root)
        scene.build()
        outcomes = inject_all(scene, asked.only or list(CLASSES), asked.seed, asked.times)
        passed = has_passed(outcomes)
        print(f"\n{render_table(outcomes)}\nseed {asked.seed}, {time.monotonic() - started:.0f} s")
        print(render_closing(outcomes), flush=True)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    finally:
        kill_descendants()
        if passed:
            shutil.rmtree(root, ignore_errors=True)
        else:
            print(f"What the runs have left is in {root}.", file=sys.stderr)
    return 0 if passed else 1


def kill_descendants() -> None:
    """Kill what still runs: an interrupt may come between the start of a process and our taking note of it."""
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(descendants, timeout=10)


def interrupt(*_: object) -> NoReturn:
    """End as by Ctrl-C, which leaves no process behind."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
