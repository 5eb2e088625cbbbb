"""The verb `blend`: weights of several runs from rows that are new to them all, and one submission of all."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.blend.gain import Judgement, judge_blend
from pref_dist.blend.members import WEIGHTS_NAME, Member, read_members
from pref_dist.blend.pool import Pool
from pref_dist.data.cache_build import BuildWatch
from pref_dist.errors import ConfigError
from pref_dist.evaluate.file_predictions import FilePredictions, average, check_same_ids, fill_in, keep_inside
from pref_dist.evaluate.logits_file import RowLogits, write_logits
from pref_dist.evaluate.restore import read_run_config, restore_run
from pref_dist.files import StrPath, as_path, as_paths, write_json
from pref_dist.predict import predict_table
from pref_dist.run_dir import RunDir
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.memory import release
from pref_dist.runtime.parallel import Parallel, WatchBatches, start_parallel
from pref_dist.submission import write_submission

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BlendOptions:
    """data: rows to predict (a path or text), None: only fit. format: their layout, None: each run's own."""

    data: Path | None = None
    format: str | None = None
    overrides: Sequence[str] = ()
    watch_build: BuildWatch | None = None
    watch_batches: WatchBatches | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_path(self.data))


@dataclass(frozen=True)
class BlendResult:
    """summary: the content of weights.json. predicted: what the submission holds; None without data."""

    out: Path
    summary: dict[str, Any]
    predicted: FilePredictions | None
    is_main: bool


def blend(run_folders: Sequence[StrPath], out: StrPath, options: BlendOptions | None = None) -> BlendResult:
    """Fit weights and a temperature on the members' held-out rows and write them; every rank calls it.

    With `options.data` all members predict these rows, each on all ranks, and the blend is written as a
    submission. Under a launcher end as `train` says. Raises PrefDistError; before any model is loaded if the members
    do not go together or would leak.
    """
    options, roots, out = options or BlendOptions(), as_paths(run_folders), Path(out)
    check_out(out, roots)
    members = read_members(roots)
    # All of them, so that what cannot be set is refused at once.
    first, *_ = [read_run_config(run, options.overrides) for member in members for run in member.runs]
    chances = np.stack([member.chances for member in members])
    rows = members[0].rows
    assert rows.targets is not None
    judgement = judge_blend(chances, rows.targets, rows.known_origin().groups)
    parallel = start_parallel(first.parallel, first.run.deterministic, options.watch_batches)
    say = Speaker(parallel.is_main, sys.stderr).say
    for warning in warn_of_orders(members, options) if options.data is not None else ():
        say(f"WARNING: {warning}")
    predicted = predict_all(members, judgement.pool, parallel, options) if options.data is not None else None
    parallel.stop()
    summary = summarise(members, judgement)
    if parallel.is_main:
        blended = describe_blend(members, judgement.pool.log_chances(chances))
        write_blend(RunDir(out), summary, blended, predicted)
    return BlendResult(out, summary, predicted, parallel.is_main)


def warn_of_orders(members: Sequence[Member], options: BlendOptions) -> list[str]:
    """Say which members predict in other orders of A and B than their logits, which the weights fit, are made in."""
    orders = [(member, read_run_config(member.runs[0], options.overrides).evaluate.orders) for member in members]
    return [
        f"{member.rows.path} holds logits of evaluate.swap={member.rows.orders}, and {member.root} predicts with "
        f"evaluate.swap={wanted}: the weights and the temperature are not fitted on what they are used for. Predict "
        "alike by --set, or write the logits again, as `evaluate` or `train --folds` does."
        for member, wanted in orders
        if member.rows.orders != wanted
    ]


def check_out(out: Path, roots: Sequence[Path]) -> None:
    """Raise ConfigError if the result would be written over a run."""
    place = RunDir(out)
    if place.config.is_file() or place.folds.is_file() or out.resolve() in {root.resolve() for root in roots}:
        raise ConfigError(f"--out {out} holds a run, whose files the blend would write over. Name a folder of its own.")


def predict_all(members: Sequence[Member], pool: Pool, parallel: Parallel, options: BlendOptions) -> FilePredictions:
    """Return the blended probabilities of every row of a file, in its order."""
    parts = [average([predict_one(run, parallel, options) for run in member.runs]) for member in members]
    check_same_ids(parts, [member.root for member in members])
    stacked = np.stack(fill_in(parts))
    mixed, logs = pool.mix(stacked), pool.log_chances(stacked)
    # A row that no member could read has class shares, which know nothing that a temperature could sharpen.
    is_prior = np.all([part.is_prior for part in parts], axis=0)
    blended = np.where(is_prior[:, None], mixed, np.exp(logs))
    return FilePredictions(parts[0].ids, is_prior, parts[0].num_left_out, parts[0].set_aside, keep_inside(blended))


def predict_one(run_dir: RunDir, parallel: Parallel, options: BlendOptions) -> FilePredictions:
    """Let one run predict, and give its memory back."""
    assert options.data is not None
    run = restore_run(read_run_config(run_dir, options.overrides), run_dir, None, parallel)
    completed = predict_table(run, options.data, options.format, options.watch_build)
    del run
    release()
    return completed


def describe_blend(members: Sequence[Member], log_chances: Array) -> RowLogits:
    """Return the blended probabilities of the members' rows as logits; a student can be distilled from them."""
    rows, notes = members[0].rows, {"members": str(len(members))}
    if any(member.kind == "folds" for member in members):
        notes["num_folds"] = str(max(len(member.runs) for member in members))
    return RowLogits(rows.row_ids, log_chances, rows.targets, rows.known_origin(), notes=notes)


def summarise(members: Sequence[Member], judgement: Judgement) -> dict[str, Any]:
    """Return what weights.json holds."""
    weighted = zip(members, judgement.pool.weights, judgement.members, strict=True)
    return {
        "members": [
            {"run": str(member.root), "kind": member.kind, "weight": float(weight), **scores}
            for member, weight, scores in weighted
        ],
        "temperature": judgement.pool.temperature,
        "temperature_gain": judgement.temperature_gain,
        "equal_weights": judgement.equal,
        "fitted": judgement.fitted,
        "cross_fitted": judgement.cross_fitted,
        "best_member": str(members[judgement.best].root),
        "gain": judgement.gain,
        "gain_interval": None if judgement.interval is None else list(judgement.interval),
    }


def write_blend(place: RunDir, summary: dict[str, Any], blended: RowLogits, predicted: FilePredictions | None) -> None:
    write_json(place.root / WEIGHTS_NAME, summary)
    write_logits(place.oof_logits, blended)
    if predicted is None:
        place.submission.unlink(missing_ok=True)  # of other weights
    else:
        write_submission(place.submission, predicted.ids, predicted.chances)
