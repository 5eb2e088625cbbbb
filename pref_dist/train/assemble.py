"""Puts a run together: rows, plan, model, engine, and the place where it goes on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pref_dist.config.schema import EvaluateSection, RunConfig
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.layout import BatchLayout, build_layout, check_template
from pref_dist.data.leaks import TrainedRows, gather_trained_rows
from pref_dist.data.plan import Plan, Rows, check_budget
from pref_dist.data.prepare import Prepared, prepare
from pref_dist.data.pseudo_labels import teachers_of
from pref_dist.data.table import TokenTable
from pref_dist.evaluate.infer import InferenceTask, build_task
from pref_dist.models.build import (
    BuiltModel,
    describe_parameters,
)
from pref_dist.models.compiling import compile_layers
from pref_dist.models.lora import check_base
from pref_dist.models.model_config import check_positions
from pref_dist.models.recompute import recompute_activations
from pref_dist.models.row_embedding import check_row_updates, collect_gradient_by_rows, takes_row_gradients
from pref_dist.models.source import digest_base
from pref_dist.optim import OptimizerSettings, build_parameter_groups
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import Checkpoint
from pref_dist.runtime.checkpoint_writer import CheckpointWriter, measure_state
from pref_dist.runtime.engine import Engine, EngineSettings
from pref_dist.runtime.log import MetricsLog, Speaker
from pref_dist.runtime.memory_estimate import StateBytes
from pref_dist.runtime.parallel import Parallel, WatchBatches
from pref_dist.train.distill import Teacher, find_teacher
from pref_dist.train.resume import Identity, Progress, identify, restore
from pref_dist.train.stages import build_start, find_start_folder
from pref_dist.train.start_lines import describe_start, foresee_state

DEBUG_ROWS = 64


@dataclass(frozen=True)
class TrainOptions:
    """What one start of a run may ask for besides its config.

    fresh: delete what an earlier run left. accept_changes: go on although settings or rows changed.
    limit: only the first so many rows of each side. debug: see train/debug.py.
    lines_to_stderr: what people read goes there, so that standard output holds the result alone.
    show_step: hears on rank 0 of each step, its line of metrics.jsonl with num_steps of the run; show_scores of each
    evaluation; watch_build of a token cache that has to be built; watch_batches of how far an evaluation is.
    """

    fresh: bool = False
    accept_changes: bool = False
    limit: int | None = None
    debug: bool = False
    overfit_one_step: bool = False
    lines_to_stderr: bool = False
    show_step: Callable[[dict[str, Any]], None] = lambda record: None
    show_scores: Callable[[dict[str, Any]], None] = lambda record: None
    watch_build: BuildWatch | None = None
    watch_batches: WatchBatches | None = None

    @property
    def is_anew(self) -> bool:
        """Whether what an earlier start left is to be deleted; self-checks have a folder of their own."""
        return self.fresh or self.debug or self.overfit_one_step

    @property
    def is_partial(self) -> bool:
        """Whether the run is not one of all rows from beginning to end."""
        return self.debug or self.overfit_one_step or self.limit is not None

    @property
    def num_rows(self) -> int | None:
        return (self.limit or DEBUG_ROWS) if self.debug else self.limit


@dataclass
class Assembled:
    """Everything the loop works with. state_bytes: what model and optimiser take of this rank's memory."""

    config: RunConfig
    run_dir: RunDir
    parallel: Parallel
    speaker: Speaker
    options: TrainOptions
    rows: "PlannedRows"
    built: BuiltModel
    engine: Engine
    validation: InferenceTask
    metrics_log: MetricsLog
    progress: Progress
    writer: CheckpointWriter
    state_bytes: StateBytes

    @property
    def prepared(self) -> Prepared:
        return self.rows.prepared

    @property
    def plan(self) -> Plan:
        return self.rows.plan

    @property
    def layout(self) -> BatchLayout:
        return self.rows.layout

    @cached_property
    def class_shares(self) -> list[float]:
        """Shares of A, B and tie among the training rows: what is known of a row without reading it."""
        rows, table = self.plan.rows, self.train_table
        shares = np.average(table.training_targets[rows], axis=0, weights=table.weights[rows])
        return [float(share) for share in shares]

    @cached_property
    def trained_rows(self) -> TrainedRows:
        """What the weights will have learnt from; rank 0 asks for it as the run begins."""
        goes_on = self.progress.step > 0
        teachers = teachers_of(self.prepared.pseudo_sources)
        return gather_trained_rows(self.config, self.train_table, self.plan.rows, teachers, goes_on)

    @property
    def train_table(self) -> TokenTable:
        return self.prepared.train_table

    @property
    def valid_table(self) -> TokenTable:
        return self.prepared.valid_table


@dataclass(frozen=True)
class PlannedRows:
    """What a run will train on, before there is a model: its files as tokens and the order of its rows."""

    folder: Path
    prepared: Prepared
    layout: BatchLayout
    plan: Plan
    identity: Identity
    evaluation: EvaluateSection
    teacher: Teacher | None = None


def plan_rows(
    config: RunConfig,
    parallel: Parallel,
    limit: int | None,
    watch: BuildWatch | None = None,
    copies: Path | None = None,
) -> PlannedRows:
    """Open the rows and plan them; every rank for itself, then all compare.

    `copies` of the model's config and tokenizer serve a run that goes on where model.name is gone. Raises
    PrefDistError of the kind that fits, ParallelError if the ranks do not see the same rows.
    """
    check_template(config)
    lora, precision = config.model.lora, config.train.precision
    assert precision != "auto", "the config is settled before"
    check_base(lora, precision, parallel.backend, parallel.device)
    check_row_updates(config.model.embeddings, precision, parallel.backend)
    folder = find_start_folder(config, copies)
    check_positions(config.model, folder, config.data.max_tokens)
    prepared = prepare(config, folder, watch)
    layout = build_layout(config, prepared.tokenizer)
    plan = build_plan(config, prepared, layout, limit)
    teacher = None if config.train.distill is None else find_teacher(config.train.distill, prepared)
    identity = identify(prepared, plan, teacher, base=digest_base(folder) if config.model.has_frozen_weights else None)
    parallel.check_agreement({f"the rows ({key})": str(value) for key, value in asdict(identity).items()})
    return PlannedRows(folder, prepared, layout, plan, identity, config.evaluate, teacher)


def assemble(
    config: RunConfig,
    rows: PlannedRows,
    checkpoint: Checkpoint | None,
    parallel: Parallel,
    speaker: Speaker,
    options: TrainOptions,
) -> Assembled:
    """Build the model and its engine and set them to the checkpoint; collective. Nothing is written yet."""
    run_dir = RunDir(Path(config.run.dir))
    tokenizer = rows.prepared.tokenizer
    built = build_start(config, rows.folder, tokenizer.vocab_size, checkpoint, parallel)
    parallel.check_agreement({name: str(shape) for name, shape, _ in describe_parameters(built.module)})
    validation = build_validation(rows, options.num_rows)
    writer = CheckpointWriter(
        run_dir.checkpoints, parallel, measure_state(built.module), config.train.async_save,
        config.parallel.timeout_seconds,
    )  # fmt: skip
    # Before the engine shares the model out among the ranks.
    speaker.say(describe_start(config, rows, built, validation, parallel))
    state_bytes = foresee_state(parallel, built.module, config)
    engine = build_engine(config, built, parallel)
    progress = restore(checkpoint, run_dir, engine)
    return Assembled(
        config, run_dir, parallel, speaker, options, rows, built, engine, validation,
        MetricsLog(run_dir.metrics_log, parallel.is_main), progress, writer, state_bytes,
    )  # fmt: skip


def build_plan(config: RunConfig, prepared: Prepared, layout: BatchLayout, limit: int | None) -> Plan:
    train = config.train
    assert train.micro_batch_multiple != "auto", "the config is settled before the plan is made"
    assert train.token_budget != "auto"
    rows = take_first(prepared.train_rows, limit)
    table = prepared.train_table
    # The plan would name positions; here the rows' numbers in their file are known.
    lengths = layout.padded_lengths(table)[rows]
    check_budget(table.row_numbers[rows], lengths, train.token_budget, "train.token_budget", layout.num_sequences)
    return Plan(
        rows=rows,
        lengths=lengths,
        rows_per_step=train.rows_per_step,
        token_budget=train.token_budget,
        micro_batch_multiple=train.micro_batch_multiple,
        seed=config.run.seed,
        epochs=train.epochs,
        max_steps=train.max_steps,
        swap=train.swap,
        shares_orders=layout.num_sequences == 2,
        num_tokens=table.lengths[rows],
    )


def take_first(rows: Rows, limit: int | None) -> Rows:
    return rows if limit is None else rows[:limit]


def build_validation(planned: PlannedRows, limit: int | None = None) -> InferenceTask:
    rows = take_first(planned.prepared.valid_rows, limit)
    settings = planned.evaluation
    assert settings.token_budget != "auto", "the config is settled before the rows are planned"
    return build_task(planned.prepared.valid_table, rows, planned.layout, settings.token_budget, settings)


def build_engine(config: RunConfig, built: BuiltModel, parallel: Parallel) -> Engine:
    train = config.train
    assert train.precision != "auto", "the config is settled before the engine is built"
    # On a GPU looking for the rows would be to wait for it, and a dense gradient takes it a few milliseconds.
    if parallel.device.type == "cpu" and takes_row_gradients(train.precision, parallel.backend):
        collect_gradient_by_rows(built.module)
    groups = build_parameter_groups(
        built.module,
        built.head_names,
        OptimizerSettings(train.learning_rate, train.head_learning_rate, train.weight_decay, train.layer_decay),
    )
    settings = EngineSettings(
        train.precision, train.clip_norm, train.initial_loss_scale, train.loss_scale_growth_interval
    )
    if config.parallel.activation_checkpointing:
        recompute_activations(built.module)
    if config.parallel.compile:
        compile_layers(built.module)
    return parallel.build_engine(built.module, groups, settings, config.parallel.timeout_seconds)
