"""Trains the runs and compares them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.parity.kinds import BOUNDS, STEPS, Kind, kinds_of
from tests.ranks.many_runs import run_jobs
from tests.ranks.run_verb import largest_difference, largest_loss_difference, read_losses, read_weights

WriteRun = Callable[..., tuple[Path, Path]]


@dataclass(frozen=True)
class Difference:
    """Largest differences from one process: of a step's loss, of a parameter, of a gradient norm (relative)."""

    loss: float
    parameter: float
    norm: float

    def is_within(self, kind: Kind) -> bool:
        bound = BOUNDS[kind.precision]
        return self.loss <= bound.loss and self.parameter <= bound.parameter and self.norm <= bound.norm


Measured = dict[tuple[str, int], dict[Kind, Difference]]  # (back-end, ranks) -> kind -> difference


class Parity:
    """Measures back-ends against one process, whose runs are made once."""

    def __init__(self, write_run: WriteRun, folder: Path, kinds: Sequence[Kind]) -> None:
        self._write_run, self._folder = write_run, folder
        self._kinds = list(kinds)
        self.references = self._train("single", 1)

    def measure(self, backend: str, world_size: int) -> dict[Kind, Difference]:
        found = self._train(backend, world_size)
        return {kind: compare(run_dir, self.references[kind]) for kind, run_dir in found.items()}

    def _train(self, backend: str, world_size: int) -> dict[Kind, Path]:
        """Train every kind, one after another in the same processes; return their run folders."""
        jobs, folders = [], {}
        for kind in kinds_of(backend, self._kinds):
            name = f"{backend}_{world_size}_{kind.name.replace(', ', '_')}"
            run_yaml, folders[kind] = self._write_run(name, train={"head_learning_rate": 4e-5})
            jobs.append({"config": str(run_yaml), "overrides": kind.overrides})
        run_jobs(backend, world_size, jobs, self._folder)
        return folders


def compare(found: Path, expected: Path) -> Difference:
    assert len(read_losses(found)) == STEPS
    norms, expected_norms = read_losses(found, "grad_norm"), read_losses(expected, "grad_norm")
    return Difference(
        largest_loss_difference(read_losses(found), read_losses(expected)),
        largest_difference(read_weights(found), read_weights(expected)),
        max(abs(ours - theirs) / theirs for ours, theirs in zip(norms, expected_norms, strict=True)),
    )
