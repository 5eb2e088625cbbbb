"""Weights that a model starts from: those of a folder, or what another run has learnt."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pref_dist.config.model_section import ModelSection
from pref_dist.errors import ModelError
from pref_dist.files import leaves_folder, read_json
from pref_dist.labels import CLASSES
from pref_dist.models.recipe import Parts, read_recipe

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class StartingWeights:
    """All weights of a trained model.

    tensors: by parameter name; None: they lie in the model's folder. origin: as people say it.
    """

    tensors: Mapping[str, Tensor] | None
    parts: Parts
    origin: str

    def has_head_for(self, settings: ModelSection) -> bool:
        return self.parts == Parts.of(settings)

    def explain(self, settings: ModelSection) -> str:
        """Return a line that says what of these weights is taken."""
        if not self.has_head_for(settings):
            return f"the encoder of {self.origin} ({self.parts}) with a new head (now {Parts.of(settings)})"
        if settings.new_head:
            return f"the encoder of {self.origin} with a new head (model.new_head)"
        return f"all weights of {self.origin}, the head's too"


def read_export(folder: Path) -> StartingWeights | None:
    """Return what an exported folder holds, None if it is none. Raises ModelError if `pref_dist.json` is damaged."""
    recipe = read_recipe(folder)
    return None if recipe is None else StartingWeights(None, Parts.of(recipe.config.model), folder.name)


def read_tensors(folder: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Return what a folder's safetensors files hold (of `names`), in memory of its own. Raises ModelError."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for path in find_weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                # Copies: a mapped file that is replaced on a network disk would end the process.
                wanted = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118
                tensors |= {name: file.get_tensor(name).clone() for name in wanted}
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} is damaged ({error}). Copy or download the folder again.") from error
    return tensors


def find_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold a folder's weights.

    Raises ModelError if there are none, or one of several is missing.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        outside = [name for name in names if leaves_folder(name)]
        if outside:
            raise ModelError(
                f"{folder / INDEX} names weights outside its folder ({outside[0]!r}). Get the folder anew."
            )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of {len(names)} weight files (first: {missing[0]}). Copy or download "
                "the folder again."
            )
        return [folder / name for name in names]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as pickles alone ({pickles[0]}), which can run any code when they are loaded. "
            "Get model.safetensors (most hub models have a branch with it), or write it where you trust the file: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)."
        )
    raise ModelError(
        f"{folder} holds no weights (no model.safetensors). Name a complete model, or set model.from_scratch=true to "
        "train from random weights."
    )


def check_shapes(
    mismatched: Collection[Any], head_names: Collection[str], folder: Path, settings: ModelSection
) -> None:
    """Raise ModelError if weights in the files have another shape than the model's.

    mismatched: (name, shape in the file, shape in the model). Those of a head that is not used are left out before.
    """
    wrong = sorted((name, tuple(found), tuple(wanted)) for name, found, wanted in mismatched)
    if not wrong:
        return
    name, found, wanted = wrong[0]
    shapes = f"{name} has shape {found} there, and {wanted} here"
    if any(name not in head_names for name, *_ in wrong):
        raise ModelError(
            f"{folder}: {len(wrong)} weights do not fit its config.json ({shapes}). The folder's files do not belong "
            "together; copy or download it again."
        )
    labels = read_labels(folder)
    raise ModelError(
        f"model.name={settings.name} holds a head for {len(labels)} classes ({', '.join(labels)}), and this one needs "
        f"{len(CLASSES)}: {', '.join(CLASSES)} ({shapes}). Set model.new_head=true to keep the encoder and start the "
        "head at random, or name a folder whose head fits."
    )


def read_labels(folder: Path) -> list[str]:
    """Return the names of the classes that a folder's own config has."""
    from transformers import AutoConfig

    names: dict[int, str] = AutoConfig.from_pretrained(folder, trust_remote_code=False).id2label
    return [name for _, name in sorted(names.items())]


def explain_labels(folder: Path) -> tuple[str, ...]:
    """Return a warning if a head that fits was made for other classes; names such as LABEL_0 say nothing."""
    labels = read_labels(folder)
    if tuple(labels) == CLASSES or all(name.startswith("LABEL_") for name in labels):
        return ()
    return (
        f"WARNING: starting from a head whose classes were {', '.join(labels)}; they are {', '.join(CLASSES)} now. "
        "model.new_head=true starts the head at random",
    )
