"""Everything between the config and the first batch: both files as tokens, split and accounted for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pref_dist.config.schema import RunConfig
from pref_dist.data.cache import TokenTable, default_cache_dir, open_tokens
from pref_dist.data.encode import TokenizerSpec, load_tokenizer
from pref_dist.data.folds import Rows, split_hold_out
from pref_dist.errors import DataError
from pref_dist.files import write_json, write_text
from pref_dist.labels import CLASSES, WINNER_COLUMNS
from pref_dist.run_dir import RunDir


@dataclass(frozen=True)
class SideSummary:
    """What stands on one side of the split."""

    num_rows: int
    num_prompts: int  # different ones, up to case, white space and punctuation
    num_tokens: int  # after truncation, special tokens included
    class_shares: dict[str, float]  # of A, B, tie


@dataclass(frozen=True)
class Prepared:
    """The rows of a run. `train_rows` and `valid_rows` are positions in their tables, in rising order.

    Without `data.valid` both tables are the same one. `num_shared_prompts` counts the prompts
    that stand on both sides, which only a `data.valid` of its own can have.
    """

    tokenizer: TokenizerSpec
    train_table: TokenTable
    train_rows: Rows
    valid_table: TokenTable
    valid_rows: Rows
    train: SideSummary
    valid: SideSummary
    num_shared_prompts: int
    set_aside: list[dict[str, Any]]  # {file, row, id, kind, detail}, of both files
    truncation: dict[str, Any]  # audit of each file: "train" and, where it is a file of its own, "valid"

    @property
    def tables(self) -> list[TokenTable]:
        """The one or two files behind this."""
        return [self.train_table, *([self.valid_table] if self.valid_table is not self.train_table else [])]


def prepare(config: RunConfig, tokenizer_path: Path) -> Prepared:
    """Open (or build) the tokens of data.train and data.valid and split what must be split.

    `tokenizer_path` is a local folder. Raises DataError and ModelError.
    """
    tokenizer = load_tokenizer(tokenizer_path)
    train_table = open_labelled("data.train", config.data.train, config, tokenizer)
    if config.data.valid is None:
        valid_table = train_table
        train_rows, valid_rows = split_hold_out(train_table.groups, config.run.seed, config.data.valid_fraction)
    else:
        valid_table = open_labelled("data.valid", config.data.valid, config, tokenizer)
        train_rows, valid_rows = np.arange(len(train_table)), np.arange(len(valid_table))
    return Prepared(
        tokenizer=tokenizer,
        train_table=train_table,
        train_rows=train_rows,
        valid_table=valid_table,
        valid_rows=valid_rows,
        train=summarise(train_table, train_rows),
        valid=summarise(valid_table, valid_rows),
        num_shared_prompts=count_shared_prompts(train_table, train_rows, valid_table, valid_rows),
        set_aside=join_set_aside(train_table, valid_table),
        truncation=join_audits(train_table, valid_table),
    )


def open_labelled(setting: str, path: str, config: RunConfig, tokenizer: TokenizerSpec) -> TokenTable:
    table = open_tokens(Path(path), config.data, tokenizer, default_cache_dir(config))
    if not table.is_labelled:
        raise DataError(
            f"{setting}={path} has no labels, and training needs them. "
            f"Add the columns {', '.join(WINNER_COLUMNS)}, or name a labelled file."
        )
    return table


def summarise(table: TokenTable, rows: Rows) -> SideSummary:
    shares = table.targets[rows].mean(axis=0)
    return SideSummary(
        num_rows=len(rows),
        num_prompts=len(np.unique(table.groups[rows])),
        num_tokens=int(table.lengths[rows].sum(dtype=np.int64)),
        class_shares=dict(zip(CLASSES, shares.tolist(), strict=True)),
    )


def count_shared_prompts(train_table: TokenTable, train_rows: Rows, valid_table: TokenTable, valid_rows: Rows) -> int:
    return len(np.intersect1d(train_table.groups[train_rows], valid_table.groups[valid_rows]))


def join_set_aside(train_table: TokenTable, valid_table: TokenTable) -> list[dict[str, Any]]:
    own_valid = valid_table.set_aside if valid_table is not train_table else []
    return [*train_table.set_aside, *own_valid]


def join_audits(train_table: TokenTable, valid_table: TokenTable) -> dict[str, Any]:
    own_valid = {"valid": valid_table.truncation} if valid_table is not train_table else {}
    return {"train": train_table.truncation, **own_valid}


def write_audit(run_dir: RunDir, prepared: Prepared) -> None:
    """Write rows_set_aside.jsonl and truncation.json into the run folder."""
    write_json_lines(run_dir.rows_set_aside, prepared.set_aside)
    write_json(run_dir.truncation, prepared.truncation)


def write_json_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
