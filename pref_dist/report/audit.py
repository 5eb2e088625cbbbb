"""What was found in the run's data: rows set aside, findings, truncation."""

from collections import Counter
from dataclasses import dataclass

from pref_dist.report.run_record import Record, RunRecord

TRUNCATION_LABELS = {  # key of truncation.json: label, whether it is a share
    "num_rows": ("rows", False),
    "max_tokens": ("data.max_tokens", False),
    "rows_cut": ("rows cut", False),
    "share_of_rows_cut": ("share of rows cut", True),
    "tokens_before": ("tokens before", False),
    "tokens_lost": ("tokens lost", False),
    "rows_without_response_b": ("rows that lost response B", False),
    "rows_without_response_b_under_right_truncation": ("would have lost it, cut at the right", False),
    "rows_without_a_response": ("rows that lost a whole response", False),
    "rows_without_a_response_under_right_truncation": ("would have lost one, cut at the right", False),
    "longest_row": ("longest row, tokens", False),
    "max_tokens_for_95_percent": ("max_tokens that holds 95 % of rows", False),
    "max_tokens_for_99_percent": ("max_tokens that holds 99 % of rows", False),
}


@dataclass(frozen=True)
class SetAside:
    """Rows of one kind. first: {file, row, id, kind, detail} of the first of them."""

    kind: str
    num_rows: int
    first: Record


def describe_held_out(record: RunRecord) -> str:
    """Return which part of the training files is held out: the rows that it came to, where starts.json has them."""
    data = record.config.data
    asked = f"data.valid_fraction={data.valid_fraction}"
    if data.num_folds is not None:
        asked = f"fold {data.fold} of {data.num_folds}"
    how = f"{asked}, data.split={data.split}"
    if not record.starts:
        return f"a part is held out ({how})"
    rows = record.starts[-1]["rows"]
    total = rows["train"] + rows["valid"]
    share = f"{100 * rows['valid'] / total:.1f} %" if total else "none"
    return f"{rows['valid']:,} of {total:,} rows ({share}) are held out ({how})"


def count_set_aside(set_aside: list[Record]) -> list[SetAside]:
    """Return the kinds of rows that were set aside, the most frequent first."""
    counts = Counter(str(row.get("kind")) for row in set_aside)
    first_of = {str(row.get("kind")): row for row in reversed(set_aside)}
    return [SetAside(kind, num_rows, first_of[kind]) for kind, num_rows in counts.most_common()]


def describe_truncation(audit: Record) -> list[tuple[str, float, bool]]:
    """Return (label, figure, whether it is a share) of every figure that the audit holds."""
    return [(label, audit[key], is_share) for key, (label, is_share) in TRUNCATION_LABELS.items() if key in audit]
