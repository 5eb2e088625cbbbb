"""How much better one run is than another on the very same rows, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.bootstrap import bootstrap_mean
from pref_dist.evaluate.logits_file import Origin, RowLogits, read_logits
from pref_dist.metrics import row_log_losses
from pref_dist.run_dir import RunDir

Array = NDArray[np.float64]
Places = NDArray[np.int64]
OWN_ROWS = "the runs' own validation rows"
SEED = 0  # of the bootstrap; the same files give the same page


@dataclass(frozen=True)
class RowSet:
    """Logits of the runs on rows of one origin, by the number of the run. Their rows need not be the same."""

    name: str
    files: dict[int, RowLogits]

    @property
    def is_own(self) -> bool:
        return self.name == OWN_ROWS


@dataclass(frozen=True)
class Paired:
    """Two runs on their common rows.

    difference: log loss of `second` minus that of `first`, in nats; below zero `second` is better. interval: 95 %,
    None where there are fewer than two prompts. num_relabelled: common rows that were left out, since their targets
    differ. num_learnt: rows among the common ones that either model has learnt from. places_of: (n,) positions of the
    common rows in the file of each. losses: (n,) of each. note: why there is no figure, else empty.
    """

    first: int
    second: int
    num_rows_of: tuple[int, int]
    note: str = ""
    num_rows: int = 0
    num_relabelled: int = 0
    num_learnt: int = 0
    log_losses: tuple[float, float] | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    places_of: tuple[Places, Places] = field(default_factory=lambda: (np.empty(0, np.int64), np.empty(0, np.int64)))
    losses: tuple[Array, Array] = field(default_factory=lambda: (np.empty(0), np.empty(0)))

    @property
    def verdict(self) -> str:
        """Which is better for sure: `first`, `second` or `neither`."""
        if self.interval is None or self.interval[0] <= 0.0 <= self.interval[1]:
            return "neither"
        return "first" if self.interval[0] > 0.0 else "second"

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            "first": names[self.first], "second": names[self.second], "num_rows": self.num_rows,
            "num_rows_of": list(self.num_rows_of), "num_relabelled": self.num_relabelled, "num_learnt": self.num_learnt,
            "log_losses": self.log_losses, "difference": self.difference, "interval": self.interval, "note": self.note,
        }  # fmt: skip


def list_row_sets(folders: Sequence[Path]) -> list[RowSet]:
    """Return the runs' own validation rows, and each data set on which at least two of the runs were evaluated.

    Raises DataError that names a file of logits which cannot be read.
    """
    paths: dict[str, dict[int, Path]] = {OWN_ROWS: {}}
    for number, folder in enumerate(folders):
        run_dir = RunDir(folder)
        if run_dir.valid_logits.is_file():
            paths[OWN_ROWS][number] = run_dir.valid_logits
        for path in sorted(run_dir.evaluations.glob("*/logits.parquet")):
            paths.setdefault(path.parent.name, {})[number] = path
    return [
        RowSet(name, {number: read_logits(path) for number, path in found.items()})
        for name, found in paths.items()
        if len(found) >= 2
    ]


def compare_all(rows: RowSet) -> list[Paired]:
    """Return every pair of runs: those with the first run first."""
    return [compare(rows.files, first, second) for first, second in combinations(sorted(rows.files), 2)]


def compare(files: Mapping[int, RowLogits], first: int, second: int) -> Paired:
    """Return the paired difference of two runs over the rows that both have: same id, same texts, same order."""
    one, other = files[first], files[second]
    empty = Paired(first, second, (len(one), len(other)))
    if one.targets is None or other.targets is None:
        return replace(empty, note="one of the files has no labels")
    if one.origin is None or other.origin is None:
        return replace(empty, note="a file lacks the columns that tell its rows; evaluate writes it again")
    places = match_rows(one, other)
    is_same = (one.targets[places[0]] == other.targets[places[1]]).all(axis=1)
    common = replace(empty, num_relabelled=int((~is_same).sum()))
    if not is_same.any():
        return replace(common, note="all common rows have other labels" if len(is_same) else "no row in common")
    return measure(common, one, other, (places[0][is_same], places[1][is_same]))


def measure(paired: Paired, one: RowLogits, other: RowLogits, places: tuple[Places, Places]) -> Paired:
    """Return the pair with its figures over the common rows, which stand at `places` (n,) of each file."""
    assert one.origin is not None
    assert other.origin is not None
    losses = (losses_at(one, places[0]), losses_at(other, places[1]))
    differences = losses[1] - losses[0]
    return replace(
        paired,
        num_rows=len(differences),
        num_learnt=int((was_learnt(one.origin, places[0]) | was_learnt(other.origin, places[1])).sum()),
        log_losses=(float(losses[0].mean()), float(losses[1].mean())),
        difference=float(differences.mean()),
        interval=bootstrap_mean(differences, one.origin.groups[places[0]], SEED),
        places_of=places,
        losses=losses,
    )


def losses_at(rows: RowLogits, places: Places) -> Array:
    assert rows.targets is not None
    return row_log_losses(np.asarray(rows.logits[places], np.float64), rows.targets[places])


def match_rows(one: RowLogits, other: RowLogits) -> tuple[Places, Places]:
    """Return the positions of the common rows in each file, in the order of the first."""
    where = {key: place for place, key in enumerate(list_keys(other))}
    found = [(place, where[key]) for place, key in enumerate(list_keys(one)) if key in where]
    places = np.array(found, dtype=np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def list_keys(rows: RowLogits) -> list[tuple[str, int, bool]]:
    assert rows.origin is not None
    return list(zip(rows.row_ids, rows.origin.pairs.tolist(), rows.origin.is_mirrored.tolist(), strict=True))


def was_learnt(origin: Origin, places: Places) -> NDArray[np.bool_]:
    """(n,) whether the model has learnt from the rows; False where nobody knows."""
    learnt: NDArray[np.bool_] = np.zeros(len(places), np.bool_) if origin.held_out is None else ~origin.held_out[places]
    return learnt
