"""Opens a trained run, or an exported model, for evaluation or prediction."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pref_dist import __version__
from pref_dist.config.load import apply_override, build_config, read_config_file, with_values
from pref_dist.config.schema import RunConfig
from pref_dist.data.cache import default_cache_dir, open_tokens
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.cache_entry import digest_json
from pref_dist.data.encode import TokenizerSpec
from pref_dist.data.layout import BatchLayout, build_layout
from pref_dist.data.orders import check_swap
from pref_dist.data.plan import Rows
from pref_dist.data.prepare import Prepared, prediction_policies
from pref_dist.data.table import TokenTable
from pref_dist.errors import ConfigError, ModelError
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.infer import InferenceTask, build_task
from pref_dist.evaluate.open_model import open_model
from pref_dist.evaluate.orders import answer_rows
from pref_dist.evaluate.own_rows import open_own_rows
from pref_dist.evaluate.parts import Work
from pref_dist.evaluate.quantized import check_quantize, quantize_run
from pref_dist.models.recipe import RECIPE, is_export, read_recipe
from pref_dist.models.source import digest_base
from pref_dist.run_dir import RunDir
from pref_dist.runtime.budgets import settle_evaluation_budget
from pref_dist.runtime.engine import InferenceEngine
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.machine import name_device
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.precision import resolve_precision

# What may be set anew for a trained run; everything else belongs to its weights.
SETTABLE = ("parallel.", "evaluate.", "data.cache_dir", "data.num_workers", "train.precision")


@dataclass(frozen=True)
class RestoredRun:
    """A run, or an exported model, whose weights are on this rank's device. The fields of OpenedModel: see there."""

    config: RunConfig
    run_dir: RunDir
    step: int
    weights: str
    class_shares: tuple[float, float, float]
    identity: dict[str, Any]
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


def read_run_config(run_dir: RunDir, overrides: Iterable[str]) -> RunConfig:
    """Return the run's saved config; back-end and world size are this launch's unless set.

    Raises ConfigError if there is no run, or an override names a setting that its weights depend on.
    """
    if is_export(run_dir.root):
        raise ConfigError(
            f"{run_dir.root} is an exported model and no run: only `predict` and pref_dist.load take it. Name the run."
        )
    run_dir.check_holds_run()
    values = read_config_file(run_dir.config)
    values["parallel"] = {**values.get("parallel", {}), "backend": "auto", "world_size": "auto"}
    return build_changed(values, overrides, where=run_dir.config)


def read_model_config(run_dir: RunDir, overrides: Iterable[str]) -> RunConfig:
    """Return the settings of a run, or of an exported model, whose model.name is its folder; raises as the former.

    Raises ModelError if `pref_dist.json` is damaged, or of another version.
    """
    recipe = read_recipe(run_dir.root)
    if recipe is None:
        return read_run_config(run_dir, overrides)
    values = recipe.config.model_dump(mode="json", exclude_unset=True)
    return build_changed(values, overrides, where=run_dir.root / RECIPE)


def build_changed(values: dict[str, Any], overrides: Iterable[str], where: Path) -> RunConfig:
    for override in overrides:
        if not override.startswith(SETTABLE):
            raise ConfigError(
                f"--set {override}: the weights of a trained run depend on it. Settable here: {', '.join(SETTABLE)}."
            )
        apply_override(values, override)
    config = build_config(values, where=str(where))
    check_swap(config.data, "evaluate.swap", config.evaluate.swap)
    return config


def restore_run(config: RunConfig, run_dir: RunDir, checkpoint: str | None, parallel: Parallel) -> RestoredRun:
    """Load the weights of a run's checkpoint, or of an exported folder, on every rank; see `open_model`.

    Raises also ConfigError or ModelError if evaluate.quantize=int8 cannot or may not be, see `evaluate/quantized.py`.
    """
    check_quantize(config, parallel)
    if config.evaluate.quantize != "none" and is_export(run_dir.root):
        raise ConfigError(
            f"evaluate.quantize={config.evaluate.quantize} is measured on held-out rows first, and {run_dir.root}, an "
            "exported model, has none. Name the run folder, or set it to none."
        )
    budgets = parallel.gather(settle_evaluation_budget(config, parallel.device))
    config = with_values(config, evaluate__token_budget=min(budgets))  # alike, also on unlike GPUs
    opened = open_model(config, run_dir, checkpoint, parallel)
    if opened.class_shares is None:
        raise ModelError(
            f"{run_dir.root} was exported before class shares were kept, which rows get that no model can read. "
            "Export the run again."
        )
    precision = resolve_precision(config.train.precision, parallel.device)
    engine = parallel.build_inference_engine(opened.module, precision, config.parallel.timeout_seconds)
    layout = build_layout(config, opened.tokenizer)
    weights = opened.weights
    if weights is None:
        weights = parallel.broadcast(digest_base(run_dir.root) if parallel.is_main else "")
    run = RestoredRun(
        config, run_dir, opened.step, weights, opened.class_shares, opened.identity, opened.tokenizer, layout,
        engine, parallel,
    )  # fmt: skip
    if config.evaluate.quantize == "int8":
        quantize_run(run, opened.module)
    return run
