"""Debug mode: one process, few rows, everything shown, and the module named where the first NaN arose."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from pref_dist.data.batches import build_batch
from pref_dist.data.plan import PlannedStep
from pref_dist.data.templates import segment_names
from pref_dist.errors import TrainingError
from pref_dist.losses import cross_entropy, share_of_step
from pref_dist.models.build import describe_parameters
from pref_dist.train.assemble import Assembled
from pref_dist.train.step import weigh_step

SHOWN_ROWS = 3
OVERFIT_GOAL = 0.05  # nats
OVERFIT_MOST_UPDATES = 300
OVERFIT_LEARNING_RATE_FACTOR = 5.0  # of the run's peak: one step's rows bear, and need, a quicker pace


def show_run(run: Assembled) -> None:
    """Say the parameter table, the first step's batch shapes, and the first rows as tokens."""
    run.speaker.say(render_parameters(run.built.module))
    planned = next(run.plan.steps())
    for micro_batch in planned.micro_batches:
        batch = build_batch(run.train_table, micro_batch, run.layout)
        tensors = {name: value for name, value in batch.inputs.items() if isinstance(value, Tensor)}
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        run.speaker.say(f"step 1, micro-batch {micro_batch.index}: {shapes}, target {tuple(batch.target.shape)}")
    for row in run.plan.rows[:SHOWN_ROWS]:
        run.speaker.say(render_row(run, int(row)))


def render_parameters(module: nn.Module) -> str:
    lines = [f"{name:<70} {shape!s:<16} {count:>12,}" for name, shape, count in describe_parameters(module)]
    return "parameters\n" + "\n".join(lines)


def render_row(run: Assembled, row: int) -> str:
    """Return one row as its decoded tokens, a line a segment, with its target."""
    table = run.train_table
    ids, target = table.input_ids(row), table.training_targets[row]
    vocabulary = Tokenizer.from_str(run.prepared.tokenizer.json)
    lines, start = [], 0
    for name, end in zip(segment_names(run.config.data.template), table.segment_ends[row], strict=True):
        tokens = [str(vocabulary.id_to_token(int(token))) for token in ids[start:end]]
        lines.append(f"  {name:<10} [{start:>4}:{end:>4}] {' '.join(tokens)}")
        start = int(end)
    name = f"row {table.row_numbers[row]} (id {table.ids[row].as_py()})"
    header = f"{name}: {len(ids)} tokens, target A/B/tie {target.tolist()}"
    return "\n".join((header, *lines))


@contextmanager
def debugging(run: Assembled, enabled: bool) -> Iterator[None]:
    """Within it a NaN or Inf raises TrainingError that names the module (forward) or operation (backward)."""
    if not enabled:
        yield
        return
    handles = [
        module.register_forward_hook(name_first_nan(name or "the model"))
        for name, module in run.built.module.named_modules()
    ]
    try:
        # Without its own check for NaN: that one would name no module and count a legal fp16 overflow.
        with torch.autograd.set_detect_anomaly(True, check_nan=run.config.train.precision != "fp16"):
            yield
    except RuntimeError as error:
        if "nan values" in str(error):
            raise TrainingError(f"Step {run.progress.step + 1}, backward: {error}") from error
        raise
    finally:
        for handle in handles:
            handle.remove()


def name_first_nan(name: str) -> Callable[[nn.Module, Any, Any], None]:
    def check(module: nn.Module, _: Any, output: Any) -> None:
        for tensor in tensors_in(output):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"The first value that is not finite arose in the output of '{name}' ({type(module).__name__}), "
                    f"shape {tuple(tensor.shape)}. Its inputs were finite, or came from outside any module."
                )

    return check


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of a module's output: a tensor, a tuple of them, or a transformers output."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors_in(value)


def overfit_one_step(run: Assembled) -> dict[str, Any]:
    """Train on the first step's rows alone until their loss is under OVERFIT_GOAL.

    Returns {loss, updates}. Raises TrainingError if it does not get there: then the model does not
    see its input, or the labels, or does not learn.
    """
    planned = next(run.plan.steps())
    loss = float("nan")
    run.engine.train()
    for update in range(OVERFIT_MOST_UPDATES):
        loss = update_on(run, planned)
        if loss < OVERFIT_GOAL:
            run.speaker.say(
                f"The first step's {planned.num_rows} rows were learned: loss {loss:.4f} after {update} updates."
            )
            return {"loss": loss, "updates": update}
    raise TrainingError(
        f"The first step's {planned.num_rows} rows were not learned: loss {loss:.4f} after {OVERFIT_MOST_UPDATES} "
        f"updates, not under {OVERFIT_GOAL}. Are there rows with the same text and other labels? Is "
        f"train.learning_rate={run.config.train.learning_rate} far too low or too high?"
    )


def update_on(run: Assembled, planned: PlannedStep) -> float:
    """Take one update on all micro-batches of a step; return its loss from before the update."""
    total = 0.0
    for place, micro_batch in enumerate(planned.micro_batches):
        batch = build_batch(run.train_table, micro_batch, run.layout).to(run.parallel.device)
        row_losses = cross_entropy(run.engine.forward(batch.inputs), batch.target)
        loss = share_of_step(row_losses, batch.weight, global_weight=weigh_step(run.train_table, planned))
        run.engine.backward(loss, is_last=place == len(planned.micro_batches) - 1)
        total += float(loss.detach())
    run.engine.step(OVERFIT_LEARNING_RATE_FACTOR)
    return total
