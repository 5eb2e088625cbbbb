"""Per-row logits on disk: row_id, logit_a, logit_b, logit_tie, target (three class probabilities)."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pref_dist.files import write_bytes

LOGIT_COLUMNS = ("logit_a", "logit_b", "logit_tie")


def write_logits(path: Path, row_ids: Any, logits: NDArray[np.floating], target: NDArray[np.float64] | None) -> None:
    """Write logits (n, 3) as they are (no rounding) and targets (n, 3), or nulls where there are no labels."""
    write_bytes(path, render_logits(row_ids, logits, target))


def render_logits(row_ids: Any, logits: NDArray[np.floating], target: NDArray[np.float64] | None) -> bytes:
    """Return the content of such a file."""
    columns = {"row_id": pa.array(list(row_ids), pa.string()) if isinstance(row_ids, list) else row_ids}
    columns |= {name: pa.array(logits[:, place]) for place, name in enumerate(LOGIT_COLUMNS)}
    columns["target"] = pa.array([None] * len(logits) if target is None else list(target), pa.list_(pa.float64(), 3))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def read_logits(path: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64] | None]:
    """Return (row ids, logits (n, 3), targets (n, 3) or None)."""
    table = pq.read_table(path)
    logits = np.stack([table[name].to_numpy() for name in LOGIT_COLUMNS], axis=1).astype(np.float64)
    targets = table["target"].combine_chunks()
    values = None if targets.null_count else np.stack(targets.to_pylist()).astype(np.float64)
    return table["row_id"].to_pylist(), logits, values
