"""What a run starts from: a model's weights, or those of another run, which was its first stage."""

from pathlib import Path

from pref_dist.config.load import build_config, read_config_file
from pref_dist.config.schema import RunConfig
from pref_dist.errors import CheckpointError, ConfigError, ModelError
from pref_dist.files import read_json
from pref_dist.models.build import BuiltModel, build_model
from pref_dist.models.recipe import Parts
from pref_dist.models.source import find_first_stage, find_model_folder
from pref_dist.models.starting_weights import StartingWeights
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import Checkpoint, folder_of_step, open_checkpoint, read_values
from pref_dist.runtime.parallel import Parallel


def find_start_folder(config: RunConfig, copies: Path | None) -> Path:
    """Return the folder with the config and the tokenizer that the run starts with.

    `copies`: the folder where a run that goes on has its own, which serve where model.name is gone.
    Raises ModelError if there is none, ConfigError if the run would start from itself or from adapters.
    """
    run_dir = find_first_stage(config.model.name)
    if run_dir is not None:
        check_first_stage(run_dir, config)
    try:
        return find_model_folder(config.model.name)
    except ModelError:
        if copies is None or config.model.has_frozen_weights or not (copies / "config.json").is_file():
            raise
        return copies


def check_first_stage(run_dir: RunDir, config: RunConfig) -> None:
    """Raise ConfigError if the weights of the run cannot be started from."""
    name = config.model.name
    if run_dir.root.resolve() == Path(config.run.dir).resolve():
        raise ConfigError(f"model.name={name} is the run's own folder. Choose another run.dir for the second stage.")
    for model in (config.model, read_stage_config(run_dir).model):
        if not model.has_frozen_weights:
            continue
        asked = "model.lora" if model.lora is not None else f"model.embeddings={model.embeddings}"
        raise ConfigError(
            f"model.name={name} is a run folder, and {asked} takes weights that lie in a folder by themselves. "
            f"Export it first (pref-dist export {name} OUT) and set model.name=OUT."
        )


def build_start(
    config: RunConfig, folder: Path, vocab_size: int, checkpoint: Checkpoint | None, parallel: Parallel
) -> BuiltModel:
    """Build the model with the weights that the run starts from; collective where those are another run's.

    A run that goes on has all its weights in `checkpoint`, so that it does not need the files of its start.
    """
    settings, start = config.model, None
    holds_weights = any(folder.glob("*.safetensors"))
    if checkpoint is not None and not holds_weights:
        settings = settings.model_copy(update={"from_scratch": True})
    run_dir = find_first_stage(settings.name)
    if run_dir is not None and not settings.from_scratch:
        start = read_first_stage(run_dir, parallel)
    return build_model(settings, folder, config.data.max_tokens, vocab_size, config.run.seed, start)


def read_first_stage(run_dir: RunDir, parallel: Parallel) -> StartingWeights:
    """Return the weights of a run's best checkpoint; collective.

    Raises CheckpointError on every rank if there is none, or it is damaged.
    """
    found, problem = parallel.broadcast(open_best(run_dir) if parallel.is_main else (None, ""))
    if found is None:
        raise CheckpointError(f"model.name={run_dir.root}: {problem}")
    parts = Parts.of(read_stage_config(run_dir).model)
    return StartingWeights(read_values(found), parts, f"{run_dir.root}, step {found.step}")


def open_best(run_dir: RunDir) -> tuple[Checkpoint | None, str]:
    """Return the best checkpoint, or None and what is wrong with it."""
    try:
        return open_checkpoint(folder_of_step(run_dir.checkpoints, int(read_json(run_dir.best)["step"]))), ""
    except CheckpointError as error:
        return None, str(error)


def read_stage_config(run_dir: RunDir) -> RunConfig:
    return build_config(read_config_file(run_dir.config), where=str(run_dir.config))
