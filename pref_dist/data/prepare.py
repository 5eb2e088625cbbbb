"""Everything between the config and the first batch: the sources as tokens, split and accounted for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pref_dist.config.schema import DataSection, RunConfig, SourceSection
from pref_dist.data.cache import default_cache_dir, open_tokens
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.cross_checks import CrossFindings, check_rows_together
from pref_dist.data.encode import TokenizerSpec, load_tokenizer
from pref_dist.data.folds import Rows
from pref_dist.data.pseudo_labels import PseudoSource, Side, are_pseudo, check_teachers, find_pseudo_sources
from pref_dist.data.splits import ShareDeviation, SplitRequest, list_share_deviations, split_rows
from pref_dist.data.table import JoinedTable, TokenTable
from pref_dist.errors import DataError
from pref_dist.files import write_json, write_text
from pref_dist.findings import REPAIRABLE, Policies
from pref_dist.labels import CLASSES, WINNER_COLUMNS
from pref_dist.models.source import find_model_folder
from pref_dist.run_dir import RunDir


@dataclass(frozen=True)
class SideSummary:
    """What stands on one side of the split."""

    num_rows: int
    num_prompts: int  # different ones, up to case, white space and punctuation
    num_tokens: int  # after truncation, special tokens included
    class_shares: dict[str, float]  # of A, B, tie


@dataclass(frozen=True)
class Finding:
    """Rows of one source (or, for what shows only among many rows, of all training sources) with one kind of finding.

    first: {file, row} of the first ones. policy: what was done with them.
    """

    source: str
    kind: str
    num_rows: int
    policy: str
    first: list[dict[str, Any]]


@dataclass(frozen=True)
class Prepared:
    """The rows of a run. `train_rows` and `valid_rows` are positions in their tables, in rising order.

    Without `data.valid` both tables are the same one. `num_shared_prompts` counts the prompts that
    stand on both sides, which a `data.valid` of its own and the split `random_stratified` can have.
    `deviations` are the classes whose share of the held-out rows is off by more than chance explains.
    """

    tokenizer: TokenizerSpec
    train_table: TokenTable
    train_rows: Rows
    valid_table: TokenTable
    valid_rows: Rows
    train: SideSummary
    valid: SideSummary
    num_shared_prompts: int
    findings: list["Finding"]  # all kinds that were found in any source, kept rows included
    set_aside: list[dict[str, Any]]  # {file, row, id, kind, detail}, of all sources
    truncation: dict[str, Any]  # audit of each source: "train" and, where it is a source of its own, "valid"
    pseudo_sources: list[PseudoSource]
    not_scored: Rows  # with pseudo-labels, under prompts that are held out: neither trained on nor scored
    deviations: list[ShareDeviation] = field(default_factory=list)
    test_table: TokenTable | None = None  # data.test, read to find training rows that stand there

    @property
    def tables(self) -> list[TokenTable]:
        """The one or two tables behind this."""
        return [self.train_table, *([self.valid_table] if self.valid_table is not self.train_table else [])]

    @property
    def parts(self) -> list[TokenTable]:
        """The cache entries behind this, one a source."""
        return [part for table in self.tables for _, part in table.parts]

    @property
    def warnings(self) -> list[str]:
        """What somebody should look at before training, a sentence each."""
        shared = [f"{self.num_shared_prompts:,} prompts stand among the training and the held-out rows"]
        left_out = f"{len(self.not_scored):,} rows with pseudo-labels are left out, since their prompts are held out"
        return [
            *(shared if self.num_shared_prompts else []),
            *([left_out] if len(self.not_scored) else []),
            *(
                f"{CLASSES[found.label]} is {found.share:.3f} of the held-out rows and {found.whole_share:.3f} of all "
                f"({found.z:+.1f} standard errors); another run.seed or data.split=grouped_stratified evens it out"
                for found in self.deviations
            ),
        ]


def prepare(config: RunConfig, tokenizer_path: Path | None = None, watch: BuildWatch | None = None) -> Prepared:
    """Open (or build) the tokens of all sources, check them together and split what must be split.

    tokenizer_path: a local folder, None: that of model.name; `watch` hears of a build. The run folder is not touched.
    Raises DataError and ModelError.
    """
    tokenizer = load_tokenizer(tokenizer_path or find_model_folder(config.model.name))
    train_table = open_training_sources(config, tokenizer, watch)
    policies = Policies(config.data.bad_rows, config.data.checks)
    test_table = open_test(config, tokenizer, watch) if config.data.test is not None else None
    cross = check_rows_together(train_table, test_table, policies)
    if config.data.valid is None:
        valid_table = train_table
        train_rows, valid_rows = hold_out(config, train_table, cross.kept)
    else:
        source = SourceSection(path=config.data.valid)
        valid_table = open_labelled(config, "data.valid", source, tokenizer, watch)
        train_rows, valid_rows = cross.kept, np.arange(len(valid_table))
    is_split = valid_table is train_table
    pseudo = find_pseudo_sources(train_table)
    not_scored = valid_rows[are_pseudo(pseudo, valid_rows)] if is_split else valid_rows[:0]
    valid_rows = np.setdiff1d(valid_rows, not_scored, assume_unique=True)
    check_any_scored(valid_rows, not_scored)
    check_teachers(pseudo, Side(train_table, train_rows), Side(valid_table, valid_rows))
    judged = cross.kept[~are_pseudo(pseudo, cross.kept)]  # teachers have other class shares than people
    tables = [train_table] if is_split else [train_table, valid_table]
    return Prepared(
        tokenizer=tokenizer,
        train_table=train_table,
        train_rows=train_rows,
        valid_table=valid_table,
        valid_rows=valid_rows,
        train=summarise(train_table, train_rows),
        valid=summarise(valid_table, valid_rows),
        num_shared_prompts=count_shared_prompts(train_table, train_rows, valid_table, valid_rows),
        findings=list_findings(config, tables, test_table, cross),
        set_aside=[*train_table.set_aside, *cross.set_aside, *([] if is_split else valid_table.set_aside)],
        truncation=join_audits(train_table, valid_table),
        pseudo_sources=pseudo,
        not_scored=not_scored,
        deviations=find_deviations(config, train_table, judged, valid_rows) if is_split else [],
        test_table=test_table,
    )


def check_any_scored(valid_rows: Rows, not_scored: Rows) -> None:
    if len(not_scored) and not len(valid_rows):
        raise DataError(
            f"All {len(not_scored):,} held-out rows have pseudo-labels, on which nothing is scored. Name other "
            "labelled rows in data.sources, too, or in data.valid."
        )


def open_test(config: RunConfig, tokenizer: TokenizerSpec, watch: BuildWatch | None) -> TokenTable:
    """Return data.test as `predict` will read it: without labels, and no row of it is a reason to refuse training."""
    assert config.data.test is not None
    data = config.data.model_copy(update=prediction_policies(config.data))
    return open_table(config.model_copy(update={"data": data}), config.data.test, tokenizer, watch, with_labels=False)


def prediction_policies(data: DataSection) -> dict[str, Any]:
    """Return bad_rows and checks for rows that are predicted: none fails, and what is merely odd is predicted."""
    checks = {kind: policy for kind, policy in data.checks.items() if kind in REPAIRABLE and policy == "keep"}
    return {"bad_rows": "set_aside" if data.bad_rows == "fail" else data.bad_rows, "checks": checks}


def open_training_sources(config: RunConfig, tokenizer: TokenizerSpec, watch: BuildWatch | None) -> TokenTable:
    sources = config.data.training_sources
    setting = "data.train" if config.data.sources is None else "data.sources"
    tables = [open_labelled(config, setting, source, tokenizer, watch) for source in sources]
    weights = [source.weight for source in sources]
    return tables[0] if len(tables) == 1 and weights == [1.0] else JoinedTable(tables, weights)


def open_labelled(
    config: RunConfig, setting: str, source: SourceSection, tokenizer: TokenizerSpec, watch: BuildWatch | None
) -> TokenTable:
    table = open_table(config, source.path, tokenizer, watch, format=source.format)
    if not table.is_labelled:
        meant = {name: known for name, known in table.manifest["unused_columns"].items() if known}
        hint = "".join(f"Was its column '{name}' meant to be '{known}'? " for name, known in meant.items())
        raise DataError(
            f"{setting}={source.path} has no labels, and training needs them. {hint}"
            f"Add the columns {', '.join(WINNER_COLUMNS)} (or winner, or prob_model_a, prob_model_b, prob_tie), "
            "or name a labelled file."
        )
    return table


def open_table(
    config: RunConfig,
    path: str,
    tokenizer: TokenizerSpec,
    watch: BuildWatch | None,
    format: str | None = None,
    with_labels: bool = True,
) -> TokenTable:
    return open_tokens(
        Path(path),
        config.data,
        tokenizer,
        default_cache_dir(config),
        format=format,
        order_seed=config.run.seed,
        with_labels=with_labels,
        watch=watch,
    )


def hold_out(config: RunConfig, table: TokenTable, kept: Rows) -> tuple[Rows, Rows]:
    """Return the positions of (train, valid) among the rows that the checks have left."""
    data = config.data
    request = SplitRequest(data.split, config.run.seed, data.valid_fraction, data.num_folds, data.fold)
    train, valid = split_rows(table.groups[kept], classes_of(table)[kept], request)
    return kept[train], kept[valid]


def classes_of(table: TokenTable) -> npt.NDArray[np.int64]:
    """(N,) likeliest class of each row."""
    classes: npt.NDArray[np.int64] = table.targets.argmax(axis=1)
    return classes


def find_deviations(config: RunConfig, table: TokenTable, kept: Rows, valid_rows: Rows) -> list[ShareDeviation]:
    is_grouped = config.data.split != "random_stratified"
    groups = table.groups[kept] if is_grouped else np.arange(len(kept), dtype=np.uint64)
    held_out = np.flatnonzero(np.isin(kept, valid_rows, assume_unique=True))
    return list_share_deviations(groups, classes_of(table)[kept], held_out)


def summarise(table: TokenTable, rows: Rows) -> SideSummary:
    shares = table.targets[rows].mean(axis=0)
    return SideSummary(
        num_rows=len(rows),
        num_prompts=len(distinct(table.groups[rows])),
        num_tokens=int(table.lengths[rows].sum(dtype=np.int64)),
        class_shares=dict(zip(CLASSES, shares.tolist(), strict=True)),
    )


def count_shared_prompts(train_table: TokenTable, train_rows: Rows, valid_table: TokenTable, valid_rows: Rows) -> int:
    train, valid = distinct(train_table.groups[train_rows]), distinct(valid_table.groups[valid_rows])
    return len(np.intersect1d(train, valid, assume_unique=True))


def distinct(groups: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the different values, sorted; np.unique takes forty times as long for millions of random words."""
    ordered = np.sort(groups)
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if len(ordered) else ordered


def list_findings(
    config: RunConfig, tables: Sequence[TokenTable], test_table: TokenTable | None, cross: CrossFindings
) -> list[Finding]:
    policies = Policies(config.data.bad_rows, config.data.checks)
    found = [
        Finding(str(part.source), kind, count, policies.of(kind), first)
        for table in tables
        for _, part in table.parts
        for kind, count, first in part.list_findings()
    ]
    if test_table is not None:
        predicting = Policies(**prediction_policies(config.data))
        found += [
            Finding(str(test_table.source), kind, count, predicting.of(kind), first)
            for kind, count, first in test_table.list_findings()
        ]
    return found + [
        Finding("training rows", kind, count, policies.of(kind), cross.first[kind])
        for kind, count in cross.counts.items()
        if count
    ]


def join_audits(train_table: TokenTable, valid_table: TokenTable) -> dict[str, Any]:
    parts = [part for _, part in train_table.parts]
    names = ["train"] if len(parts) == 1 else [f"train {number}: {part.source}" for number, part in enumerate(parts, 1)]
    audits = {name: part.truncation for name, part in zip(names, parts, strict=True)}
    return audits | ({"valid": valid_table.truncation} if valid_table is not train_table else {})


def digest_rows(rows: Rows) -> str:
    """Return the sha256 of which rows of a table are meant."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes()).hexdigest()


def write_audit(run_dir: RunDir, prepared: Prepared) -> None:
    """Write rows_set_aside.jsonl, findings.json and truncation.json into the run folder."""
    write_json(run_dir.findings, [asdict(finding) for finding in prepared.findings])
    write_json_lines(run_dir.rows_set_aside, prepared.set_aside)
    write_json(run_dir.truncation, prepared.truncation)


def write_json_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
