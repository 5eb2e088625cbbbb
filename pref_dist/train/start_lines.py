"""What a run says before its first step: what will happen, and how much memory it takes."""

from typing import TYPE_CHECKING

from torch import nn

from pref_dist.config.schema import RunConfig
from pref_dist.data.truncation_audit import describe_cuts
from pref_dist.evaluate.infer import InferenceTask
from pref_dist.models.build import BuiltModel, count_parameters
from pref_dist.models.sizes import measure_module
from pref_dist.optim import trained_parameters
from pref_dist.runtime.memory_estimate import Sharing, StateBytes, estimate_state, read_zero_section
from pref_dist.runtime.parallel import Parallel
from pref_dist.train.evaluations import warn_of_few_evaluations

if TYPE_CHECKING:
    from pref_dist.train.assemble import PlannedRows


def describe_start(
    config: RunConfig, planned: "PlannedRows", built: BuiltModel, validation: InferenceTask, parallel: Parallel
) -> str:
    """Return the lines that say, before the first step, what will happen."""
    prepared, plan = planned.prepared, planned.plan
    taught = planned.teacher.warnings if planned.teacher is not None else []
    warnings = [*prepared.warnings, *taught, *warn_of_few_evaluations(config, plan)]
    tokens = int(plan.lengths.sum() if plan.num_tokens is None else plan.num_tokens.sum())
    set_aside, cuts = len(prepared.set_aside), describe_cuts(prepared.truncation)
    return "\n".join(
        (
            f"rows       {len(plan.rows):,} to train, {len(validation.rows):,} to evaluate, {set_aside:,} set aside",
            *([f"cut        {cuts}"] if cuts else []),
            f"steps      {plan.num_steps:,} of {plan.rows_per_step} rows "
            f"({plan.steps_per_epoch:,} an epoch, {tokens:,} tokens an epoch)",
            f"batches    of at most {plan.token_budget:,} tokens, in evaluation {validation.token_budget:,}",
            f"model      {config.model.name}, {describe_size(built.module)}, {config.train.precision}, "
            f"{describe_attention(built.attention)}",
            *(f"start      {note}" for note in built.notes),
            f"ranks      {parallel.world_size} x {parallel.device.type}, {parallel.backend}",
            f"run        {config.run.dir}",
            *(f"WARNING    {warning}" for warning in warnings),
        )
    )


def describe_attention(attention: str) -> str:
    """Return in words what `settle_attention` has decided."""
    return {"packed": "rows packed without padding", "fast": "rows padded, fast attention"}.get(
        attention, "rows padded"
    )


def describe_size(module: nn.Module) -> str:
    """Return how many parameters there are, and how many of them are trained where not all are."""
    total, trained = count_parameters(module), sum(value.numel() for _, value in trained_parameters(module))
    size = f"{total / 1e6:.1f}M parameters"
    return size if trained == total else f"{size} ({trained / 1e6:.2f}M trained)"


def foresee_state(parallel: Parallel, module: nn.Module, config: RunConfig) -> StateBytes:
    """Return what a model, which no back-end has shared out yet, and its optimiser will take of a rank's memory."""
    precision = config.train.precision
    assert precision != "auto", "the config is settled before"
    zero_section = read_zero_section(parallel.topology.zero_file)
    return estimate_state(
        measure_module(module), Sharing(parallel.backend, parallel.world_size, precision, zero_section)
    )
