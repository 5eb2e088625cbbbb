"""What is compared, and how far apart it may be."""

from dataclasses import dataclass
from itertools import product

STEPS = 20


@dataclass(frozen=True)
class Bound:
    """Largest difference of a step's loss and of a parameter after 20 steps; relative one of a gradient norm."""

    loss: float
    parameter: float
    norm: float


# fp32 and fp64: the design's. The 16 bits: about four times what was measured (docs/parity.md); there DeepSpeed's
# engines round in other places than autocast does. AdamW hides a constant factor on the gradient; its norm does not.
BOUNDS = {
    "fp32": Bound(1e-5, 1e-6, 1e-4),
    "fp64": Bound(1e-12, 1e-12, 1e-12),
    "bf16": Bound(1e-4, 1e-4, 0.05),
    "fp16": Bound(1e-4, 1e-4, 0.005),
}


@dataclass(frozen=True)
class Kind:
    """One setting of a run. cut: a step in micro-batches (accumulation), whose number changes and suits no ranks."""

    precision: str
    cut: bool
    clipped: bool

    @property
    def name(self) -> str:
        parts = (self.precision, "cut" if self.cut else "whole", "clipped" if self.clipped else "unclipped")
        return ", ".join(parts)

    @property
    def overrides(self) -> list[str]:
        """As --set takes them. 13 rows have some 800 tokens; their gradient's norm is about 1."""
        wide = self.precision == "fp64"
        return [
            f"train.precision={'fp32' if wide else self.precision}",
            f"model.weight_dtype={'fp64' if wide else 'fp32'}",
            f"train.token_budget={250 if self.cut else 4000}",
            f"train.clip_norm={0.1 if self.clipped else 'null'}",
        ]


KINDS = [Kind(*values) for values in product(BOUNDS, (True, False), (True, False))]


def kinds_of(backend: str, kinds: list[Kind]) -> list[Kind]:
    """Leave out what a back-end refuses at start: DeepSpeed has no fp64."""
    return [kind for kind in kinds if kind.precision != "fp64" or not backend.startswith("zero")]


def fp16_runs() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
