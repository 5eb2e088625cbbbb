"""Starting a verb: on ranks of our own, or by `launch/node.sh` as users do; and how a start has ended."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.fault import Fault
from tests.launch.launched import Launched, clean_env
from tests.ranks.launch_ranks import REPO_ROOT, RunningRanks, start_ranks
from tests.ranks.run_verb import launch_env

START_SECONDS = 240  # after which a start counts as hung
GRACE_SECONDS = 75  # for the partners of a failed rank: parallel.timeout_seconds and some more


@dataclass(frozen=True)
class Ending:
    """How a start ended. exit_codes: of each rank (-9 for a kill), or of the launcher alone."""

    exit_codes: list[int]
    texts: list[str]
    has_hung: bool

    @property
    def has_succeeded(self) -> bool:
        return set(self.exit_codes) == {0}

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def tail(self, num_lines: int = 15) -> str:
        """The end of what each rank said."""
        return "\n".join(
            f"--- {place}: exit code {code}\n" + "\n".join(text.splitlines()[-num_lines:])
            for place, (code, text) in enumerate(zip(self.exit_codes, self.texts, strict=True))
        )


def start_processes(
    backend: str, world_size: int, args: Sequence[str], fault: Fault | None, env: Mapping[str, str]
) -> RunningRanks:
    program, first = ("pref_dist", []) if fault is None else ("tests.faults.faulty_rank", [fault.to_json()])
    return start_ranks(program, world_size, [*first, *args], launch_env(backend) | dict(env))


def start_verb(
    backend: str,
    world_size: int,
    args: Sequence[str],
    fault: Fault | None = None,
    env: Mapping[str, str] | None = None,
) -> Ending:
    """Start the ranks of a verb, struck by `fault` if there is one, and wait for all of them."""
    asked = ["--set", f"parallel.backend={backend}", "--set", f"parallel.world_size={world_size}"]
    with start_processes(backend, world_size, [*args, *asked], fault, env or {}) as ranks:
        return await_end(ranks)


def await_end(ranks: RunningRanks) -> Ending:
    results = ranks.wait(START_SECONDS, GRACE_SECONDS)
    return Ending(
        [result.exit_code for result in results],
        [result.stdout + "\n" + result.stderr for result in results],
        any(result.timed_out for result in results),
    )


@contextmanager
def launched(folder: Path, backend: str, world_size: int, args: Sequence[str]) -> Iterator[Launched]:
    """Start a verb by launch/node.sh; kills what is left of it at the end."""
    number = len(list(folder.glob("launcher_*.txt")))
    command = ("bash", REPO_ROOT / "launch" / "node.sh", backend, world_size, *args)
    running = Launched(command, folder / f"launcher_{number}.txt", folder, clean_env())
    try:
        yield running
    finally:
        running.kill()


def count_steps(run_dir: Path) -> int:
    """How many steps stand in metrics.jsonl by now."""
    path = run_dir / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count('"loss"') if path.exists() else 0


def state_of(run_dir: Path) -> str:
    path = run_dir / "state.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["state"]) if path.exists() else "none"
