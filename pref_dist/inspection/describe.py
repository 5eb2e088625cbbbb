"""From the numbers of all rows to the inspection: every figure that the table, the page and the JSON show."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pref_dist.files import StrPath
from pref_dist.inspection.problems import list_problems
from pref_dist.inspection.ratings import ModelRecord, rate_models
from pref_dist.inspection.read import NO_MODEL, DataSet, RowNumbers, read_data_set
from pref_dist.inspection.repeats import Repeats, SharedWithTest, count_repeats, count_shared
from pref_dist.inspection.statistics import (
    DifferenceBin,
    Floats,
    Histogram,
    Ints,
    Lengths,
    Outcomes,
    Share,
    bin_differences,
    build_histogram,
    compare_longer,
    count_classes,
    count_fitting,
    count_outcomes,
    count_turns,
    cut_at,
    describe_lengths,
    prior_log_loss,
)
from pref_dist.labels import TEXT_COLUMNS

Unit = Literal["characters", "tokens"]
WHOLE_ROW = "whole row"


@dataclass(frozen=True)
class LengthFigures:
    """In one unit. Keys are prompt, response_a, response_b and, in `lengths`, the sum of the three."""

    lengths: dict[str, Lengths]
    histograms: dict[str, Histogram]  # A and B share their bins


@dataclass(frozen=True)
class LabelFigures:
    """Of the labelled rows."""

    num_rows: int
    classes: dict[str, Share]
    prior_log_loss: float | None  # of always predicting the class shares
    position: Outcomes  # how A, the response shown first, fared
    longer: Outcomes  # how the longer response fared, where they differ in characters
    by_difference: list[DifferenceBin]  # A's characters minus B's
    models: list[ModelRecord]  # the best first; empty where the source names none


@dataclass(frozen=True)
class Inspection:
    """All figures of a data set. `labels` is None without a label, `tokens` and `fitting` without a tokenizer."""

    data: DataSet
    num_usable: int
    missing_turns: dict[str, int]  # {text column: turns of usable rows without text}
    repeats: Repeats
    test: SharedWithTest | None
    turns: dict[int, int]
    characters: LengthFigures
    tokens: LengthFigures | None
    fitting: dict[int, Share] | None  # {tokens: rows whose text is not longer}
    tokenizer: str | None
    labels: LabelFigures | None

    def as_json(self) -> dict[str, Any]:
        """Return every statistic as plain values; texts and numbers of single rows are left out."""
        data = self.data
        about = {
            "path": str(data.path), "format": data.format, "is_labelled": data.is_labelled, "num_rows": data.num_rows,
            "num_set_aside": len(data.set_aside), "problems": as_plain(list_problems(data)),
            "missing_cells": data.missing, "unused_columns": data.unused_columns,
        }  # fmt: skip
        return about | {name: as_plain(value) for name, value in vars(self).items() if name != "data"}


def as_plain(value: Any) -> Any:
    """Return dataclasses as dicts, at any depth, with keys that JSON knows."""
    if is_dataclass(value):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def inspect_data(
    path: StrPath,
    test: StrPath | None = None,
    format: str = "auto",
    tokenizer: str | None = None,
    num_preview_rows: int = 3,
) -> Inspection:
    """Read a source once and describe it; with `test`, say what of that file stands in it too.

    Lengths are in characters and, with `tokenizer` (a model as in `model.name`), in tokens. `write_page` makes a page
    of it, `as_json` plain values. Raises DataError for a file that cannot be read or has no usable row, ModelError
    for a tokenizer that cannot be loaded.
    """
    data = read_data_set(Path(path), format, load_named_tokenizer(tokenizer), num_preview_rows)
    other = None if test is None else read_data_set(Path(test), format, with_labels=False).numbers
    return describe(data, other, tokenizer)


def load_named_tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from pref_dist.data.encode import load_tokenizer
    from pref_dist.models.source import find_model_folder

    return load_tokenizer(find_model_folder(name))


def describe(data: DataSet, test: RowNumbers | None, tokenizer: str | None) -> Inspection:
    numbers = data.numbers
    return Inspection(
        data=data,
        num_usable=len(numbers.turns),
        missing_turns=dict(zip(TEXT_COLUMNS, numbers.empty_turns.sum(axis=0).tolist(), strict=True)),
        repeats=count_repeats(
            numbers.pairs, numbers.is_mirrored, numbers.targets, numbers.prompts, numbers.is_identical
        ),
        test=None if test is None else count_shared(numbers.pairs, numbers.prompts, test.pairs, test.prompts),
        turns=count_turns(numbers.turns),
        characters=measure_lengths(numbers.characters),
        tokens=None if numbers.tokens is None else measure_lengths(numbers.tokens),
        fitting=None if numbers.tokens is None else count_fitting(numbers.tokens.sum(axis=1)),
        tokenizer=tokenizer,
        labels=describe_labels(numbers),
    )


def measure_lengths(lengths: Ints) -> LengthFigures:
    """Summarise (R, S) lengths of prompt, A and B."""
    columns = dict(zip(TEXT_COLUMNS, lengths.T, strict=True))
    cuts = (cut_at(lengths[:, 0]), *2 * (cut_at(lengths[:, 1:].ravel()),))
    return LengthFigures(
        {name: describe_lengths(column) for name, column in (columns | {WHOLE_ROW: lengths.sum(axis=1)}).items()},
        {name: build_histogram(column, cut) for (name, column), cut in zip(columns.items(), cuts, strict=True)},
    )


def describe_labels(numbers: RowNumbers) -> LabelFigures | None:
    """Return what the labels tell, None if no usable row has one."""
    labelled = ~np.isnan(numbers.targets).any(axis=1)
    targets: Floats = numbers.targets[labelled]
    if not len(targets):
        return None
    responses = numbers.characters[labelled, 1:]
    differences = responses[:, 0] - responses[:, 1]
    models = numbers.models[labelled]
    known = (models != NO_MODEL).all(axis=1)
    return LabelFigures(
        num_rows=len(targets),
        classes=count_classes(targets),
        prior_log_loss=prior_log_loss(targets),
        position=count_outcomes(targets),
        longer=compare_longer(differences, targets),
        by_difference=bin_differences(differences, targets),
        models=rate_models(numbers.model_names, models[known], targets[known], responses[known]),
    )
