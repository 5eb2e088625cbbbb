"""A trained model for other programs: what `pref_dist.load` returns."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pref_dist.config.load import with_values
from pref_dist.config.schema import RunConfig
from pref_dist.config.train_section import Precision
from pref_dist.data.encode import RowEncoder
from pref_dist.data.given_rows import GivenRows, GivenTable, read_given_rows
from pref_dist.data.layout import BatchLayout, build_layout
from pref_dist.errors import ModelError
from pref_dist.evaluate.infer import build_task, infer_logits
from pref_dist.evaluate.open_model import open_model
from pref_dist.evaluate.restore import read_model_config
from pref_dist.labels import NUM_CLASSES
from pref_dist.metrics import probabilities
from pref_dist.models.recipe import RECIPE, is_export
from pref_dist.run_dir import RunDir
from pref_dist.runtime.budgets import settle_evaluation_budget
from pref_dist.runtime.engine import InferenceEngine
from pref_dist.runtime.parallel import Parallel, stand_alone
from pref_dist.runtime.precision import resolve_precision


@dataclass(frozen=True)
class LoadedModel:
    """A trained model on one device. Columns of what it returns are A, B, tie; rows are as they were given.

    rows: a DataFrame, or dicts, with prompt, response_a and response_b, each a string or a list of turns. They are
    rendered, cut and tokenised as in training, and answered in batches of at most `token_budget` tokens.
    module: the torch model, ready to answer. folder: where its tokenizer lies.
    """

    module: nn.Module
    config: RunConfig
    folder: Path
    token_budget: int
    _encoder: RowEncoder
    _layout: BatchLayout
    _engine: InferenceEngine
    _parallel: Parallel

    def predict(self, rows: GivenRows) -> NDArray[np.float64]:
        """Return the probabilities (R, 3) of A, B and tie; every row sums to 1. Raises DataError as `logits`."""
        logits = self.logits(rows)
        return probabilities(logits.astype(np.float64)) if len(logits) else np.empty((0, NUM_CLASSES))

    def logits(self, rows: GivenRows) -> NDArray[np.float32 | np.float64]:
        """Return the logits (R, 3) of A, B and tie.

        Raises DataError, naming the first ones, if rows cannot be read; PlanError if one exceeds `token_budget`.
        """
        given = read_given_rows(rows)
        if not given:
            return np.empty((0, NUM_CLASSES), dtype=np.float32)
        table = GivenTable(self._encoder.encode(given))
        task = build_task(table, np.arange(len(table), dtype=np.int64), self._layout, self.token_budget)
        return infer_logits(task, self._engine.forward, self._parallel)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer as transformers has it."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.folder), trust_remote_code=False, local_files_only=True)


def load_model(
    folder: Path,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    token_budget: int | None = None,
    checkpoint: str | None = None,
) -> LoadedModel:
    """Open an exported folder or a run folder; see `pref_dist.load`."""
    parallel = stand_alone(device)
    run_dir, config = RunDir(folder), read_settings(folder, precision)
    with torch.random.fork_rng(devices=[]):  # building draws numbers, and the caller's stay as they are
        opened = open_model(config, run_dir, checkpoint, parallel)
    in_use = resolve_precision(config.train.precision, parallel.device)
    engine = parallel.build_inference_engine(opened.module, in_use, config.parallel.timeout_seconds)
    data, layout = config.data, build_layout(config, opened.tokenizer)
    encoder = RowEncoder(opened.tokenizer, data.max_tokens, data.template, data.truncation, data.clean)
    settled = settle_evaluation_budget(config, parallel.device)
    budget = token_budget or max(settled, layout.num_sequences * data.max_tokens)
    return LoadedModel(opened.module, config, opened.home, budget, encoder, layout, engine, parallel)


def read_settings(folder: Path, precision: Precision | None) -> RunConfig:
    """Return the settings of an exported model or of a run. Raises ModelError."""
    if not is_export(folder) and not RunDir(folder).config.is_file():
        raise ModelError(
            f"{folder} is neither an exported model (it has no {RECIPE}) nor a run folder (it has no config.yaml). "
            "Name what `pref-dist export RUN OUT` has written, or a run folder."
        )
    config = read_model_config(RunDir(folder), ())
    return config if precision is None else with_values(config, train__precision=precision)
