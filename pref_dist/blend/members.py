"""What goes into a blend: runs and folds of runs, with logits of the same rows, all of them new to their models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.leaks import TrainedRows
from pref_dist.errors import CheckpointError, ConfigError, DataError
from pref_dist.evaluate.logits_file import RowLogits, read_logits
from pref_dist.metrics import probabilities
from pref_dist.run_dir import RunDir
from pref_dist.train.out_of_fold import identify_rows, list_folds

WEIGHTS_NAME = "weights.json"


@dataclass(frozen=True)
class Member:
    """One member. runs: the folders that predict new rows, several for folds. rows: logits of rows new to them."""

    root: Path
    kind: Literal["folds", "run"]
    runs: list[RunDir]
    rows: RowLogits

    @property
    def chances(self) -> NDArray[np.float64]:
        """Probabilities (N, 3) of its rows."""
        return probabilities(self.rows.logits.astype(np.float64))


def read_members(roots: Sequence[Path]) -> list[Member]:
    """Open all members and bring their rows into the order of the first one's.

    Raises ConfigError for a folder that is neither a run nor folds, CheckpointError for an unfinished one, and
    DataError, with counts and the first row, where rows differ, have no label, or would leak.
    """
    if len({root.resolve() for root in roots}) < len(roots):
        raise ConfigError(f"A member stands twice in {', '.join(map(str, roots))}. Name each once.")
    members = [read_member(root) for root in roots]
    for member in members:
        check_new_to(member)
    return [members[0], *(align(member, members[0]) for member in members[1:])]


def read_member(root: Path) -> Member:
    run_dir = RunDir(root)
    if run_dir.folds.is_file():
        return Member(root, "folds", list_folds(root), read_logits(run_dir.oof_logits))
    if (root / WEIGHTS_NAME).is_file():
        raise ConfigError(f"{root} is a blend; its weights were fitted on these rows. Name its members instead.")
    run_dir.check_holds_run()
    state = run_dir.read_state()
    if state.get("state") != "finished":
        raise CheckpointError(
            f"{root} has not finished (state: {state.get('state', 'none')}, step {state.get('step', 0)}). "
            "Finish it by starting `train` again."
        )
    return Member(root, "run", [run_dir], read_logits(run_dir.valid_logits))


def check_new_to(member: Member) -> None:
    """Raise DataError if a model has learnt from a row that its logits are taken of.

    Not only the file is asked, which says what was so when it was written, but also the models' folders.
    """
    rows, origin = member.rows, member.rows.check_held_out()
    if rows.targets is None:
        raise DataError(f"{rows.path} has no labels, and weights are fitted on labelled rows.")
    for number, run in enumerate(member.runs):
        if member.kind == "run" and not run.trained_rows.is_file():
            continue  # from before it was kept; `evaluate` has told `held_out` from the config
        is_own = np.ones(len(rows), np.bool_) if rows.folds is None else rows.folds == number
        trained = TrainedRows.read(run.trained_rows)
        seen = np.flatnonzero(is_own & trained.were_seen(origin.groups, origin.pairs))
        if len(seen):
            raise DataError(
                f"{rows.path}: the model in {run.root} has learnt from {len(seen):,} of the {int(is_own.sum()):,} rows "
                f"that it gives logits for, or from their prompts (first: row {rows.row_ids[seen[0]]}), so they would "
                "leak into the weights. Was the folder replaced? Train it again (--fresh)."
            )


def align(member: Member, first: Member) -> Member:
    """Return the member with its rows in the order of the first one's."""
    wanted, found = name_rows(first.rows), name_rows(member.rows)
    places = {name: place for place, name in enumerate(found)}
    missing, foreign = set(wanted) - set(found), set(found) - set(wanted)
    if missing or foreign or len(places) < len(found) or len(set(wanted)) < len(wanted):
        example = min(missing | foreign, default=found[0])[0]
        raise DataError(
            f"{member.root} has logits of {len(found):,} rows and {first.root} of {len(wanted):,}: {len(missing):,} "
            f"of those are missing in it, {len(foreign):,} are others (first: row {example}). All members must score "
            "the same rows: folds of one table, or runs with the same data, data.split, data.valid_fraction and "
            "run.seed."
        )
    order = np.array([places[name] for name in wanted], dtype=np.int64)
    aligned = pick_rows(member.rows, order)
    check_targets(aligned, first)
    return replace(member, rows=aligned)


def name_rows(rows: RowLogits) -> list[tuple[str, int, bool]]:
    origin = rows.known_origin()
    return identify_rows(rows.row_ids, origin.pairs, origin.is_mirrored)


def pick_rows(rows: RowLogits, order: NDArray[np.int64]) -> RowLogits:
    """Return the rows at these places; their origin is that of the first member's rows, which are the same."""
    assert rows.targets is not None
    ids = [rows.row_ids[place] for place in order]
    return replace(
        rows, row_ids=ids, logits=rows.logits[order], targets=rows.targets[order], origin=None, folds=None, answers=None
    )


def check_targets(rows: RowLogits, first: Member) -> None:
    assert rows.targets is not None
    assert first.rows.targets is not None
    differ = np.flatnonzero(np.abs(rows.targets - first.rows.targets).max(axis=1) > 1e-9)
    if len(differ):
        raise DataError(
            f"{rows.path} and {first.rows.path} have other labels for {len(differ):,} of {len(rows):,} rows (first: "
            f"row {rows.row_ids[differ[0]]}). Train or evaluate both on the same data."
        )
