"""Opens a trained run for evaluation or prediction: its config, its weights, its tokenizer."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pref_dist import __version__
from pref_dist.config.load import apply_override, build_config, read_config_file, with_values
from pref_dist.config.model_section import ModelSection
from pref_dist.config.schema import RunConfig
from pref_dist.data.cache import default_cache_dir, open_tokens
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.cache_entry import digest_json
from pref_dist.data.encode import TokenizerSpec, load_tokenizer
from pref_dist.data.layout import BatchLayout, build_layout
from pref_dist.data.orders import check_swap
from pref_dist.data.plan import Rows
from pref_dist.data.prepare import Prepared, prediction_policies
from pref_dist.data.table import TokenTable
from pref_dist.errors import CheckpointError, ConfigError, ModelError
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.infer import InferenceTask, build_task
from pref_dist.evaluate.orders import answer_rows
from pref_dist.evaluate.own_rows import open_own_rows
from pref_dist.evaluate.parts import Work
from pref_dist.evaluate.quantized import check_quantize, quantize_run
from pref_dist.files import read_json
from pref_dist.models.build import build_model
from pref_dist.models.lora import check_base
from pref_dist.models.source import digest_base, find_model_folder
from pref_dist.run_dir import RunDir
from pref_dist.runtime.budgets import settle_evaluation_budget
from pref_dist.runtime.checkpoint import Checkpoint, folder_of_step, list_steps, open_checkpoint, read_weights
from pref_dist.runtime.engine import InferenceEngine
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.precision import resolve_precision

# What may be set anew for a trained run; everything else belongs to its weights.
SETTABLE = ("parallel.", "evaluate.", "data.cache_dir", "data.num_workers", "train.precision")


@dataclass(frozen=True)
class RestoredRun:
    """A run whose weights are on this rank's device. class_shares: (A, B, tie) among its training rows.

    weights: names them, whichever folder they lie in.
    """

    config: RunConfig
    run_dir: RunDir
    step: int
    weights: str
    class_shares: tuple[float, float, float]
    identity: dict[str, Any]  # of the rows it was trained and evaluated on, see train.resume.Identity
    tokenizer: TokenizerSpec
    layout: BatchLayout
    engine: InferenceEngine
    parallel: Parallel

    def open_rows(
        self, path: Path, format: str | None = None, with_labels: bool = True, watch: BuildWatch | None = None
    ) -> TokenTable:
        """Return the token table of any source in the run's own template, tokenizer and length.

        `format` None means the run's data.format. Without `with_labels` label columns are passed over, whatever
        stands in them, and no row fails: see `prediction_policies`. `watch` hears of a build.
        """
        data = self.config.data
        return open_tokens(
            path,
            data if with_labels else data.model_copy(update=prediction_policies(data)),
            self.tokenizer,
            default_cache_dir(self.config),
            format=format,
            order_seed=self.config.run.seed,
            with_labels=with_labels,
            watch=watch,
        )

    def prepare(self, watch: BuildWatch | None = None) -> Prepared:
        """Return the run's own rows, split as in training. Raises DataError if the files have changed since."""
        return open_own_rows(self.config, self.run_dir, self.identity, watch)

    def infer(self, table: TokenTable, rows: Rows, folder: Path | None = None) -> Answers:
        """Return what the model says of `rows`, in their order and as evaluate.swap asks, on every rank; collective.

        folder: where finished batches are kept, so that the same call goes on after an interruption; who has made use
        of the answers removes it. None: nothing is kept.
        """
        task = self.build_task(table, rows)
        work = None if folder is None else self.keep_in(folder, table)
        return answer_rows(task, self.engine.forward, self.parallel, work)

    def build_task(self, table: TokenTable, rows: Rows) -> InferenceTask:
        """Raises PlanError if a row does not fit into evaluate.token_budget."""
        settings = self.config.evaluate
        assert settings.token_budget != "auto", "the config is settled when the run is restored"
        return build_task(table, rows, self.layout, settings.token_budget, settings)

    def keep_in(self, folder: Path, table: TokenTable) -> Work:
        """Return the work of answering rows of a table, whose finished batches are kept in `folder`."""
        depends_on = {
            "table": table.digest,
            "step": self.step,
            "weights": self.weights,
            "layout": repr(self.layout),
            "precision": resolve_precision(self.config.train.precision, self.parallel.device),
            "quantize": self.config.evaluate.quantize,
            "device": name_device(self.parallel.device),
            "software": [__version__, torch.__version__],
        }
        return Work(folder, digest_json(depends_on), Speaker(self.parallel.is_main, sys.stderr).say)


def name_device(device: torch.device) -> str:
    """Return what computes: GPUs of two models round the last bit otherwise."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def read_run_config(run_dir: RunDir, overrides: Iterable[str]) -> RunConfig:
    """Return the run's saved config; back-end and world size are this launch's unless set.

    Raises ConfigError if there is no run, or an override names a setting that its weights depend on.
    """
    run_dir.check_holds_run()
    values = read_config_file(run_dir.config)
    values["parallel"] = {**values.get("parallel", {}), "backend": "auto", "world_size": "auto"}
    for override in overrides:
        if not override.startswith(SETTABLE):
            raise ConfigError(
                f"--set {override}: the weights of a trained run depend on it. Settable here: {', '.join(SETTABLE)}."
            )
        apply_override(values, override)
    config = build_config(values, where=str(run_dir.config))
    check_swap(config.data, "evaluate.swap", config.evaluate.swap)
    return config


def restore_run(config: RunConfig, run_dir: RunDir, checkpoint: str | None, parallel: Parallel) -> RestoredRun:
    """Load the weights of `checkpoint` (best, last or a step; None: best of a finished run) on every rank.

    Raises CheckpointError if the run is unfinished and no checkpoint was named, or the one named is unusable;
    ConfigError or ModelError if evaluate.quantize=int8 cannot or may not be, see `evaluate/quantized.py`.
    """
    found = parallel.broadcast(choose_checkpoint(run_dir, checkpoint) if parallel.is_main else None)
    assert found is not None
    check_quantize(config, parallel)
    budgets = parallel.gather(settle_evaluation_budget(config, parallel.device))
    config = with_values(config, evaluate__token_budget=min(budgets))  # alike, also on unlike GPUs
    module, tokenizer = restore_model(config, run_dir, found, parallel)
    precision = resolve_precision(config.train.precision, parallel.device)
    engine = parallel.build_inference_engine(module, precision, config.parallel.timeout_seconds)
    progress = found.progress
    shares = tuple(progress["class_shares"])
    layout = build_layout(config, tokenizer)
    run = RestoredRun(
        config, run_dir, found.step, digest_json(found.manifest), shares, progress["identity"], tokenizer, layout,
        engine, parallel,
    )  # fmt: skip
    if config.evaluate.quantize == "int8":
        quantize_run(run, module)
    return run


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
