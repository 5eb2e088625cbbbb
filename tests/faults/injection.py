"""One injection: its choices, drawn from a seed; the starts of its run; and what must be true at the end."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.faults.checks import list_differences, read_record
from tests.faults.fault import Fault, Place, Strike
from tests.faults.scene import SHORT, Run, Scene, Setting
from tests.faults.starts import Ending, start_verb, state_of
from tests.faults.verdicts import MissedError, NotSurvivedError, SilentlyWrongError

MOST_STARTS = 3
T = TypeVar("T")


class Injection:
    """One fault in one run. (seed, class, number, attempt) decide all choices; `said` tells what was done."""

    def __init__(self, scene: Scene, name: str, seed: int, number: int, attempt: int = 0) -> None:
        self.scene, self.number, self.attempt = scene, number, attempt
        self.folder = scene.root / f"{name}_{number}_{attempt}"
        self.random = random.Random(f"{seed} {name} {number} {attempt}")
        self.first_variant = random.Random(f"{seed} {name}").randrange(100)
        self.said: list[str] = []
        self.num_starts = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def variant(self, variants: Sequence[T]) -> T:
        """Choose so that consecutive injections go through all of them."""
        return variants[(self.first_variant + self.number) % len(variants)]

    def draw_step(self, first: int, last: int) -> int:
        """Draw a step; an earlier one at each further attempt."""
        return self.random.randint(first, max(first, last // (self.attempt + 1)))

    def write_run(self, setting: Setting = SHORT, **changes: Mapping[str, object]) -> Run:
        return self.scene.write_run(self.folder, setting, **changes)

    def fault(self, strike: Strike, place: Place, **details: object) -> Fault:
        """Describe a fault and say so; its mark lies in this injection's folder."""
        fault = Fault(strike, place, mark=str(self.folder / f"mark_{self.num_starts}"), **details)
        self.say(str(fault))
        return fault

    def start(
        self,
        run: Run,
        backend: str,
        world_size: int,
        fault: Fault | None = None,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        must_strike: bool = True,
    ) -> Ending:
        """Start `train`. Raises MissedError if the fault did not strike, SilentlyWrongError if a success is none."""
        ending = start_verb(backend, world_size, ["train", str(run.yaml), *arguments], fault, env)
        self.keep(ending)
        if ending.has_hung:
            raise NotSurvivedError(f"a rank went on for too long\n{ending.tail()}")
        check_honest(ending, run)
        if fault is not None and must_strike and not fault.has_struck():
            raise MissedError(f"{fault} never happened")
        return ending

    def keep(self, ending: Ending) -> None:
        """Leave what the ranks said beside the run, for whoever has to find out."""
        for place, text in enumerate(ending.texts):
            (self.folder / f"start_{self.num_starts}_{place}.txt").write_text(text, encoding="utf-8")
        self.num_starts += 1

    def finish(self, run: Run, backend: str, world_size: int, *arguments: str) -> Ending:
        """Start the same command again until the run is finished."""
        for _ in range(MOST_STARTS):
            ending = self.start(run, backend, world_size, None, *arguments)
            if not ending.has_succeeded:
                raise NotSurvivedError(f"started again, it ended with {ending.exit_codes}\n{ending.tail()}")
            if state_of(run.dir) == "finished":
                return ending
        raise NotSurvivedError(f"started again {MOST_STARTS} times, it is still {state_of(run.dir)}")

    def check_equals(
        self, run: Run, backend: str, world_size: int, setting: Setting = SHORT, is_exact: bool = True
    ) -> None:
        """Compare with a run of these ranks that nothing happened to; with the same steps skipped, if any were."""
        found = read_record(run.dir)
        # fp16 skips steps by itself, and its references are of runs that do the same.
        skipped = () if setting.name.startswith("fp16") else found.skipped
        differences = list_differences(found, self.scene.reference(setting, backend, world_size, skipped), is_exact)
        if differences:
            raise SilentlyWrongError("finished, but " + "; ".join(differences[:5]))


def check_honest(ending: Ending, run: Run) -> None:
    """Raise SilentlyWrongError if all ranks ended with 0 and the run is neither finished nor stopped on request."""
    state = state_of(run.dir)
    if ending.has_succeeded and state not in ("finished", "stopped"):
        raise SilentlyWrongError(f"exit code 0, and state.json says {state}")


def check_struck_down(ending: Ending, run: Run, struck: int, codes: Sequence[int] | None = None) -> None:
    """Raise NotSurvivedError unless all ranks failed, the struck one with one of `codes`; MissedError if too late."""
    if state_of(run.dir) == "finished":
        raise MissedError("the run was finished first")
    if 0 in ending.exit_codes or (codes is not None and ending.exit_codes[struck] not in codes):
        raise NotSurvivedError(f"exit codes {ending.exit_codes}; rank {struck} was struck\n{ending.tail()}")


def check_refused(ending: Ending, codes: Sequence[int], *words: str) -> None:
    """Raise NotSurvivedError unless every rank ended with one of the codes and some rank said all of the words."""
    if any(code not in codes for code in ending.exit_codes):
        raise NotSurvivedError(f"exit codes {ending.exit_codes}, not of {list(codes)}\n{ending.tail()}")
    missing = [word for word in words if word not in ending.text]
    if missing:
        raise NotSurvivedError(f"nobody said {missing}\n{ending.tail()}")


def take_snapshot(folder: Path, without: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the content of every file of a folder, by its path in it; not of those that begin with `without`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(tuple(without))}
