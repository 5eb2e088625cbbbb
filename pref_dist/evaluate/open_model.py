"""Opens trained weights: a run's checkpoint, or an exported folder."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from pref_dist.config.model_section import ModelSection
from pref_dist.config.schema import RunConfig
from pref_dist.data.cache_entry import digest_json
from pref_dist.data.encode import TokenizerSpec, load_tokenizer
from pref_dist.errors import CheckpointError, ModelError
from pref_dist.files import read_json
from pref_dist.models.build import build_model
from pref_dist.models.lora import check_base
from pref_dist.models.recipe import is_export, read_recipe
from pref_dist.models.source import digest_base, find_model_folder
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import Checkpoint, folder_of_step, list_steps, open_checkpoint, read_weights
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.precision import resolve_precision


class OpenedModel(NamedTuple):
    """module: on the host. home: the folder with the tokenizer. weights: names them, whichever
    folder they lie in; None of an export, whose files would have to be read for it.

    class_shares: (A, B, tie) among the training rows; None: of an old export. identity: of the rows of training and
    validation (train.resume.Identity); empty for an export.
    """

    module: nn.Module
    tokenizer: TokenizerSpec
    step: int
    weights: str | None
    class_shares: tuple[float, float, float] | None
    identity: dict[str, Any]
    home: Path


def open_model(config: RunConfig, run_dir: RunDir, checkpoint: str | None, parallel: Parallel) -> OpenedModel:
    """Return the model of a run's `checkpoint` (best, last or a step; None: best of a finished run) or of an export.

    Raises CheckpointError if the run is unfinished and no checkpoint was named, or the one named is unusable;
    ModelError if the exported folder is damaged, or a checkpoint of it is named that it does not hold.
    """
    if is_export(run_dir.root):
        return open_export(config, run_dir.root, checkpoint)
    found = parallel.broadcast(choose_checkpoint(run_dir, checkpoint) if parallel.is_main else None)
    assert found is not None
    module, tokenizer = restore_model(config, run_dir, found, parallel)
    shares, identity = tuple(found.progress["class_shares"]), found.progress["identity"]
    return OpenedModel(
        module, tokenizer, found.step, digest_json(found.manifest), shares, identity, run_dir.model_files
    )


def open_export(config: RunConfig, folder: Path, checkpoint: str | None) -> OpenedModel:
    recipe = read_recipe(folder)
    assert recipe is not None
    if checkpoint not in (None, str(recipe.step)):
        raise ModelError(
            f"{folder} is an exported model, which holds step {recipe.step} alone; checkpoint={checkpoint} is for runs."
        )
    tokenizer = load_tokenizer(folder)
    built = build_model(config.model, folder, config.data.max_tokens, tokenizer.vocab_size, seed=0)
    if built.new_names:
        raise ModelError(
            f"The weights in {folder} lack {len(built.new_names)} parameters (first: {built.new_names[0]}). Copy the "
            "folder again, or export the run again."
        )
    return OpenedModel(built.module, tokenizer, recipe.step, None, recipe.class_shares, {}, folder)


def restore_model(
    config: RunConfig, run_dir: RunDir, found: Checkpoint, parallel: Parallel
) -> tuple[nn.Module, TokenizerSpec]:
    """Return the model with a checkpoint's weights, on the host, and its tokenizer. Raises CheckpointError."""
    tokenizer = load_tokenizer(run_dir.model_files)
    if tokenizer.digest != found.progress["identity"]["tokenizer"]:
        raise CheckpointError(
            f"The tokenizer in {run_dir.model_files} is not the one that {found.folder} was trained with."
        )
    precision = resolve_precision(config.train.precision, parallel.device)
    check_base(config.model.lora, precision, parallel.backend, parallel.device)
    settings, folder = choose_weights(config, run_dir, found)
    built = build_model(settings, folder, config.data.max_tokens, tokenizer.vocab_size, config.run.seed)
    read_weights(found, built.module)
    return built.module, tokenizer


def choose_weights(config: RunConfig, run_dir: RunDir, checkpoint: Checkpoint) -> tuple[ModelSection, Path]:
    """Return what to build, and from which folder, before the checkpoint's weights are read into it.

    A checkpoint of adapters, or without the table of embeddings, needs the weights that its own were trained beside.
    Raises CheckpointError if those are gone or others.
    """
    if not config.model.has_frozen_weights:
        # All weights come from the checkpoint, so that the model's own weight files are not needed any more.
        # Nobody trains it by rows here.
        changes = {"from_scratch": True, "embeddings": "trained"}
        return config.model.model_copy(update=changes), run_dir.model_files
    kept = "adapters alone (model.lora)"
    if config.model.lora is None:
        kept = "no table of embeddings (model.embeddings=frozen)"
    try:
        folder = find_model_folder(config.model.name)
        digest = digest_base(folder)
    except ModelError as error:
        raise CheckpointError(
            f"{checkpoint.folder} holds {kept}, and the weights beside which they were trained "
            f"are gone. Give model.name={config.model.name} back. {error}"
        ) from error
    if digest != checkpoint.progress["identity"]["base"]:
        raise CheckpointError(
            f"{checkpoint.folder} holds {kept}, trained beside other weights than those of "
            f"model.name={config.model.name} now ({folder}). Give the former files back."
        )
    return config.model, folder


def choose_checkpoint(run_dir: RunDir, name: str | None) -> Checkpoint:
    state: dict[str, Any] = run_dir.read_state()
    if name is None and state.get("state") != "finished":
        raise CheckpointError(
            f"{run_dir.root} has not finished (state: {state.get('state', 'none')}, step {state.get('step', 0)}). "
            "Finish it by starting `train` again, or name --checkpoint best, last or a step."
        )
    if name in (None, "best"):
        if not run_dir.best.exists():
            raise CheckpointError(
                f"{run_dir.root} was not evaluated yet, so there is no best step. Use --checkpoint last."
            )
        return open_checkpoint(folder_of_step(run_dir.checkpoints, int(read_json(run_dir.best)["step"])))
    steps = list_steps(run_dir.checkpoints)
    if name == "last" and not steps:
        raise CheckpointError(f"{run_dir.checkpoints} holds no checkpoint.")
    if name != "last" and not str(name).isdigit():
        raise CheckpointError(f"--checkpoint takes best, last or a step, not '{name}'. Steps that are there: {steps}.")
    return open_checkpoint(folder_of_step(run_dir.checkpoints, steps[-1] if name == "last" else int(str(name))))
