"""How a kind of model wants its rows: one sequence or two, segments or not, swapped or not."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pref_dist.config.model_section import ModelKind
from pref_dist.config.schema import RunConfig
from pref_dist.data.encode import TokenizerSpec
from pref_dist.data.orders import SwapFrame, build_swap_frame, check_swap
from pref_dist.data.plan import Lengths
from pref_dist.data.templates import NUM_SEQUENCES, num_sequences
from pref_dist.errors import ConfigError

NUM_SEQUENCES_READ: dict[ModelKind, int] = {"joint": 1, "siamese": 2, "decoder": 1}
COUNTED = {1: "one sequence", 2: "two sequences"}


class TokenRows(Protocol):
    """What batches need of a token table (`data/cache.py`)."""

    @property
    def training_targets(self) -> NDArray[np.float64]: ...

    @property
    def weights(self) -> NDArray[np.float64]: ...

    @property
    def row_numbers(self) -> NDArray[np.int64]: ...

    @property
    def lengths(self) -> NDArray[np.int32]: ...

    @property
    def segment_ends(self) -> NDArray[np.int32]: ...

    @property
    def surface(self) -> NDArray[np.float32]: ...

    def input_ids(self, row: int) -> NDArray[np.int32]: ...


@dataclass(frozen=True)
class BatchLayout:
    """How a model wants its rows.

    has_segments: whether it reads where the segments end. num_sequences: 2 where each response has a sequence of its
    own. has_surface: whether it reads the surface of the texts. swap: how rows of one sequence are
    swapped; None: they never are.
    """

    pad_id: int
    has_segments: bool = False
    num_sequences: int = 1
    has_surface: bool = False
    swap: SwapFrame | None = None

    def padded_lengths(self, table: TokenRows) -> Lengths:
        """(N,) tokens that each row takes up in a batch where it is the longest."""
        if self.num_sequences == 1:
            return table.lengths
        ends = table.segment_ends
        first = ends[:, ends.shape[1] // 2 - 1]
        longer: Lengths = np.maximum(first, table.lengths - first)
        return 2 * longer


def build_layout(config: RunConfig, tokenizer: TokenizerSpec) -> BatchLayout:
    """Return how the run's model wants its rows."""
    return BatchLayout(
        tokenizer.pad_id,
        has_segments=config.model.pooling == "segments",
        num_sequences=NUM_SEQUENCES_READ[config.model.kind],
        has_surface=config.model.surface_features,
        swap=build_swap_frame(tokenizer, config.data),
    )


def check_template(config: RunConfig) -> None:
    """Raise ConfigError if the template writes what the model cannot read, or rows that cannot be swapped as asked."""
    kind, template = config.model.kind, config.data.template
    read, written = NUM_SEQUENCES_READ[kind], num_sequences(template)
    if read != written:
        fitting = " or ".join(name for name, count in NUM_SEQUENCES.items() if count == read)
        raise ConfigError(
            f"data.template={template} writes {COUNTED[written]} a row, and model.kind={kind} reads {COUNTED[read]}. "
            f"Use data.template={fitting} (prepare and inspect take {template} too), or another model.kind."
        )
    check_swap(config.data, "train.swap", config.train.swap)
    check_swap(config.data, "evaluate.swap", config.evaluate.swap)
