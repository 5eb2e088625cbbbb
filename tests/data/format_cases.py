"""The files in formats/, written by hand after public schemas, and what tests read from them."""

import json
from pathlib import Path
from typing import Any

from pref_dist.data.ingest import SourceRequest
from pref_dist.data.layouts import Format
from pref_dist.data.rows import Row
from pref_dist.data.validate import CheckedRows, read_checked_rows

HERE = Path(__file__).parent / "formats"
A, B, TIE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
FILES: dict[str, Format] = {
    "lmsys.csv": "lmsys", "plain.csv": "plain", "wsdm.csv": "plain", "arena_100k.jsonl": "arena",
    "arena_140k.jsonl": "arena", "hh_rlhf.jsonl": "pairs", "ultrafeedback.jsonl": "pairs", "trl_pairs.jsonl": "pairs",
    "soft_beside.csv": "plain", "soft_alone.csv": "plain",
}  # fmt: skip


def read(name: str | Path, **options: Any) -> CheckedRows:
    return read_checked_rows(SourceRequest(HERE / name, **options), "fail")


def contents(row: Row) -> tuple[Any, ...]:
    return row.id, row.turns, row.target, row.soft_target, row.models


def write_json_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path
