"""Rows whose losses differ most between two runs, with their texts where these can still be read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pref_dist.config.schema import RunConfig
from pref_dist.data.ingest import SourceRequest, open_source
from pref_dist.data.pairs import pair_of
from pref_dist.data.rows import Row
from pref_dist.data.validate import RowChecker
from pref_dist.errors import DataError
from pref_dist.evaluate.logits_file import RowLogits
from pref_dist.findings import Policies
from pref_dist.labels import CLASSES
from pref_dist.metrics import probabilities
from pref_dist.report.paired import Paired, RowSet
from pref_dist.report.shown_rows import MAX_TURNS, ShownRow, likeliest, name_outcome, show_turn

MOST_ROWS = 12  # of two runs
Key = tuple[int, bool]  # hash of the texts, whether they are mirrored; see data/pairs.py


@dataclass(frozen=True)
class FurthestRow:
    """One row. losses, predicted, guesses: of the first run and of the second. row: what else is shown of it."""

    row: ShownRow
    losses: tuple[float, float]
    predicted: tuple[list[tuple[str, float]], list[tuple[str, float]]]
    guesses: tuple[str, str]


@dataclass(frozen=True)
class FurthestRows:
    """Of two runs, the largest difference of losses first. note: why texts are missing, else empty.

    num_other_answers: in how many common rows the two predict different classes.
    """

    paired: Paired
    num_other_answers: int
    rows: list[FurthestRow]
    note: str


def find_furthest_rows(rows: RowSet, pairs: Sequence[Paired], config: RunConfig) -> list[FurthestRows]:
    """Return, for each pair of runs, the rows whose losses differ most.

    `config`: of a run whose sources hold the texts of its own rows; they are read once for all pairs.
    """
    chosen = [choose_rows(paired) for paired in pairs]
    keys = [find_keys(rows, paired, places) for paired, places in zip(pairs, chosen, strict=True)]
    wanted = {key for found in keys for key in found}
    texts, note = read_texts(config, wanted) if rows.is_own else ({}, "The file of these rows is not kept.")
    found = []
    for paired, places, their_keys in zip(pairs, chosen, keys, strict=True):
        shown = zip(places, their_keys, strict=True)
        lines = [build_furthest_row(rows, paired, place, texts.get(key)) for place, key in shown]
        found.append(FurthestRows(paired, count_other_answers(rows, paired), lines, note))
    return found


def count_other_answers(rows: RowSet, paired: Paired) -> int:
    one, other = (
        np.asarray(rows.files[number].logits)[places].argmax(axis=1)
        for number, places in zip((paired.first, paired.second), paired.places_of, strict=True)
    )
    return int((one != other).sum())


def choose_rows(paired: Paired) -> list[int]:
    """Return numbers of common rows, the largest difference first."""
    gaps = np.abs(paired.losses[1] - paired.losses[0])
    return [int(place) for place in np.argsort(-gaps, kind="stable")[:MOST_ROWS] if gaps[place] > 0.0]


def find_keys(rows: RowSet, paired: Paired, chosen: Sequence[int]) -> list[Key]:
    origin = rows.files[paired.first].origin
    assert origin is not None
    return [
        (int(origin.pairs[place]), bool(origin.is_mirrored[place]))
        for place in paired.places_of[0][list(chosen)].tolist()
    ]


def read_texts(config: RunConfig, wanted: set[Key]) -> tuple[dict[Key, Row], str]:
    """Return the wanted rows as far as the run's sources still hold them, and a note if some are missing."""
    found: dict[Key, Row] = {}
    if not wanted:
        return found, ""
    try:
        for row in iterate_rows(config):
            key = pair_of(row.turns)
            if key in wanted:
                found.setdefault(key, row)
            if len(found) == len(wanted):
                return found, ""
    except DataError as error:
        return found, f"Texts are missing, since the sources cannot be read: {error}"
    return found, f"{len(wanted) - len(found)} rows stand no longer in the sources, so their texts are missing."


def iterate_rows(config: RunConfig) -> Iterator[Row]:
    """Yield the rows among which the run's validation rows are."""
    data = config.data
    sources = [(source.path, source.format) for source in data.training_sources]
    for path, format in sources if data.valid is None else [(data.valid, None)]:
        request = SourceRequest(Path(path), format or data.format, config.run.seed)
        yield from RowChecker(open_source(request), Policies(data.bad_rows, data.checks)).iterate_rows()


def build_furthest_row(rows: RowSet, paired: Paired, place: int, text: Row | None) -> FurthestRow:
    one, other = rows.files[paired.first], rows.files[paired.second]
    places = (int(paired.places_of[0][place]), int(paired.places_of[1][place]))
    assert one.targets is not None
    target = one.targets[places[0]].tolist()
    chances = (chances_of(one, places[0]), chances_of(other, places[1]))
    row = ShownRow(
        id=one.row_ids[places[0]],
        place="",
        outcome=name_outcome(target),
        guess="",
        real=list(zip(CLASSES, target, strict=True)),
        predicted=[],
        loss=None,
        is_cut=False,
        models=None if text is None else text.models,
        turns=[] if text is None else [show_turn(turn) for turn in text.turns[:MAX_TURNS]],
        num_turns=0 if text is None else len(text.turns),
    )
    return FurthestRow(
        row,
        (float(paired.losses[0][place]), float(paired.losses[1][place])),
        (list(zip(CLASSES, chances[0], strict=True)), list(zip(CLASSES, chances[1], strict=True))),
        (likeliest(chances[0]), likeliest(chances[1])),
    )


def chances_of(rows: RowLogits, place: int) -> list[float]:
    chances: list[float] = probabilities(np.asarray(rows.logits[place : place + 1], np.float64))[0].tolist()
    return chances
