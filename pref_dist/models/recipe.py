"""`pref_dist.json`: what weights need to be used as in their run: the model's parts, how rows become tokens, and how
they are predicted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pref_dist import __version__
from pref_dist.config.load import build_config
from pref_dist.config.model_section import Head, ModelKind, ModelSection, Pooling
from pref_dist.config.schema import RunConfig
from pref_dist.data.prepare import prediction_policies
from pref_dist.errors import CheckpointError, ConfigError, ModelError
from pref_dist.files import read_json
from pref_dist.labels import CLASSES

RECIPE = "pref_dist.json"
FORMAT_VERSION = 2

# Where weights come from and how they were trained; the exported ones are whole.
NOT_OF_THE_MODEL = {"name", "from_scratch", "new_head", "lora", "embeddings"}
# How a row becomes tokens.
OF_TOKENS = {"format", "template", "clean", "max_tokens", "truncation"}
# How logits become a prediction.
OF_PREDICTION = {"swap", "swap_share", "calibrate", "token_budget"}


class Parts(NamedTuple):
    """What decides which weights a model's head has."""

    kind: ModelKind
    pooling: Pooling
    head: Head
    has_surface: bool

    @staticmethod
    def of(settings: ModelSection) -> "Parts":
        return Parts(settings.kind, settings.pooling, settings.head, settings.surface_features)

    def __str__(self) -> str:
        surface = ", surface_features" if self.has_surface else ""
        return f"kind {self.kind}, pooling {self.pooling}, head {self.head}{surface}"


class Recipe(NamedTuple):
    """config: model.name is the folder itself. class_shares: (A, B, tie) among the rows of training; None: of an
    export from before they were kept (format 1), which says nothing of the orders of A and B either.
    """

    config: RunConfig
    step: int
    class_shares: tuple[float, float, float] | None


def is_export(folder: Path) -> bool:
    return (folder / RECIPE).is_file()


def describe_recipe(config: RunConfig, step: int, class_shares: Sequence[float]) -> dict[str, Any]:
    """Return the content of `pref_dist.json` for the weights of a run's step; no path in it."""
    return {
        "format_version": FORMAT_VERSION,
        "pref_dist": __version__,
        "step": step,
        "classes": list(CLASSES),
        "class_shares": list(class_shares),
        "precision": config.train.precision,
        "model": config.model.model_dump(exclude=NOT_OF_THE_MODEL),
        "data": config.data.model_dump(include=OF_TOKENS) | prediction_policies(config.data),
        "evaluate": config.evaluate.model_dump(include=OF_PREDICTION),
    }


def read_recipe(folder: Path) -> Recipe | None:
    """Return what an exported folder goes with, or None if it is none.

    Raises ModelError if `pref_dist.json` is damaged, or of another version.
    """
    path = folder / RECIPE
    if not path.is_file():
        return None
    try:
        values = read_json(path)
        version, writer = values["format_version"], values["pref_dist"]
    except (CheckpointError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}). Export the run again.") from error
    if version not in (1, FORMAT_VERSION) or values.get("classes") != list(CLASSES):
        raise ModelError(
            f"{path} has format {version}, written by pref_dist {writer}; this is {__version__}, which reads format "
            f"{FORMAT_VERSION}. Install that version, or export the run again with this one."
        )
    try:
        sections = {
            "model": {**values["model"], "name": str(folder)},
            "data": values["data"],
            "train": {"precision": values["precision"]},
            "evaluate": values["evaluate"] if version > 1 else {},
        }
        shares = None
        if version > 1:
            share_a, share_b, share_tie = map(float, values["class_shares"])
            shares = (share_a, share_b, share_tie)
        return Recipe(build_config(sections, where=str(path)), int(values["step"]), shares)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}). Export the run again.") from error
    except ConfigError as error:
        raise ModelError(f"{error}\nIt was written by pref_dist {writer}, and this is {__version__}.") from error
