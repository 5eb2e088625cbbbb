"""The verb `export`: a run's weights as a folder that stands by itself."""

import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pref_dist.config.schema import RunConfig
from pref_dist.data.encode import load_tokenizer
from pref_dist.errors import ConfigError, ParallelError
from pref_dist.evaluate.open_model import choose_checkpoint, restore_model
from pref_dist.evaluate.restore import read_run_config
from pref_dist.files import StrPath, sync, write_json, write_text
from pref_dist.model_card import render_card
from pref_dist.models.build import count_parameters
from pref_dist.models.lora import merge_adapters
from pref_dist.models.recipe import RECIPE, describe_recipe
from pref_dist.models.weights import uses_own_head
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import Checkpoint
from pref_dist.runtime.parallel import stand_alone
from pref_dist.runtime.topology import find_topology

# How the families name the files of a tokenizer.
TOKENIZER_FILES = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja",
    "chat_template*",
)  # fmt: skip

LARGEST_FILE_BYTES = 5 * 10**9


@dataclass(frozen=True)
class ExportResult:
    """loads_with: what opens the folder, transformers' AutoModelForSequenceClassification or pref_dist.load alone."""

    out: Path
    step: int
    num_parameters: int
    loads_with: str
    files: list[str]

    def as_values(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out)}


def export(run_folder: StrPath, out: StrPath, checkpoint: str | None = None) -> ExportResult:
    """Write a run's weights, tokenizer, settings and model card into the folder `out`; one process.

    checkpoint: best, last or a step; None: the best one of a finished run. `out` is whole or not there. Raises
    ConfigError if it holds files already, CheckpointError if the checkpoint is not there or damaged.
    """
    out = Path(out)
    check_alone()
    check_empty(out)
    run_dir = RunDir(Path(run_folder))
    config = read_run_config(run_dir, ())
    found = choose_checkpoint(run_dir, checkpoint)
    module, tokenizer = restore_model(config, run_dir, found, stand_alone())
    merge(config, module)
    temporary = out.parent / f"{out.name}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        temporary.mkdir(parents=True)
        write_folder(temporary, config, run_dir, found, module)
        assert load_tokenizer(temporary).digest == tokenizer.digest, "a file of the tokenizer was not copied"
        sync(temporary)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files = sorted(path.name for path in out.iterdir())
    return ExportResult(out, found.step, count_parameters(module), name_loader(config), files)


def check_alone() -> None:
    """Raise ParallelError among several ranks, which would all write the same folder."""
    world_size = find_topology(os.environ).world_size
    if world_size > 1:
        raise ParallelError(
            f"export runs in one process, and this is one of {world_size}. Start it by `bash launch/single.sh export`."
        )


def check_empty(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file. Name a new folder for the export.")
    found = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if found:
        raise ConfigError(
            f"{out} is not empty ({len(found)} files in it, first: {found[0]}). Name a new folder, or remove this one."
        )


def merge(config: RunConfig, module: nn.Module) -> None:
    """Add adapters to the weights beside which they were trained, so that the folder needs nothing else."""
    if config.model.lora is not None:
        merge_adapters(module)


def write_folder(folder: Path, config: RunConfig, run_dir: RunDir, found: Checkpoint, module: nn.Module) -> None:
    write_weights(folder, module)
    for pattern in TOKENIZER_FILES:
        for source in run_dir.model_files.glob(pattern):
            shutil.copyfile(source, folder / source.name)
    # What the run has learnt from, for runs that start from here; and the temperature of its predictions.
    for source in (run_dir.trained_rows, run_dir.calibration):
        if source.is_file():
            shutil.copyfile(source, folder / source.name)
    write_json(folder / RECIPE, describe_recipe(config, found.step, found.progress["class_shares"]))
    card = folder / "README.md"
    write_text(card, render_card(config, run_dir, found, count_parameters(module), name_loader(config)))
    for path in folder.iterdir():
        path.chmod(card.stat().st_mode)  # safetensors lets nobody else read what it writes


def write_weights(folder: Path, module: nn.Module, max_bytes: int = LARGEST_FILE_BYTES) -> None:
    """Write config.json and model.safetensors (several files where it is large); names are transformers' own.

    A head of ours lies beside the encoder under its own names. Then the config is the encoder's: no class of
    transformers takes the head for its own. Not by `save_pretrained`, which would import DeepSpeed.
    """
    from huggingface_hub import save_torch_state_dict
    from transformers import PreTrainedModel

    is_theirs = isinstance(module, PreTrainedModel)
    described: Any = module if is_theirs else module.get_submodule(str(module.base_model_prefix))
    config = described.config
    config.architectures = [type(described).__name__]
    config.dtype = next(module.parameters()).dtype
    config.save_pretrained(folder)
    save_torch_state_dict(module.state_dict(), folder, max_shard_size=max_bytes)


def name_loader(config: RunConfig) -> str:
    return "pref_dist.load" if uses_own_head(config.model) else "transformers.AutoModelForSequenceClassification"
