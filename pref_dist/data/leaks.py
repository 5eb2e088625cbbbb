"""Which rows a model has learnt from, so that nobody takes its logits of them for those of unknown rows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pref_dist.config.schema import RunConfig
from pref_dist.data.duplicates import find_shared
from pref_dist.data.plan import Rows
from pref_dist.data.splits import SplitMethod
from pref_dist.data.table import TokenTable
from pref_dist.errors import CheckpointError
from pref_dist.files import write_bytes
from pref_dist.run_dir import RunDir

Hashes = NDArray[np.uint64]
Bools = NDArray[np.bool_]

SPLIT_KEY = b"pref_dist.split"


@dataclass(frozen=True)
class TrainedRows:
    """The rows that a model was trained on, those of runs that it started from included.

    groups, pairs: (n,) see `folds.group_of` and `pairs.pair_of`; each pair once, rising. split: the run's
    data.split, which says whether a prompt may stand on both sides.
    """

    groups: Hashes
    pairs: Hashes
    split: SplitMethod

    @classmethod
    def of(cls, groups: Hashes, pairs: Hashes, split: SplitMethod) -> "TrainedRows":
        """Take rows as they stand in a table; a pair that stands twice is kept once."""
        order = np.argsort(pairs, kind="stable")
        ordered = pairs[order]
        first = np.ones(len(ordered), dtype=np.bool_)
        first[1:] = ordered[1:] != ordered[:-1]
        return cls(groups[order[first]], ordered[first], split)

    def joined_with(self, other: "TrainedRows") -> "TrainedRows":
        """Return the rows of both; prompts count unless they count in neither."""
        split = other.split if self.split == "random_stratified" else self.split
        return self.of(np.concatenate((self.groups, other.groups)), np.concatenate((self.pairs, other.pairs)), split)

    def were_seen(self, groups: Hashes, pairs: Hashes) -> Bools:
        """Return (N,) whether the model has learnt from each of N rows.

        It has if it was trained on the row's pair of answers, in either order, or on its prompt. Under the
        split random_stratified, which lets a prompt stand on both sides, the prompt does not count.
        """
        seen = np.zeros(len(pairs), dtype=np.bool_)
        seen[find_shared(pairs, self.pairs)] = True
        if self.split != "random_stratified":
            seen[find_shared(groups, self.groups)] = True
        return seen

    def write(self, path: Path) -> None:
        """Write a parquet file of the columns `group` and `pair`; its metadata tells the split."""
        table = pa.table({"group": self.groups, "pair": self.pairs})
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({SPLIT_KEY: self.split.encode()}), sink)
        write_bytes(path, bytes(sink.getvalue()))

    @classmethod
    def read(cls, path: Path) -> "TrainedRows":
        """Raises CheckpointError if the file is missing or damaged."""
        try:
            table = pq.read_table(path)
            split: SplitMethod = table.schema.metadata[SPLIT_KEY].decode()
            return cls(table["group"].to_numpy(), table["pair"].to_numpy(), split)
        except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} does not tell which rows the run was trained on: {error}. Without it nobody can know "
                "whether rows are new to the model; train the run again (--fresh)."
            ) from error


def gather_trained_rows(
    config: RunConfig, table: TokenTable, rows: Rows, teachers: Iterable[TrainedRows], goes_on: bool = False
) -> TrainedRows:
    """Return what a model will have learnt from after training on `rows`: these, and those before.

    Before are those of the run (or its export) that `model.name` starts from, those of `teachers`, whose pseudo-labels
    stand among `rows`, and, where this run goes on (perhaps with other rows, by --accept-changes), its own. Raises
    CheckpointError if such a file is damaged.
    """
    trained = TrainedRows.of(table.groups[rows], table.pairs[rows], config.data.split)
    for teacher in teachers:
        # Whether prompts count is this run's to say: they do not make its own held-out rows known ones.
        trained = trained.joined_with(replace(teacher, split=config.data.split))
    before = [RunDir(Path(config.model.name).expanduser()).trained_rows]
    if goes_on:
        before.append(RunDir(Path(config.run.dir)).trained_rows)
    for path in before:
        if path.is_file():
            trained = trained.joined_with(TrainedRows.read(path))
    return trained
