"""pref_dist: exact, durable, fast distributed fine-tuning of preference cross-encoders."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pref_dist.config.train_section import Precision
    from pref_dist.loaded_model import LoadedModel

__version__ = "0.1.0.dev0"


def load(
    folder: "str | os.PathLike[str]",
    *,
    device: str | None = None,
    precision: "Precision | None" = None,
    token_budget: int | None = None,
    checkpoint: str | None = None,
) -> "LoadedModel":
    """Open a trained model: a folder that `pref-dist export` has written, or a run folder.

        model = pref_dist.load("exported")
        model.predict([{"prompt": "2 + 2?", "response_a": "4", "response_b": "5"}])   # (1, 3): A, B, tie

    device: a torch device; None: the first GPU, else the CPU. precision: of the forward; None: the run's own.
    token_budget: most tokens of a batch, padding included; None: evaluate.token_budget. checkpoint, of a run
    folder: best, last or a step; None: the best one of a finished run. Nothing is fetched, no code of a folder is
    run, and weights are read from safetensors alone. Raises PrefDistError of the kind that fits.
    """
    from pathlib import Path

    from pref_dist.loaded_model import load_model

    return load_model(Path(folder), device, precision, token_budget, checkpoint)
