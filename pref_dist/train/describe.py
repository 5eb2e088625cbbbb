"""The end of a training: its held-out rows described and compared with simple baselines; rank 0 alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pref_dist.config.schema import RunConfig
from pref_dist.data.plan import Rows
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError, PrefDistError
from pref_dist.evaluate.analysis import Analysis, Scored, analyse, keep_calibration, warn_of_learnt, write_analysis
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.baseline_cache import baseline_chances, fold_baseline_chances
from pref_dist.evaluate.gate import warn_of_gate
from pref_dist.evaluate.logits_file import RowLogits, read_logits
from pref_dist.evaluate.open_model import choose_checkpoint
from pref_dist.evaluate.own_rows import open_own_rows
from pref_dist.evaluate.restore import read_run_config
from pref_dist.evaluate.texts import iterate_texts
from pref_dist.files import read_json
from pref_dist.run_dir import RunDir

Say = Callable[[str], None]

# A metrics.json that has it was written by a description, not by the training alone.
SIGN_OF_DESCRIPTION = "intervals"


def describe_run(run_dir: RunDir, say: Say, name: str = "") -> dict[str, Any]:
    """Add to a finished run's metrics.json what its best step's logits tell, and return it all.

    As `evaluate` would, without running the model again. Says loudly if the model has learnt less than the baselines,
    or if the rows cannot be read any more: the run itself is whole. Does nothing where evaluate.describe is false, or
    the metrics are described already, or are the copy of an evaluation that came later: then the best step's scores
    are returned. name: of the run among several, which what is said begins with.
    """
    config, known, best = read_run_config(run_dir, ()), read_json(run_dir.metrics), read_json(run_dir.best)
    if any(known.get(name) != value for name, value in best.items()):
        return dict(best)
    if not config.evaluate.describe or SIGN_OF_DESCRIPTION in known:
        return dict(known)
    return described(run_dir, known, say, lambda: analyse_run(run_dir, config, say), name)


def analyse_run(run_dir: RunDir, config: RunConfig, say: Say) -> Analysis:
    prepared = open_own_rows(config, run_dir, choose_checkpoint(run_dir, "best").progress["identity"])
    table, rows = prepared.valid_table, prepared.valid_rows
    scored = find_scored(config, table, rows, read_logits(run_dir.valid_logits))
    found = analyse(scored, config.evaluate.swap, baseline_chances(config, prepared, table, rows, say))
    keep_calibration(run_dir, {**found.metrics, "step": read_json(run_dir.best)["step"]}, config.evaluate)
    return found


def describe_folds(
    root: RunDir,
    config: RunConfig,
    known: dict[str, Any],
    table: TokenTable,
    folds: Sequence[tuple[Rows, Rows]],
    say: Say,
) -> dict[str, Any]:
    """Add to the folds' metrics (`known`) what their out-of-fold logits tell, and return it all; as `describe_run`.

    They are not read again: a job of another fold that ends now may be joining them anew.
    folds: (rows that it learns from, rows that it scores) of each, positions in `table`.
    """
    if not config.evaluate.describe:
        return known

    def analyse_folds() -> Analysis:
        rows = np.sort(np.concatenate([scored for _, scored in folds]))
        scored = find_scored(config, table, rows, read_logits(root.oof_logits))
        return analyse(scored, config.evaluate.swap, fold_baseline_chances(config, table, folds, say))

    return described(root, known, say, analyse_folds, "all folds")


def find_scored(config: RunConfig, table: TokenTable, rows: Rows, logits: RowLogits) -> Scored:
    """Return the logits of a file as answers to these rows. Raises DataError if they are of others."""
    if table.ids.take(rows).to_pylist() != logits.row_ids:
        raise DataError(f"{logits.path} holds {len(logits):,} rows, which are not the {len(rows):,} held out.")
    answers = logits.answers or Answers(logits.logits)
    return Scored(table, rows, answers, iterate_texts(config.data, table, rows), logits.held_out)


def described(
    run_dir: RunDir, known: dict[str, Any], say: Say, analyse_it: Callable[[], Analysis], name: str
) -> dict[str, Any]:
    try:
        found = analyse_it()
    except (PrefDistError, OSError) as error:
        say(f"WARNING    {run_dir.root} is finished and whole, but its rows could not be described: {error}")
        return dict(known)
    whole = Analysis({**known, **found.metrics}, found.worst_rows)
    write_analysis(run_dir.root, whole)
    for warning in filter(None, [warn_of_learnt(whole.metrics), *warn_of_gate(whole.metrics["gate"])]):
        say(f"WARNING    {name}: {warning}" if name else f"WARNING    {warning}")
    return whole.metrics
