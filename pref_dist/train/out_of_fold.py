"""Out-of-fold logits: which rows each fold holds out, and their logits joined after the folds are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.config.load import list_changes, with_values
from pref_dist.config.schema import RunConfig
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.leaks import TrainedRows, gather_trained_rows
from pref_dist.data.plan import Rows
from pref_dist.data.prepare import check_any_scored, classes_of, digest_rows, prepare
from pref_dist.data.pseudo_labels import PseudoSource, Side, are_pseudo, check_teachers, teachers_of
from pref_dist.data.splits import assign_folds
from pref_dist.data.table import TokenTable
from pref_dist.errors import ConfigError, DataError
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.logits_file import ONE_ORDER, ORDERS, Origin, RowLogits, read_logits, write_logits
from pref_dist.evaluate.worst_rows import WORST_ROWS
from pref_dist.files import read_json, write_json
from pref_dist.metrics import score_logits
from pref_dist.models.source import find_model_folder
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import folder_of_step
from pref_dist.train.assemble import take_first
from pref_dist.train.resume import read_saved_config


@dataclass(frozen=True)
class FoldPlan:
    """Which rows of the training table each fold holds out.

    rows: (n,) positions, rising, of all rows that are in some fold. folds: (n,) the fold of each. is_scored: (n,)
    whether its fold scores it, which it does not with a pseudo-label. limit: only so many rows of each side are used
    (`train --limit`).
    """

    table: TokenTable
    rows: Rows
    folds: Rows
    is_scored: NDArray[np.bool_]
    num_folds: int
    limit: int | None

    def held_out_by(self, fold: int) -> Rows:
        rows: Rows = self.rows[(self.folds == fold) & self.is_scored]
        return rows

    def left_to(self, fold: int) -> Rows:
        """Return the rows that the fold's run may train on."""
        rows: Rows = self.rows[self.folds != fold]
        return rows

    def scored_by(self, fold: int) -> Rows:
        """Return the rows that the fold's run gives logits for."""
        return take_first(self.held_out_by(fold), self.limit)

    def trained_by(self, fold: int) -> Rows:
        return take_first(self.left_to(fold), self.limit)


def plan_folds(config: RunConfig, limit: int | None, watch: BuildWatch | None = None) -> FoldPlan:
    """Open (or build) the training table and cut it as each fold's run will.

    Raises DataError if a fold would be trained on rows that it holds out: pairs that stand twice under
    data.split=random_stratified, or rows that the run behind model.name, or a teacher of pseudo-labels, was trained on.
    """
    data = config.data
    assert data.num_folds is not None
    prepared = prepare(config, find_model_folder(config.model.name), watch)
    table, sources = prepared.train_table, prepared.pseudo_sources
    rows = np.sort(np.concatenate((prepared.train_rows, prepared.valid_rows, prepared.not_scored)))
    folds = assign_folds(table.groups[rows], classes_of(table)[rows], data.split, config.run.seed, data.num_folds)
    plan = FoldPlan(table, rows, folds, ~are_pseudo(sources, rows), data.num_folds, limit)
    for fold in range(plan.num_folds):
        check_teachers_of_fold(plan, fold, sources)
        trained = gather_trained_rows(config, table, plan.trained_by(fold), teachers_of(sources))
        check_unseen(plan, fold, trained)
    return plan


def check_teachers_of_fold(plan: FoldPlan, fold: int, sources: Sequence[PseudoSource]) -> None:
    """Raise DataError now for what would stop a fold's run only after those before it."""
    held_out = plan.held_out_by(fold)
    try:
        check_any_scored(held_out, plan.rows[(plan.folds == fold) & ~plan.is_scored])
        check_teachers(sources, Side(plan.table, plan.left_to(fold)), Side(plan.table, held_out))
    except DataError as error:
        raise DataError(f"Fold {fold}: {error}") from error


def check_unseen(plan: FoldPlan, fold: int, trained: TrainedRows) -> None:
    """Raise DataError, with counts and the first row, if a fold's model has learnt from rows that it is to score."""
    rows = plan.scored_by(fold)
    seen = np.flatnonzero(trained.were_seen(plan.table.groups[rows], plan.table.pairs[rows]))
    if len(seen):
        first = plan.table.describe(int(rows[seen[0]]))
        raise DataError(
            f"Fold {fold} holds out {len(rows):,} rows, and its model learns from {len(seen):,} of them or from their "
            f"prompts (first: {first['file']}, row {first['row']}, id {first['id']!r}). Its logits of them would leak. "
            f"Pairs that stand twice: use a grouped data.split, or data.checks.duplicate_pair=set_aside. A model.name "
            f"that was trained on them: start from another. A folder that was replaced: --fold {fold} --fresh."
        )


def all_have_finished(root: RunDir, num_folds: int) -> bool:
    return all(root.fold(number).read_state().get("state") == "finished" for number in range(num_folds))


def join_folds(root: RunDir, plan: FoldPlan) -> dict[str, Any]:
    """Write oof_logits.parquet and metrics.json of finished folds and return the metrics; rank 0 only.

    Raises ConfigError if the folds' settings differ, DataError if a fold does not score exactly its rows,
    was trained on other data, or has learnt from rows that it scores.
    """
    check_same_settings(root, plan.num_folds)
    parts = [read_fold(root, plan, fold) for fold in range(plan.num_folds)]
    joined = join_parts(plan, parts)
    write_logits(root.oof_logits, joined)
    metrics = score_folds(joined, [int(part.notes["step"]) for part in parts])
    write_json(root.metrics, metrics)
    return metrics


def check_same_settings(root: RunDir, num_folds: int) -> None:
    """Raise ConfigError unless the folds are those of one run."""
    configs = [read_saved_config(root.fold(fold)) for fold in range(num_folds)]
    for fold, config in enumerate(configs):
        if config is None or configs[0] is None:
            raise ConfigError(
                f"{root.fold(fold).root} has no {root.config.name}. Train it again: --fold {fold} --fresh."
            )
        changes = list_changes(configs[0], with_values(config, data__fold=0))
        if config.data.fold != fold:
            changes.append(f"data.fold: {config.data.fold} in the folder of fold {fold}")
        if changes:
            raise ConfigError(
                f"{root.fold(fold).root} was trained with other settings than {root.fold(0).root}:\n  "
                + "\n  ".join(changes)
                + f"\nTrain it again by --fold {fold} --fresh, or all by --folds --fresh."
            )


def read_fold(root: RunDir, plan: FoldPlan, fold: int) -> RowLogits:
    """Return a fold's logits of its rows, in their order, after checking that it had not learnt from them."""
    place = root.fold(fold)
    check_data(place, plan, fold)
    check_unseen(plan, fold, TrainedRows.read(place.trained_rows))
    part = read_logits(place.valid_logits)
    check_rows(part, plan, fold)
    check_orders(part, place)
    return part


def check_data(place: RunDir, plan: FoldPlan, fold: int) -> None:
    """Raise DataError unless the fold's best checkpoint is one of these very rows."""
    step = int(read_json(place.best)["step"])
    identity = read_json(folder_of_step(place.checkpoints, step) / "progress.json")["identity"]
    if identity["tables"] != [plan.table.digest] or identity["valid"] != digest_rows(plan.held_out_by(fold)):
        raise DataError(
            f"{place.root} was trained on other rows than the other folds: data.train has changed since, or the split "
            f"falls out otherwise. Give the rows back, or train it again: --fold {fold} --fresh."
        )


def check_orders(part: RowLogits, place: RunDir) -> None:
    """Raise DataError if an evaluation of a fold has asked for other orders of A and B than the folds' training."""
    config = read_saved_config(place)
    assert config is not None
    if part.orders != config.evaluate.orders:
        raise DataError(
            f"{part.path} holds logits of evaluate.swap={part.orders}, and the folds were trained with "
            f"evaluate.swap={config.evaluate.orders}. Write it again: pref-dist evaluate {place.root}."
        )


def check_rows(part: RowLogits, plan: FoldPlan, fold: int) -> None:
    """Raise DataError unless these are exactly the rows that the fold scores, in their order."""
    rows, origin = plan.scored_by(fold), part.known_origin()
    wanted = identify_rows(plan.table.ids.take(rows).to_pylist(), plan.table.pairs[rows], plan.table.is_mirrored[rows])
    found = identify_rows(part.row_ids, origin.pairs, origin.is_mirrored)
    if found == wanted:
        return
    missing, foreign = set(wanted) - set(found), set(found) - set(wanted)
    first = min(missing | foreign, default=found[0])[0]
    raise DataError(
        f"{part.path} holds {len(found):,} rows where fold {fold} holds out {len(wanted):,}: {len(missing):,} are "
        f"missing, {len(foreign):,} are others, {len(found) - len(set(found)):,} stand twice (first: id {first!r}). "
        f"Write it again: pref-dist evaluate {part.path.parent if part.path else ''}, or train --fold {fold} --fresh."
    )


def identify_rows(
    row_ids: list[str], pairs: NDArray[np.uint64], is_mirrored: NDArray[np.bool_]
) -> list[tuple[str, int, bool]]:
    """Return what names a row whatever file it stands in: its id, its pair of answers and their order."""
    return list(zip(row_ids, pairs.tolist(), is_mirrored.tolist(), strict=True))


def join_parts(plan: FoldPlan, parts: list[RowLogits]) -> RowLogits:
    """Put the folds' logits into the order of the table, after proving that each row is there exactly once."""
    scored = [plan.scored_by(fold) for fold in range(plan.num_folds)]
    rows = np.concatenate(scored)
    order = np.argsort(rows, kind="stable")
    rows, table = rows[order], plan.table
    wanted = plan.rows[plan.is_scored]
    if plan.limit is None and not np.array_equal(rows, wanted):
        missing = np.setdiff1d(wanted, rows)
        raise DataError(
            f"The folds score {len(rows):,} rows where the table holds {len(wanted):,} (missing: {len(missing):,}, "
            f"first: {missing[:1].tolist()}). This is a bug."
        )
    (orders,) = {part.orders for part in parts}
    origin = Origin(table.groups[rows], table.pairs[rows], table.is_mirrored[rows], np.ones(len(rows), np.bool_))
    return RowLogits(
        row_ids=table.ids.take(rows).to_pylist(),
        logits=np.concatenate([part.logits for part in parts])[order],
        targets=table.targets[rows],
        origin=origin,
        folds=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])[order],
        notes={"num_folds": str(plan.num_folds), **({} if orders == ONE_ORDER else {ORDERS: orders})},
        answers=join_answers(parts, order),
    )


def join_answers(parts: list[RowLogits], order: Rows) -> Answers | None:
    """Return the folds' answers of both orders of A and B; None where there was but one. All have one evaluate.swap."""
    if any(part.answers is None or part.answers.second is None for part in parts):
        return None
    both = [(part.answers.first, part.answers.second) for part in parts if part.answers is not None]
    first, second = (np.concatenate(side)[order] for side in zip(*both, strict=True))
    return Answers(first, second)


def score_folds(joined: RowLogits, steps: list[int]) -> dict[str, Any]:
    """Return log_loss, accuracy and num_rows over all out-of-fold rows, and the same of each fold."""
    assert joined.targets is not None
    assert joined.folds is not None
    logits, folds = joined.logits.astype(np.float64), []
    for fold, step in enumerate(steps):
        is_here = joined.folds == fold
        folds.append({"fold": fold, **score_logits(logits[is_here], joined.targets[is_here]), "step": step})
    return {**score_logits(logits, joined.targets), "folds": folds}


def write_folds_state(root: RunDir, num_folds: int, is_joined: bool) -> None:
    """Write folds.json: how far each fold is, and whether oof_logits.parquet is that of these folds."""
    folds = []
    for fold in range(num_folds):
        place = root.fold(fold)
        best = read_json(place.best) if place.best.is_file() else {}
        state = {"state": "waiting", "step": 0, **place.read_state()}
        folds.append({"fold": fold, "dir": place.root.name, **state, "best": best})
    write_json(root.folds, {"num_folds": num_folds, "joined": is_joined, "folds": folds})


def remove_joined(root: RunDir) -> None:
    """Take away what was made of folds that are trained anew."""
    for path in (root.oof_logits, root.metrics, root.root / WORST_ROWS):
        path.unlink(missing_ok=True)


def list_folds(root: Path) -> list[RunDir]:
    """Return the folders of the folds that were joined. Raises ConfigError if not all are finished."""
    run_dir = RunDir(root)
    folds = read_json(run_dir.folds)
    if not folds["joined"] or not run_dir.oof_logits.is_file():
        states = ", ".join(f"fold {fold['fold']}: {fold['state']}" for fold in folds["folds"])
        raise ConfigError(f"The folds in {root} are not complete ({states}). Finish them: train RUN.yaml --folds.")
    return [run_dir.fold(number) for number in range(folds["num_folds"])]
