"""What a measurement holds, and how several become medians, spreads and ratios."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One pipeline's work, as its process counted it.

    rows: gone through the model, each once. tokens: without padding; padded_tokens: with it. linear_flops: of all
    linear layers on real tokens (forward, and twice that for the backward in training). matmul_flops_per_second: what
    the same layers' shapes reach alone in the same process. peak_bytes: the process's largest resident memory;
    peak_cuda_bytes: the device's, None without one. data_seconds: spent making batches, None where that is not known.
    log_loss: of held-out rows after it, in nats; None if nobody asked.
    """

    rows: int
    steps: int
    tokens: int
    padded_tokens: int
    seconds: float
    linear_flops: float
    matmul_flops_per_second: float
    peak_bytes: int
    precision: str
    device: str
    threads: int
    peak_cuda_bytes: int | None = None
    data_seconds: float | None = None
    log_loss: float | None = None
    batch_widths: list[int] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def padding_share(self) -> float:
        return 1.0 - self.tokens / self.padded_tokens

    @property
    def linear_flops_per_second(self) -> float:
        return self.linear_flops / self.seconds

    @property
    def utilisation(self) -> float:
        return self.linear_flops_per_second / self.matmul_flops_per_second

    @property
    def data_share(self) -> float | None:
        return None if self.data_seconds is None else self.data_seconds / self.seconds


# What is derived and worth a column; the order of the table.
FIGURES = (
    "rows_per_second", "tokens_per_second", "padding_share", "linear_flops_per_second", "matmul_flops_per_second",
    "utilisation", "peak_bytes", "peak_cuda_bytes", "data_share", "seconds", "log_loss",
)  # fmt: skip


@dataclass
class Column:
    """One pipeline as it was asked for, with all its measurements.

    failure: why there are none, or no more; is_absent: what it needs is not installed, which is no error.
    """

    pipeline: str
    dropout: float | None
    rows_per_step: int
    measurements: list[Measurement] = field(default_factory=list)
    failure: str = ""
    is_absent: bool = False

    @property
    def name(self) -> str:
        return self.pipeline if self.dropout is None else f"{self.pipeline}, dropout {self.dropout:g}"

    @property
    def label(self) -> str:
        """Return the name with the rows a step, where that is asked for."""
        return self.name if self.dropout is None else f"{self.name}, {self.rows_per_step} rows a step"

    def values(self, figure: str) -> list[float]:
        found = (getattr(measurement, figure) for measurement in self.measurements)
        return [value for value in found if value is not None]

    def median(self, figure: str) -> float | None:
        values = self.values(figure)
        return median(values) if values else None

    def spread(self, figure: str) -> tuple[float, float] | None:
        """Return the lowest and the highest value."""
        values = self.values(figure)
        return (min(values), max(values)) if values else None

    def to_json(self) -> dict[str, Any]:
        first = self.measurements[0] if self.measurements else None
        about = {} if first is None else {
            "rows": first.rows, "steps": first.steps, "tokens": first.tokens, "precision": first.precision,
            "device": first.device, "threads": first.threads, "batch_widths": first.batch_widths,
        }  # fmt: skip
        figures = {
            name: None if self.median(name) is None else {"median": self.median(name), "spread": self.spread(name)}
            for name in FIGURES
        }
        known = {"pipeline": self.pipeline, "dropout": self.dropout, "rows_per_step": self.rows_per_step}
        state = {"failure": self.failure, "not_installed": self.is_absent, "repeats": len(self.measurements)}
        return known | about | state | figures


@dataclass(frozen=True)
class Ratio:
    """Our median of a figure over a peer's, of columns with equally many rows a step."""

    own: Column
    peer: Column
    figure: str = "rows_per_second"

    @property
    def value(self) -> float | None:
        own, peer = self.own.median(self.figure), self.peer.median(self.figure)
        return None if own is None or peer is None else own / peer

    def to_json(self) -> dict[str, Any]:
        return {
            "own": self.own.name, "peer": self.peer.name, "rows_per_step": self.own.rows_per_step,
            "figure": self.figure, "ratio": self.value,
        }  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """All columns and our ratios; about: what was measured, for the JSON."""

    columns: list[Column]
    ratios: list[Ratio]
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.about,
            "columns": [column.to_json() for column in self.columns],
            "ratios": [ratio.to_json() for ratio in self.ratios],
        }


def pair_columns(columns: Sequence[Column], equal_dropout: Sequence[str], own: Sequence[str] = ("own",)) -> list[Ratio]:
    """Return the columns in `own` over each peer's with equally many rows a step.

    Peers in `equal_dropout` run with the dropouts that we run with, and are compared at the same; the others have
    their own, which every one of ours is compared with.
    """
    ours = [column for column in columns if column.pipeline in own]
    peers = [column for column in columns if column.pipeline not in own and not column.is_absent]
    return [
        Ratio(mine, peer)
        for mine in ours
        for peer in peers
        if mine.rows_per_step == peer.rows_per_step
        and (peer.pipeline not in equal_dropout or peer.dropout == mine.dropout)
    ]
