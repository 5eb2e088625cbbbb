"""The baselines' probabilities of scored rows, fitted once for the same rows and kept beside the token caches.

They depend on texts and labels, not on how a model reads them: runs of other models on the same split find them.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pref_dist.config.schema import RunConfig
from pref_dist.data.cache import default_cache_dir
from pref_dist.data.cache_entry import LAYOUT_KEY, digest_json
from pref_dist.data.kept_chances import Chances, Kept, path_of_kept, read_kept, write_kept
from pref_dist.data.plan import Rows
from pref_dist.data.prepare import Prepared, digest_rows
from pref_dist.data.pseudo_labels import Side
from pref_dist.data.rows import Row
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.evaluate.baselines import describe_fit, fit_baselines
from pref_dist.evaluate.texts import iterate_texts

Say = Callable[[str], None]

# Of what a token table's key is made of, the parts that no text depends on.
TOKEN_PARTS = ("tokenizer", "template", "clean", "truncation", "max_tokens", LAYOUT_KEY)
NO_CELLS = ("", "", "")  # a row's texts are held once, not also as they stand in the file


class Task(NamedTuple):
    """One fit: the rows that the baselines learn, with the weights of their table, and those that they predict."""

    train: Side
    scored: Side


def baseline_chances(
    config: RunConfig, prepared: Prepared, table: TokenTable, rows: Rows, say: Say = lambda text: None
) -> Chances:
    """Return {baseline: probabilities (n, 3), float64} of `rows` of `table`, fitted on the run's training rows.

    Texts are read only where nothing is kept under this key; `say` hears of a fit. A cache folder that cannot be
    written keeps nothing, and costs the time alone. Call it on one rank. Raises DataError as reading the sources does.
    """
    task = Task(Side(prepared.train_table, prepared.train_rows), Side(table, rows))
    return find_or_fit(config, [task], say)[0]


def fold_baseline_chances(
    config: RunConfig, table: TokenTable, folds: Sequence[tuple[Rows, Rows]], say: Say = lambda text: None
) -> Chances:
    """Return {baseline: probabilities (n, 3), float64} of all rows that the folds score, in the order of the table.

    `folds` are (rows to fit on, rows to score) of each, positions in `table`; no row may be scored twice. Each fold's
    are kept as those of its own run are, and all texts are read once. Otherwise as `baseline_chances`.
    """
    found = find_or_fit(config, [Task(Side(table, train), Side(table, scored)) for train, scored in folds], say)
    order = np.argsort(np.concatenate([scored for _, scored in folds]), kind="stable")
    return {name: np.concatenate([chances[name] for chances in found])[order] for name in found[0]}


def find_or_fit(config: RunConfig, tasks: Sequence[Task], say: Say) -> list[Chances]:
    cache_dir = default_cache_dir(config)
    keys = [describe_task(task, config.run.seed) for task in tasks]
    found = [find_kept(cache_dir, key, say) for key in keys]
    missing = [place for place, chances in enumerate(found) if chances is None]
    texts = read_texts(config, [tasks[place] for place in missing])
    for place in missing:
        found[place] = fit_task(tasks[place], texts, config.run.seed, say)
        keep(cache_dir, Kept(keys[place], found[place] or {}, str(tasks[place].scored.table.parts[0][1].source)), say)
    return [chances for chances in found if chances is not None]


def find_kept(cache_dir: Path, key_parts: dict[str, Any], say: Say) -> Chances | None:
    path = path_of_kept(cache_dir, digest_json(key_parts))
    if not path.exists():
        return None
    try:
        return read_kept(path).chances
    except DataError as error:
        if path.exists():  # else `cache clean` was quicker
            say(str(error))
        return None


def keep(cache_dir: Path, kept: Kept, say: Say) -> None:
    try:
        write_kept(cache_dir, kept)
    except OSError as error:
        say(f"The baselines cannot be kept in {cache_dir} ({error.strerror}); the next evaluation fits them again.")


def describe_task(task: Task, seed: int) -> dict[str, Any]:
    """Return all that decides the probabilities: rows by their content, weights, and how they are fitted."""
    weights = np.ascontiguousarray(task.train.table.weights[task.train.rows], dtype=np.float64)
    return {
        "fit": describe_fit(seed),
        "train": describe_side(task.train),
        "weights": hashlib.sha256(weights.tobytes()).hexdigest(),
        "scored": describe_side(task.scored),
    }


def describe_side(side: Side) -> list[dict[str, Any]]:
    """Return, for each source, its content and the numbers of the rows in it; as JSON gives them back."""
    parts = []
    for start, part in side.table.parts:
        positions = side.rows[(side.rows >= start) & (side.rows < start + len(part))] - start
        source = {name: value for name, value in part.manifest["key_parts"].items() if name not in TOKEN_PARTS}
        parts.append({"source": source, "rows": digest_rows(part.row_numbers[positions])})
    return parts


class Texts(NamedTuple):
    """Rows of one table as texts. positions: (n,) rising, of `rows`."""

    positions: Rows
    rows: list[Row]

    def at(self, positions: Rows) -> list[Row]:
        return [self.rows[place] for place in np.searchsorted(self.positions, positions)]


def read_texts(config: RunConfig, tasks: Sequence[Task]) -> dict[int, Texts]:
    """Return the texts of all rows that the tasks need, by the id() of their table; each table is read once."""
    sides = [side for task in tasks for side in task]
    tables = {id(side.table): side.table for side in sides}
    texts = {}
    for name, table in tables.items():
        positions = np.unique(np.concatenate([side.rows for side in sides if side.table is table]))
        rows = [row._replace(cells=NO_CELLS) for row in iterate_texts(config.data, table, positions)]
        texts[name] = Texts(positions, rows)
    return texts


def fit_task(task: Task, texts: dict[int, Texts], seed: int, say: Say) -> Chances:
    say(f"Fitting the baselines on {len(task.train.rows):,} rows.")
    weights: NDArray[np.float64] = task.train.table.weights[task.train.rows]
    fitted = fit_baselines(texts[id(task.train.table)].at(task.train.rows), seed, weights)
    return fitted.predict(texts[id(task.scored.table)].at(task.scored.rows))
